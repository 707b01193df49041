//! The steps that run tests.

use core::fmt;
use std::{
    io::{self, BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use trapline_test_machine::DID_NOT_RUN_VARIABLE;

use super::{Context, layers};
use crate::command::{cargo, output, shown, succeed};

/// How long `--long` fuzzes each target, in seconds.
const FUZZ_SECONDS: u32 = 120;

/// How many tests there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

impl Counts {
    /// Takes `count` tests that could not run here, and so passed with nothing done, from those that passed.
    pub(super) fn skip(&mut self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX).min(self.passed);
        self.passed -= count;
        self.skipped += count;
    }

    /// Adds what a closing line of cargo test or cargo nextest says; other lines say nothing.
    ///
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; …` and
    /// `     Summary [   1.2s] 4 tests run: 3 passed (1 slow), 1 failed, 2 skipped`.
    fn add(&mut self, line: &str) {
        let line = line.trim_start();
        let is_nextest = line.starts_with("Summary [");
        if !is_nextest && !line.starts_with("test result:") {
            return;
        }
        let words: Vec<_> = line.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.trim_start_matches('(').parse::<u64>() else {
                continue;
            };
            match what.trim_end_matches([',', ';']) {
                "passed" => self.passed += number,
                "failed" | "timed" => self.failed += number,
                // With a filter, what nextest skips is what the filter leaves out.
                "ignored" => self.skipped += number,
                "skipped" if is_nextest => self.skipped += number,
                _ => {}
            }
        }
    }
}

/// The tests of every package but the end-to-end tests.
pub(super) fn unit(context: &mut Context<'_>) -> Result<()> {
    let end_to_end = layers::package_in("tests/e2e")?;
    run(context, &["--workspace", "--exclude", &end_to_end])
}

/// Real debuggers against real guests.
pub(super) fn end_to_end(context: &mut Context<'_>) -> Result<()> {
    if !context.scope.long {
        let what = "1,000,000 steps against QEMU's record, instead of 9,000";
        context
            .left_out
            .step(format!("{what}: only ./x test --long runs them"));
    }
    let end_to_end = layers::package_in("tests/e2e")?;
    run(context, &["--package", &end_to_end])
}

/// The examples in the documentation; nextest does not run them.
pub(super) fn documentation(context: &mut Context<'_>) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--doc", "--workspace", "--locked"]);
    counted(context, &mut command).map(drop)
}

/// Each fuzz target on its seeds and a fixed number of mutations of them, with the stable toolchain; with
/// `--long` also as libFuzzer runs them, where there is a nightly toolchain.
pub(super) fn fuzz(context: &mut Context<'_>) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--locked",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]);
    counted(context, &mut command)?;
    if !context.scope.long {
        context
            .left_out
            .step("libFuzzer campaigns: only ./x test --long runs them".to_owned());
        return Ok(());
    }
    campaigns(context)
}

fn campaigns(context: &mut Context<'_>) -> Result<()> {
    if output(Command::new("cargo").args(["+nightly", "--version"])).is_err() {
        context
            .left_out
            .step("libFuzzer campaigns: rustup has no nightly toolchain".to_owned());
        return Ok(());
    }
    let nightly = |arguments: &[&str]| {
        let mut command = crate::command::command("cargo");
        // Cargo tells its children which cargo and toolchain runs; `+nightly` is another one.
        command
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .arg("+nightly")
            .args(arguments);
        command
    };
    if output(&mut nightly(&["fuzz", "--version"])).is_err() {
        succeed(&mut nightly(&["install", "--locked", "cargo-fuzz"]))?;
    }
    let targets = output(&mut nightly(&["fuzz", "list"]))?;
    let limit = format!("-max_total_time={FUZZ_SECONDS}");
    for target in targets.lines() {
        println!("    {target}, {FUZZ_SECONDS} s");
        succeed(&mut nightly(&[
            "fuzz",
            "run",
            target,
            "--",
            &limit,
            "-print_final_stats=1",
        ]))?;
    }
    Ok(())
}

/// Runs tests with nextest where it is, and with cargo's own runner where it is not.
fn run(context: &mut Context<'_>, packages: &[&str]) -> Result<()> {
    let has_nextest = output(cargo().args(["nextest", "--version"])).is_ok();
    let mut command = cargo();
    if has_nextest {
        command.args([
            "nextest",
            "run",
            "--locked",
            "--no-fail-fast",
            "--no-tests=pass",
        ]);
        command.args(packages).args(&context.scope.filters);
    } else {
        command
            .args(["test", "--tests", "--locked", "--no-fail-fast"])
            .args(packages)
            .arg("--");
        command.args(&context.scope.filters);
    }
    counted(context, &mut command).map(drop)
}

/// Runs tests, shows what they say on our standard output, counts them, and yields what they said.
pub(super) fn counted(context: &mut Context<'_>, command: &mut Command) -> Result<String> {
    let programs = context
        .programs
        .as_ref()
        .context("the release programs were not built")?;
    let line = shown(command);
    println!("    $ {line}");
    let (reader, writer) = io::pipe()?;
    command
        .env("TRAPLINE_PROGRAMS", programs)
        .env(DID_NOT_RUN_VARIABLE, context.left_out.file())
        .env("TRAPLINE_LONG", if context.scope.long { "1" } else { "" })
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    // Our own copies of the pipe's writing end go with the command, or its end would never be seen.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut said = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        context.counts.add(&line);
        println!("{line}");
        said.push_str(&line);
        said.push('\n');
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[&str]) -> Counts {
        let mut counts = Counts::default();
        lines.iter().for_each(|line| counts.add(line));
        counts
    }

    #[test]
    fn closing_lines_of_both_runners_are_added() {
        let counts = counts(&[
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.0s",
            "     Summary [   1.2s] 6 tests run: 4 passed (1 slow), 1 failed, 1 timed out, 2 skipped",
            "test something_1 passed ... ok",
            "5 passed",
        ]);
        assert_eq!(
            counts,
            Counts {
                passed: 7,
                failed: 2,
                skipped: 3
            }
        );
        assert_eq!(counts.to_string(), "7 passed, 2 failed, 3 skipped");
    }
}
