//! The Rust toolchains that build for other machines than this computer.
//!
//! The one that runs this program will do where rustup has installed the target's libraries for it. Where rustup
//! cannot, Debian's own toolchain (`rustc-web`) does: it has libraries for Linux on arm64, and the sources of those
//! for bare metal, which are then built along.

use std::{env, ffi::OsString, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Environment, find_program};

use crate::command::{cargo, command, output};

/// Where Debian's toolchain is; `PATH` may name rustup's first.
const DEBIAN: &str = "/usr/bin";
/// The oldest of Debian's compilers that knows this edition and what the workspace asks for, as its minor version.
const OLDEST_DEBIAN: u32 = 95;
/// The C compiler that links programs for Linux on arm64.
pub(crate) const ARM_COMPILER: &str = "aarch64-linux-gnu-gcc";
/// LLVM's linker for bare metal, newest first. Toolchains of rustup bring their own.
const LINKERS: [&str; 4] = ["ld.lld-20", "ld.lld-19", "ld.lld", "ld.lld-14"];

/// What is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// AArch64 without an operating system and without use of its floating-point registers.
    BareArm,
    /// x86-64 without an operating system.
    BareX86,
    /// Linux on arm64, linked statically.
    LinuxArm,
}

impl Target {
    /// Rust's name for it.
    pub(crate) fn triple(self) -> &'static str {
        match self {
            Self::BareArm => "aarch64-unknown-none-softfloat",
            Self::BareX86 => "x86_64-unknown-none",
            Self::LinuxArm => "aarch64-unknown-linux-gnu",
        }
    }

    /// The triple as it stands in the names of cargo's environment variables.
    fn variable(self, name: &str) -> String {
        let triple = self.triple().replace('-', "_").to_uppercase();
        format!("CARGO_TARGET_{triple}_{name}")
    }
}

/// A toolchain that builds for a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The one that runs this program.
    Own,
    /// Debian's.
    Debian,
}

impl Toolchain {
    /// The toolchain for a target, if there is one.
    pub(crate) fn find(target: Target) -> Option<Self> {
        if target == Target::LinuxArm && find_program(ARM_COMPILER).is_none() {
            return None;
        }
        if has_libraries(command("rustc"), target) {
            return Some(Self::Own);
        }
        has_debian(target).then_some(Self::Debian)
    }

    /// Whether it has clippy.
    pub(crate) fn has_clippy(self) -> bool {
        match self {
            Self::Own => true,
            Self::Debian => Path::new(DEBIAN).join("cargo-clippy").is_file(),
        }
    }

    /// Cargo's subcommand `name` for a target, in the workspace's root directory.
    pub(crate) fn cargo(self, target: Target, name: &str) -> Command {
        let mut command = match self {
            Self::Own => cargo(),
            Self::Debian => debian_cargo(),
        };
        command.args([name, "--locked", "--quiet", "--target", target.triple()]);
        command
            .arg("--target-dir")
            .arg(Environment::cross_directory());
        if target == Target::LinuxArm {
            command.env(target.variable("LINKER"), ARM_COMPILER);
            command.env(
                target.variable("RUSTFLAGS"),
                "-C target-feature=+crt-static",
            );
        } else if self == Self::Debian {
            let linker = LINKERS.into_iter().find_map(find_program);
            command.env(target.variable("LINKER"), linker.unwrap_or("ld.lld".into()));
            command.args(["-Z", "build-std=core,alloc,compiler_builtins"]);
            command.args(["-Z", "build-std-features=compiler-builtins-mem"]);
            // What `-Z` needs in a compiler that is not a nightly build.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// In words, for messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Own => "rustup's toolchain",
            Self::Debian => "Debian's toolchain",
        }
    }
}

/// The toolchain for a target.
///
/// # Errors
/// When there is none; the message says what to do.
pub(crate) fn required(target: Target) -> Result<Toolchain> {
    Toolchain::find(target).with_context(|| {
        format!(
            "no Rust toolchain here builds for {}: run ./x setup",
            target.triple()
        )
    })
}

/// Has rustup install a target's libraries.
///
/// # Errors
/// When there is no rustup, or it cannot.
pub(crate) fn add_by_rustup(target: Target) -> Result<()> {
    if find_program("rustup").is_none() {
        bail!("there is no rustup");
    }
    println!("  $ rustup target add {}", target.triple());
    output(command("rustup").args(["target", "add", target.triple()])).map(drop)
}

/// Debian's cargo, with nothing that rustup or the cargo that runs this program has set.
fn debian_cargo() -> Command {
    let mut command = command(&format!("{DEBIAN}/cargo"));
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    let mut path = OsString::from(DEBIAN);
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    command.env("PATH", path);
    command
}

fn has_debian(target: Target) -> bool {
    let compiler = || command(&format!("{DEBIAN}/rustc"));
    let version = output(compiler().arg("--version")).unwrap_or_default();
    if minor_version(&version).is_none_or(|minor| minor < OLDEST_DEBIAN)
        || !Path::new(DEBIAN).join("cargo").is_file()
    {
        return false;
    }
    if target == Target::LinuxArm {
        return has_libraries(compiler(), target);
    }
    let root = output(compiler().args(["--print", "sysroot"])).unwrap_or_default();
    let sources = Path::new(root.trim()).join("lib/rustlib/src/rust/library/core");
    sources.is_dir() && LINKERS.into_iter().any(|name| find_program(name).is_some())
}

/// Whether a compiler has the target's libraries.
fn has_libraries(mut compiler: Command, target: Target) -> bool {
    let print = ["--print", "target-libdir", "--target", target.triple()];
    output(compiler.args(print)).is_ok_and(|directory| Path::new(directory.trim()).is_dir())
}

/// The second number of `rustc 1.96.0 (…)`.
fn minor_version(text: &str) -> Option<u32> {
    let version = text.strip_prefix("rustc 1.")?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compilers_version_is_read() {
        assert_eq!(minor_version("rustc 1.96.0 (x) (Debian)"), Some(96));
        assert_eq!(minor_version("rustc 1.63.0"), Some(63));
        assert_eq!(minor_version(""), None);
    }

    #[test]
    fn a_targets_variables_are_cargos() {
        assert_eq!(
            Target::BareArm.variable("LINKER"),
            "CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER"
        );
    }
}
