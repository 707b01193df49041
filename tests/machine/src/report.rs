//! How a test says that it could not run here.

use std::{env, fs::OpenOptions, io::Write, thread};

/// Names the file that collects what did not run; `./x test` sets it and prints the file at the end.
pub const DID_NOT_RUN_VARIABLE: &str = "TRAPLINE_DID_NOT_RUN";

/// Records that `what` did not run, and why, so that no test is skipped without a word.
///
/// Under `./x test` the line appears in the list at the end of the run, unless another test says of the
/// same `what` that it [`ran_after_all`]. Elsewhere it goes to standard error, which the test runner
/// shows on request.
pub fn did_not_run(what: &str, why: &str) {
    let line = format!("{what}: {}\n", why.replace('\n', " "));
    eprint!("did not run: {line}");
    record(&line);
}

/// Records that `what` ran after all, in another place than the test that said [`did_not_run`] of it.
pub fn ran_after_all(what: &str) {
    record(&format!("ran: {what}\n"));
}

fn record(line: &str) {
    let Some(path) = env::var_os(DID_NOT_RUN_VARIABLE) else {
        return;
    };
    // One write of one line to a file opened for appending is not torn by other test processes.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("{}: {error}", path.display());
    }
}

/// Records that the running test could not do what it is about, and why. As [`did_not_run`], with the
/// test's own name.
pub fn this_did_not_run(why: &str) {
    did_not_run(&running_test(), why);
}

/// The name of the running test, which Rust's test runner gives to its thread, or else of the program.
fn running_test() -> String {
    let thread = thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => program(),
    }
}

fn program() -> String {
    let program = env::current_exe().ok();
    let name = program.as_deref().and_then(|path| path.file_stem());
    // A test's program ends in a hyphen and a hash of how it was built.
    let name = name.map_or_else(|| "a test".into(), |name| name.to_string_lossy());
    let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
    format!("a test of {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_knows_its_name() {
        let name = running_test();
        let own = "report::tests::a_test_knows_its_name";
        // With one test at a time the runner makes no thread for it.
        assert!(
            name == own || name == "a test of trapline_test_machine",
            "{name}"
        );
    }
}
