//! The tests of the KVM backend once more, on emulated hardware, where this computer's own KVM lacks something.
//!
//! A KVM that interprets guests has no watchpoints, and does not halt as hardware does; the emulated machine's
//! has and does. What a test could do there is taken from the list of what did not run.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use serde_json::Value;
use trapline_test_machine::{DID_NOT_RUN_VARIABLE, Environment, HostKvm};

use super::{Context, runs};
use crate::command::{cargo, output};

/// The package whose tests are about KVM itself.
const PACKAGE: &str = "trapline-kvm";
/// Where, in the machine, tests say what they could not do.
const LEFT_OUT: &str = "/tmp/did-not-run";
/// What its lines begin with in the output.
const LEFT_OUT_THERE: &str = "did not run in the machine: ";

/// Runs the tests of the KVM backend in an emulated machine, unless this computer has real hardware.
pub(super) fn check(context: &mut Context<'_>) -> Result<()> {
    let host = HostKvm::probe();
    if host.runs_stock_kernel() {
        println!("    not needed: {}", host.describe());
        return Ok(());
    }
    let environment = Environment::load();
    if let Err(error) = environment.qemu().and(environment.kernel()) {
        let line = format!("tests of {PACKAGE} on emulated hardware: {error}");
        context.left_out.step(line);
        return Ok(());
    }
    let programs = test_programs()?;
    let mut command = cargo();
    command
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "trapline-test-machine",
        ])
        .args(["--example", "machine", "--"])
        .arg(script(&programs, &context.scope.filters))
        .args(&programs);
    let said = runs::counted(context, &mut command)?;
    for test in done(&said) {
        context.left_out.ran_after_all(test);
    }
    Ok(())
}

/// The programs of the package's tests, built.
fn test_programs() -> Result<Vec<String>> {
    let mut build = cargo();
    build.args(["test", "--no-run", "--tests", "--locked", "--quiet"]);
    build.args(["--package", PACKAGE, "--message-format", "json"]);
    Ok(executables(&output(&mut build)?))
}

/// The executables that cargo's messages, one JSON value a line, tell of.
fn executables(messages: &str) -> Vec<String> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(str::to_owned))
        .collect()
}

/// What the machine's shell does: each program in turn, and what they left out.
fn script(programs: &[String], filters: &[String]) -> String {
    let filters: String = filters.iter().map(|text| format!(" '{text}'")).collect();
    let mut script = format!("export {DID_NOT_RUN_VARIABLE}={LEFT_OUT}; status=0; ");
    for program in programs {
        let name = Path::new(program).file_name().unwrap_or_default();
        script += &format!("/{}{filters} 2>&1 || status=1; ", name.display());
    }
    script + &format!("touch {LEFT_OUT}; sed 's/^/{LEFT_OUT_THERE}/' {LEFT_OUT}; exit $status")
}

/// The tests that passed and left nothing out.
fn done(said: &str) -> impl Iterator<Item = &str> {
    let left_out = said
        .lines()
        .filter_map(|line| line.strip_prefix(LEFT_OUT_THERE));
    let left_out: BTreeSet<_> = left_out
        .filter_map(|line| Some(line.split_once(": ")?.0))
        .collect();
    let passed = said
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... ok"));
    passed.filter(move |test| !left_out.contains(test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_whole_is_done() {
        let said = "test a::b ... ok\ntest a::c ... ok\ntest d ... FAILED\n\
                    did not run in the machine: a::c: no reason\n";
        assert_eq!(done(said).collect::<Vec<_>>(), ["a::b"]);
    }

    #[test]
    fn the_machine_runs_each_program_with_the_filters() {
        let script = script(
            &["/t/deps/x-1".into(), "/t/deps/y-2".into()],
            &["one".into()],
        );
        assert!(script.contains("/x-1 'one' 2>&1"), "{script}");
        assert!(script.contains("/y-2 'one' 2>&1"), "{script}");
    }

    #[test]
    fn executables_are_read_from_messages() {
        let messages = "{\"executable\":\"/t/x\"}\n{\"executable\":null}\nnoise\n";
        assert_eq!(executables(messages), ["/t/x"]);
    }
}
