//! The things that are needed from outside: how each is recognised, installed, and named to people.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Architecture, Environment, find_program, shared_libraries};

use super::{
    apt::{Apt, Version},
    packages, rust,
};
use crate::{
    command::output,
    toolchain::{Target, Toolchain},
};

/// QEMU 7.2 loses hardware breakpoints under its nested SVM, and its `virt` has one serial port only; 10.0 and
/// 9.1 do better.
const OLDEST_QEMU: Version = Version(9, 1);
/// The oldest LLDB the tests accept, and the one they were written with.
const OLDEST_LLDB: u32 = 17;
const PREFERRED_LLDB: u32 = 19;
/// How many releases after the preferred LLDB are looked for.
const NEWEST_LLDB: u32 = 29;

/// Something from outside the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Qemu(Architecture),
    Gdb,
    Lldb,
    Kernel(Architecture),
    Busybox(Architecture),
    Mke2fs,
    /// A GDB that knows other architectures than this computer's.
    GdbMultiarch,
    /// libFuzzer, which the fuzz targets link, is C++.
    Cxx,
    /// A Rust toolchain for another machine.
    Rust(Target),
    /// The lints of the toolchain for bare metal.
    BareClippy,
    /// A linker of Mach-O files, for a guest that looks like a Darwin kernel.
    MachLinker,
}

impl Tool {
    /// QEMU after the debuggers: its backport may bring newer libraries, against which the release's own
    /// debuggers do not install.
    pub(super) const ALL: [Self; 16] = [
        Self::Gdb,
        Self::GdbMultiarch,
        Self::Lldb,
        Self::Qemu(Architecture::X86_64),
        Self::Kernel(Architecture::X86_64),
        Self::Busybox(Architecture::X86_64),
        Self::Mke2fs,
        Self::Cxx,
        Self::Qemu(Architecture::Arm64),
        Self::Kernel(Architecture::Arm64),
        Self::Busybox(Architecture::Arm64),
        Self::Rust(Target::BareArm),
        Self::Rust(Target::LinuxArm),
        Self::Rust(Target::BareX86),
        Self::BareClippy,
        Self::MachLinker,
    ];

    /// Looks for it where it was, then where programs are, and records what it finds.
    pub(super) fn find(self, environment: &mut Environment) -> bool {
        match self {
            Self::Qemu(architecture) => find_qemu(environment, architecture),
            Self::Gdb => {
                let found = recorded(environment.gdb().ok()).or_else(|| find_program("gdb"));
                found.map(|program| environment.set_gdb(program)).is_some()
            }
            Self::Lldb => {
                let found = recorded(environment.lldb().ok()).or_else(find_lldb);
                found.map(|program| environment.set_lldb(program)).is_some()
            }
            Self::Kernel(architecture) => {
                let kernel = environment.kernel_for(architecture);
                let modules = environment.kernel_modules_for(architecture);
                kernel.is_ok_and(Path::is_file) && modules.is_ok_and(Path::is_dir)
            }
            Self::Busybox(Architecture::X86_64) => {
                let found = recorded(environment.busybox().ok());
                let found =
                    found.or_else(|| find_program("busybox").filter(|path| is_static(path)));
                found
                    .map(|program| environment.set_busybox(program))
                    .is_some()
            }
            Self::Busybox(Architecture::Arm64) => {
                environment.busybox_arm64().is_ok_and(Path::is_file)
            }
            Self::Mke2fs => {
                let found = recorded(environment.mke2fs().ok()).or_else(|| find_program("mke2fs"));
                // Its directory is not in everybody's PATH.
                let places = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].map(PathBuf::from);
                let mut found = found
                    .into_iter()
                    .chain(places)
                    .filter(|program| program.is_file());
                let program = found.next();
                program
                    .map(|program| environment.set_mke2fs(program))
                    .is_some()
            }
            Self::GdbMultiarch => {
                let found = recorded(environment.gdb_multiarch().ok());
                let found = found.or_else(|| find_program("gdb-multiarch"));
                found
                    .map(|program| environment.set_gdb_multiarch(program))
                    .is_some()
            }
            Self::Cxx => find_program("c++").is_some(),
            Self::Rust(target) => Toolchain::find(target).is_some(),
            Self::BareClippy => Toolchain::find(Target::BareArm).is_some_and(Toolchain::has_clippy),
            Self::MachLinker => {
                let found = recorded(environment.mach_linker().ok());
                let found = found.or_else(|| rust::MACH_LINKERS.into_iter().find_map(find_program));
                found
                    .map(|program| environment.set_mach_linker(program))
                    .is_some()
            }
        }
    }

    /// Gets it from the distribution.
    pub(super) fn install(self, apt: &Apt, environment: &mut Environment) -> Result<()> {
        match self {
            Self::Qemu(Architecture::X86_64) => {
                let why = "its emulator stands in for VMX and SVM, and is measured against";
                apt.install_at_least("qemu-system-x86", OLDEST_QEMU, why)
            }
            Self::Qemu(Architecture::Arm64) => {
                let why = "its emulator stands in for an Arm computer with EL2";
                apt.install_at_least("qemu-system-arm", OLDEST_QEMU, why)
            }
            Self::Gdb => apt.install(&["gdb"], "the demo and the tests drive it"),
            Self::Lldb => apt.install(
                &[&newest_lldb_package(apt)?],
                "the demo and the tests drive it",
            ),
            Self::Kernel(architecture) => {
                foreign(apt, architecture)?;
                packages::kernel(apt, environment, architecture)
            }
            Self::Busybox(architecture) => {
                foreign(apt, architecture)?;
                packages::busybox(apt, environment, architecture)
            }
            Self::Mke2fs => apt.install(&["e2fsprogs"], "the tests boot from a disk"),
            Self::GdbMultiarch => apt.install(&["gdb-multiarch"], "it debugs Arm guests"),
            Self::Cxx => apt.install(&["g++"], "the fuzz targets link libFuzzer, which is C++"),
            Self::Rust(target) => rust::install(apt, target),
            Self::BareClippy => rust::install_clippy(apt),
            Self::MachLinker => {
                apt.install(&["lld"], "it links a guest that looks like a Darwin kernel")
            }
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Qemu(Architecture::X86_64) => "QEMU for x86-64, 9.1 or newer",
            Self::Qemu(Architecture::Arm64) => "QEMU for AArch64, 9.1 or newer",
            Self::Gdb => "GDB",
            Self::Lldb => "LLDB 17 or newer",
            Self::Kernel(Architecture::X86_64) => "a distribution's x86-64 kernel with its modules",
            Self::Kernel(Architecture::Arm64) => "a distribution's arm64 kernel with its modules",
            Self::Busybox(Architecture::X86_64) => "a static busybox",
            Self::Busybox(Architecture::Arm64) => "a static busybox for arm64",
            Self::Mke2fs => "mke2fs",
            Self::GdbMultiarch => "GDB for all architectures",
            Self::Cxx => "a C++ compiler",
            Self::Rust(Target::BareArm) => "Rust for AArch64 without an operating system",
            Self::Rust(Target::BareX86) => "Rust for x86-64 without an operating system",
            Self::Rust(Target::LinuxArm) => "Rust and a C linker for Linux on arm64",
            Self::BareClippy => "clippy for AArch64 without an operating system",
            Self::MachLinker => "LLVM's linker of Mach-O files",
        }
    }

    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Qemu(Architecture::X86_64) => "qemu-system-x86_64 in PATH, or TRAPLINE_QEMU=PATH",
            Self::Qemu(Architecture::Arm64) => {
                "qemu-system-aarch64 in PATH, or TRAPLINE_QEMU_ARM64=PATH"
            }
            Self::Gdb => "gdb in PATH (12 or newer, with Python), or TRAPLINE_GDB=PATH",
            Self::Lldb => "lldb or lldb-N in PATH, or TRAPLINE_LLDB=PATH",
            Self::Kernel(Architecture::X86_64) => {
                "TRAPLINE_KERNEL=BZIMAGE and TRAPLINE_KERNEL_MODULES=DIRECTORY, its lib/modules/VERSION"
            }
            Self::Kernel(Architecture::Arm64) => {
                "TRAPLINE_KERNEL_ARM64=IMAGE and TRAPLINE_KERNEL_MODULES_ARM64=DIRECTORY, its lib/modules/VERSION"
            }
            Self::Busybox(Architecture::X86_64) => {
                "busybox in PATH, linked statically, or TRAPLINE_BUSYBOX=PATH"
            }
            Self::Busybox(Architecture::Arm64) => {
                "TRAPLINE_BUSYBOX_ARM64=PATH of one that is linked statically"
            }
            Self::Mke2fs => "mke2fs in PATH, or TRAPLINE_MKE2FS=PATH",
            Self::GdbMultiarch => "gdb-multiarch in PATH, or TRAPLINE_GDB_MULTIARCH=PATH",
            Self::Cxx => "c++ in PATH",
            Self::Rust(Target::BareArm) => "rustup target add aarch64-unknown-none-softfloat",
            Self::Rust(Target::BareX86) => "rustup target add x86_64-unknown-none",
            Self::Rust(Target::LinuxArm) => {
                "rustup target add aarch64-unknown-linux-gnu, and aarch64-linux-gnu-gcc with its C library in PATH"
            }
            Self::BareClippy => "rustup component add clippy",
            Self::MachLinker => "ld64.lld in PATH, or TRAPLINE_MACH_LINKER=PATH",
        }
    }
}

/// What is recorded, if it is still there.
fn recorded(path: Option<&Path>) -> Option<PathBuf> {
    path.filter(|path| path.is_file()).map(Path::to_owned)
}

/// Lets packages of an architecture be fetched.
fn foreign(apt: &Apt, architecture: Architecture) -> Result<()> {
    match architecture {
        Architecture::X86_64 => Ok(()),
        Architecture::Arm64 => apt.add_architecture("arm64"),
    }
}

fn find_qemu(environment: &mut Environment, architecture: Architecture) -> bool {
    let name = match architecture {
        Architecture::X86_64 => "qemu-system-x86_64",
        Architecture::Arm64 => "qemu-system-aarch64",
    };
    let known = recorded(environment.qemu_for(architecture).ok());
    let mut found = known.into_iter().chain(find_program(name));
    let Some(program) = found.find(|program| new_enough_qemu(program)) else {
        return false;
    };
    match architecture {
        Architecture::X86_64 => environment.set_qemu(program),
        Architecture::Arm64 => environment.set_qemu_arm64(program),
    }
    true
}

fn new_enough_qemu(program: &Path) -> bool {
    let version = output(Command::new(program).arg("--version")).unwrap_or_default();
    version
        .split_once("version ")
        .and_then(|(_, version)| Version::parse(version))
        .is_some_and(|version| version >= OLDEST_QEMU)
}

fn is_static(program: &Path) -> bool {
    shared_libraries(program).is_ok_and(|libraries| libraries.is_empty())
}

/// The LLDB the tests were written with, else the newest, else a plain `lldb` that is new enough.
fn find_lldb() -> Option<PathBuf> {
    let numbered = lldb_versions().find_map(|version| find_program(&format!("lldb-{version}")));
    numbered.or_else(|| {
        let program = find_program("lldb")?;
        let text = output(Command::new(&program).arg("--version")).ok()?;
        let Version(major, _) = Version::parse(text.split_once("version ")?.1)?;
        (major >= OLDEST_LLDB).then_some(program)
    })
}

fn lldb_versions() -> impl Iterator<Item = u32> {
    core::iter::once(PREFERRED_LLDB).chain((OLDEST_LLDB..=NEWEST_LLDB).rev())
}

fn newest_lldb_package(apt: &Apt) -> Result<String> {
    for version in lldb_versions() {
        let package = format!("lldb-{version}");
        if apt.candidate(&package)?.is_some() {
            return Ok(package);
        }
    }
    let plain = apt.candidate("lldb")?.context("there is no package lldb")?;
    match Version::parse(&plain) {
        Some(Version(major, _)) if major >= OLDEST_LLDB => Ok("lldb".to_owned()),
        _ => bail!("this release has only LLDB {plain}"),
    }
}
