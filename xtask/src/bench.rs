//! `./x bench`: sets up, builds, and hands over to the benchmark program.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{
    command::{cargo, shown},
    programs, setup,
};

/// Runs the benchmark program with these arguments.
///
/// # Errors
/// When setup or build fails, or the program cannot be started.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    setup::run(&setup::Needs::everything())?;
    let programs = programs::build()?;
    let mut command = cargo();
    command.args([
        "run",
        "--release",
        "--quiet",
        "--locked",
        "--package",
        "trapline-bench",
        "--",
    ]);
    let status = command
        .args(arguments)
        .env("TRAPLINE_PROGRAMS", programs)
        .status()
        .with_context(|| format!("cannot run {}", shown(&command)))?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}
