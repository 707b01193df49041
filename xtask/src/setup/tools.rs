//! The things that are needed from outside: how each is recognised, installed, and named to people.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Environment, find_program, shared_libraries};

use super::{
    apt::{Apt, Version},
    packages,
};
use crate::command::output;

/// QEMU 7.2 loses hardware breakpoints under its nested SVM; 10.0 does not, nor does 9.1.
const OLDEST_QEMU: Version = Version(9, 1);
/// The oldest LLDB the tests accept, and the one they were written with.
const OLDEST_LLDB: u32 = 17;
const PREFERRED_LLDB: u32 = 19;
/// How many releases after the preferred LLDB are looked for.
const NEWEST_LLDB: u32 = 29;

/// Something from outside the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Qemu,
    Gdb,
    Lldb,
    Kernel,
    Busybox,
    Mke2fs,
    /// A GDB that knows other architectures than this computer's.
    GdbMultiarch,
    /// libFuzzer, which the fuzz targets link, is C++.
    Cxx,
}

impl Tool {
    /// QEMU after the debuggers: its backport may bring newer libraries, against which the release's own
    /// debuggers do not install.
    pub(super) const ALL: [Self; 8] = [
        Self::Gdb,
        Self::GdbMultiarch,
        Self::Lldb,
        Self::Qemu,
        Self::Kernel,
        Self::Busybox,
        Self::Mke2fs,
        Self::Cxx,
    ];

    /// Looks for it where it was, then where programs are, and records what it finds.
    pub(super) fn find(self, environment: &mut Environment) -> bool {
        match self {
            Self::Qemu => {
                let recorded = environment.qemu().ok().map(Path::to_owned);
                let found = [recorded, find_program("qemu-system-x86_64")];
                let found = found
                    .into_iter()
                    .flatten()
                    .find(|program| new_enough_qemu(program));
                found.map(|program| environment.set_qemu(program)).is_some()
            }
            Self::Gdb => {
                let recorded = environment.gdb().ok().map(Path::to_owned);
                let found = recorded.filter(|program| program.is_file());
                let found = found.or_else(|| find_program("gdb"));
                found.map(|program| environment.set_gdb(program)).is_some()
            }
            Self::Lldb => {
                let recorded = environment.lldb().ok().map(Path::to_owned);
                let found = recorded
                    .filter(|program| program.is_file())
                    .or_else(find_lldb);
                found.map(|program| environment.set_lldb(program)).is_some()
            }
            Self::Kernel => {
                environment.kernel().is_ok_and(Path::is_file)
                    && environment.kernel_modules().is_ok_and(Path::is_dir)
            }
            Self::Busybox => {
                let recorded = environment.busybox().ok().map(Path::to_owned);
                let found = recorded.filter(|program| program.is_file());
                let found =
                    found.or_else(|| find_program("busybox").filter(|path| is_static(path)));
                found
                    .map(|program| environment.set_busybox(program))
                    .is_some()
            }
            Self::Mke2fs => {
                let recorded = environment.mke2fs().ok().map(Path::to_owned);
                // Its directory is not in everybody's PATH.
                let places = ["/usr/sbin/mke2fs", "/sbin/mke2fs"].map(PathBuf::from);
                let found = recorded.into_iter().chain(find_program("mke2fs"));
                let mut found = found.chain(places).filter(|program| program.is_file());
                let program = found.next();
                program
                    .map(|program| environment.set_mke2fs(program))
                    .is_some()
            }
            Self::GdbMultiarch => find_program("gdb-multiarch").is_some(),
            Self::Cxx => find_program("c++").is_some(),
        }
    }

    /// Gets it from the distribution.
    pub(super) fn install(self, apt: &Apt, environment: &mut Environment) -> Result<()> {
        match self {
            Self::Qemu => {
                let why = "its emulator stands in for VMX and SVM, and is measured against";
                apt.install_at_least("qemu-system-x86", OLDEST_QEMU, why)
            }
            Self::Gdb => apt.install(&["gdb"], "the demo and the tests drive it"),
            Self::Lldb => apt.install(
                &[&newest_lldb_package(apt)?],
                "the demo and the tests drive it",
            ),
            Self::Kernel => packages::kernel(apt, environment),
            Self::Busybox => packages::busybox(apt, environment),
            Self::Mke2fs => apt.install(&["e2fsprogs"], "the tests boot from a disk"),
            Self::GdbMultiarch => apt.install(
                &["gdb-multiarch"],
                "it reads the register descriptions of Arm guests",
            ),
            Self::Cxx => apt.install(&["g++"], "the fuzz targets link libFuzzer, which is C++"),
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU for x86-64, 9.1 or newer",
            Self::Gdb => "GDB",
            Self::Lldb => "LLDB 17 or newer",
            Self::Kernel => "a distribution's x86-64 kernel with its modules",
            Self::Busybox => "a static busybox",
            Self::Mke2fs => "mke2fs",
            Self::GdbMultiarch => "GDB for all architectures",
            Self::Cxx => "a C++ compiler",
        }
    }

    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64 in PATH, or TRAPLINE_QEMU=PATH",
            Self::Gdb => "gdb in PATH (12 or newer, with Python), or TRAPLINE_GDB=PATH",
            Self::Lldb => "lldb or lldb-N in PATH, or TRAPLINE_LLDB=PATH",
            Self::Kernel => {
                "TRAPLINE_KERNEL=BZIMAGE and TRAPLINE_KERNEL_MODULES=DIRECTORY, its lib/modules/VERSION"
            }
            Self::Busybox => "busybox in PATH, linked statically, or TRAPLINE_BUSYBOX=PATH",
            Self::Mke2fs => "mke2fs in PATH, or TRAPLINE_MKE2FS=PATH",
            Self::GdbMultiarch => "gdb-multiarch in PATH",
            Self::Cxx => "c++ in PATH",
        }
    }
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
