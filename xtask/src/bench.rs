//! `./x bench`: sets up, builds, and hands over to the benchmark program.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{
    command::{cargo, shown},
    images, programs, setup,
};

/// Runs the benchmark program with these arguments.
///
/// # Errors
/// When setup or build fails, or the program cannot be started.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    setup::run(&setup::Needs::everything())?;
    let programs = programs::build()?;
    if measures_el2(arguments) {
        images::el2()?;
    }
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

/// Whether the figures are those of the hypervisor for EL2, whose image they need.
fn measures_el2(arguments: &[String]) -> bool {
    let follows =
        |pair: &[String]| matches!(pair, [option, host] if option == "--host" && host == "el2");
    arguments.iter().any(|argument| argument == "--host=el2") || arguments.windows(2).any(follows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_built_for_its_own_figures() {
        let measures = |text: &str| {
            let arguments: Vec<_> = text.split(' ').map(str::to_owned).collect();
            measures_el2(&arguments)
        };
        assert!(measures("--rounds 3 --host el2"));
        assert!(measures("--host=el2"));
        assert!(!measures("--host kvm --only el2"));
    }
}
