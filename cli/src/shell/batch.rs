//! Commands from the command line or from a pipe, with plain output.

use std::io::BufRead;
use std::process::ExitCode;

use super::session::{Failure, Flow, Session};

/// Carries out lines up to the first that fails.
///
/// # Errors
/// What kept a line from being carried out; the line is named where that is not clear.
pub(super) fn run(
    session: &mut Session,
    lines: impl Iterator<Item = std::io::Result<String>>,
) -> anyhow::Result<ExitCode> {
    for line in lines {
        let line = line.map_err(|error| anyhow::anyhow!("cannot read the commands: {error}"))?;
        match session.execute(&line) {
            Ok(Flow::Continue) => {}
            Ok(Flow::Leave) => break,
            Err(failure) if failure.is_closed_output() => return Ok(ExitCode::SUCCESS),
            Err(Failure::Told) => return Ok(ExitCode::FAILURE),
            Err(Failure::Text(text)) => {
                eprintln!("error: {text}");
                return Ok(ExitCode::FAILURE);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the lines of the standard input as they come.
pub(super) fn standard_input() -> impl Iterator<Item = std::io::Result<String>> {
    std::io::stdin().lock().lines()
}
