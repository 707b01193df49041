//! How a test says that it could not run here.

use std::{env, fs::OpenOptions, io::Write};

/// Names the file that collects what did not run; `./x test` sets it and prints the file at the end.
pub const DID_NOT_RUN_VARIABLE: &str = "TRAPLINE_DID_NOT_RUN";

/// Records that `what` did not run, and why, so that no test is skipped without a word.
///
/// Under `./x test` the line appears in the list at the end of the run. Elsewhere it goes to standard
/// error, which the test runner shows on request.
pub fn did_not_run(what: &str, why: &str) {
    let line = format!("{what}: {}\n", why.replace('\n', " "));
    eprint!("did not run: {line}");
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
