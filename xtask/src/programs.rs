//! The programs of this workspace that demo, tests and benchmarks start.

use std::{
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result};
use serde_json::Value;

use trapline_test_machine::Environment;

use crate::{
    command::{cargo, output, shown, succeed},
    toolchain::{self, Target},
};

/// Builds the release programs and yields the directory they are in.
///
/// # Errors
/// When the build fails.
pub(crate) fn build() -> Result<PathBuf> {
    succeed(cargo().args(["build", "--release", "--locked"]).args([
        "--bin",
        "trapline",
        "--bin",
        "trapline-machine-agent",
    ]))?;
    Ok(target_directory()?.join("release"))
}

/// Builds the release programs for Linux on arm64, linked statically, and yields the directory they are in.
///
/// # Errors
/// When no toolchain here builds for that, and when the build fails.
pub(crate) fn build_for_arm() -> Result<PathBuf> {
    let target = Target::LinuxArm;
    let mut build = toolchain::required(target)?.cargo(target, "build");
    build.args([
        "--release",
        "--bin",
        "trapline",
        "--bin",
        "trapline-machine-agent",
        "--bin",
        "trapline-own-debug",
    ]);
    succeed(&mut build)?;
    Ok(Environment::cross_programs())
}

/// Builds `trapline` and runs it in the user's terminal.
///
/// # Errors
/// When the build fails or the program cannot be started.
pub(crate) fn run_trapline(arguments: &[String]) -> Result<ExitCode> {
    let program = build()?.join("trapline");
    let mut command = std::process::Command::new(&program);
    let status = command
        .args(arguments)
        .stdin(Stdio::inherit())
        .status()
        .with_context(|| format!("cannot run {}", shown(&command)))?;
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}

/// Where cargo puts what it builds.
fn target_directory() -> Result<PathBuf> {
    let directory = metadata(&["--no-deps"])?["target_directory"]
        .as_str()
        .map(PathBuf::from);
    directory.context("cargo metadata names no target directory")
}

/// What `cargo metadata` says of the workspace.
///
/// # Errors
/// When cargo fails or says something that is not JSON.
pub(crate) fn metadata(arguments: &[&str]) -> Result<Value> {
    let mut command = cargo();
    command
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments);
    serde_json::from_str(&output(&mut command)?).context("cargo metadata is not JSON")
}
