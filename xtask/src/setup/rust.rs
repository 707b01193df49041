//! Rust for other machines than this computer.

use anyhow::{Context as _, Result};

use super::apt::Apt;
use crate::toolchain::{ARM_COMPILER, Target, Toolchain, add_by_rustup};
use trapline_test_machine::find_program;

/// LLVM's linker of Mach-O files.
pub(super) const MACH_LINKERS: [&str; 6] = [
    "ld64.lld-20",
    "ld64.lld-19",
    "ld64.lld",
    "ld64.lld-16",
    "ld64.lld-15",
    "ld64.lld-14",
];

/// Has rustup install a target, or else the distribution install a toolchain that has it.
///
/// # Errors
/// When neither can.
pub(super) fn install(apt: &Apt, target: Target) -> Result<()> {
    if target == Target::LinuxArm && find_program(ARM_COMPILER).is_none() {
        let packages = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
        apt.install(&packages, "it links programs for Linux on arm64")?;
    }
    if Toolchain::find(target).is_some() {
        return Ok(());
    }
    let Err(error) = add_by_rustup(target) else {
        return Ok(());
    };
    println!("    rustup cannot add it, so Debian's own Rust is taken for it");
    from_debian(apt, target).with_context(|| format!("rustup said: {error:#}"))
}

fn from_debian(apt: &Apt, target: Target) -> Result<()> {
    let why = "it builds for other machines than this one; rustup's stays your default";
    match target {
        Target::BareArm | Target::BareX86 => {
            apt.install(&["rustc-web", "cargo-web", "rust-web-src", "lld"], why)
        }
        Target::LinuxArm => {
            apt.add_architecture("arm64")?;
            apt.install(
                &["rustc-web", "cargo-web", "libstd-rust-web-dev:arm64"],
                why,
            )
        }
    }
}

/// Installs the lints of Debian's toolchain.
///
/// # Errors
/// When the distribution has none.
pub(super) fn install_clippy(apt: &Apt) -> Result<()> {
    apt.install(&["rust-web-clippy"], "it checks what runs on bare metal")
}
