//! Where the programs and files are that tests need and the workspace does not contain.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use crate::MachineError;

/// The directory that holds the workspace's `Cargo.toml`.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Finds an executable file called `name` in `PATH`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// What tests, demo and benchmarks use from outside the workspace.
///
/// `./x setup` finds or fetches each thing and records it in `target/trapline/environment`. An environment
/// variable overrides each; [`Environment::VARIABLES`] lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    paths: BTreeMap<String, PathBuf>,
}

macro_rules! tools {
    ($($(#[$doc:meta])* $name:ident, $set:ident, $variable:literal, $what:literal;)*) => {
        impl Environment {
            /// The environment variables that name things, each with what it names.
            pub const VARIABLES: &[(&str, &str)] = &[$(($variable, $what)),*];

            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`MachineError::NotSetUp`] when it is neither recorded nor named by its variable.
                pub fn $name(&self) -> Result<&Path, MachineError> {
                    self.paths
                        .get($variable)
                        .map(PathBuf::as_path)
                        .ok_or(MachineError::NotSetUp { what: $what, variable: $variable })
                }

                #[doc = concat!("Records the path of ", $what, ".")]
                pub fn $set(&mut self, path: PathBuf) {
                    self.paths.insert($variable.to_owned(), path);
                }
            )*
        }
    };
}

tools! {
    /// The distribution's kernel, a bzImage.
    kernel, set_kernel, "TRAPLINE_KERNEL", "the distribution's kernel image";
    /// The directory of that kernel's modules, its `lib/modules/VERSION`.
    kernel_modules, set_kernel_modules, "TRAPLINE_KERNEL_MODULES", "the kernel's module directory";
    /// A busybox that needs no shared library.
    busybox, set_busybox, "TRAPLINE_BUSYBOX", "a static busybox";
    /// `qemu-system-x86_64`, 9.1 or newer.
    qemu, set_qemu, "TRAPLINE_QEMU", "qemu-system-x86_64";
    /// GDB.
    gdb, set_gdb, "TRAPLINE_GDB", "gdb";
    /// LLDB.
    lldb, set_lldb, "TRAPLINE_LLDB", "lldb";
    /// `mke2fs`, which makes file systems in files.
    mke2fs, set_mke2fs, "TRAPLINE_MKE2FS", "mke2fs";
    /// A GDB that knows all architectures.
    gdb_multiarch, set_gdb_multiarch, "TRAPLINE_GDB_MULTIARCH", "gdb-multiarch";
    /// The distribution's kernel for arm64, an `Image`.
    kernel_arm64, set_kernel_arm64, "TRAPLINE_KERNEL_ARM64", "the distribution's arm64 kernel image";
    /// The directory of that kernel's modules, its `lib/modules/VERSION`.
    kernel_modules_arm64, set_kernel_modules_arm64, "TRAPLINE_KERNEL_MODULES_ARM64", "the arm64 kernel's module directory";
    /// A busybox for arm64 that needs no shared library.
    busybox_arm64, set_busybox_arm64, "TRAPLINE_BUSYBOX_ARM64", "a static busybox for arm64";
    /// `qemu-system-aarch64`, 9.1 or newer.
    qemu_arm64, set_qemu_arm64, "TRAPLINE_QEMU_ARM64", "qemu-system-aarch64";
    /// LLVM's linker of Mach-O files.
    mach_linker, set_mach_linker, "TRAPLINE_MACH_LINKER", "ld64.lld";
}

/// The processor architecture of an emulated machine, and so of the programs and guests in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86-64, with SVM.
    #[default]
    X86_64,
    /// AArch64, with EL2.
    Arm64,
}

impl Environment {
    /// The distribution's kernel for an architecture.
    ///
    /// # Errors
    /// [`MachineError::NotSetUp`], as each below.
    pub fn kernel_for(&self, architecture: Architecture) -> Result<&Path, MachineError> {
        match architecture {
            Architecture::X86_64 => self.kernel(),
            Architecture::Arm64 => self.kernel_arm64(),
        }
    }

    /// The module directory of [`Environment::kernel_for`].
    ///
    /// # Errors
    /// As there.
    pub fn kernel_modules_for(&self, architecture: Architecture) -> Result<&Path, MachineError> {
        match architecture {
            Architecture::X86_64 => self.kernel_modules(),
            Architecture::Arm64 => self.kernel_modules_arm64(),
        }
    }

    /// A static busybox for an architecture.
    ///
    /// # Errors
    /// As [`Environment::kernel_for`].
    pub fn busybox_for(&self, architecture: Architecture) -> Result<&Path, MachineError> {
        match architecture {
            Architecture::X86_64 => self.busybox(),
            Architecture::Arm64 => self.busybox_arm64(),
        }
    }

    /// The QEMU for an architecture.
    ///
    /// # Errors
    /// As [`Environment::kernel_for`].
    pub fn qemu_for(&self, architecture: Architecture) -> Result<&Path, MachineError> {
        match architecture {
            Architecture::X86_64 => self.qemu(),
            Architecture::Arm64 => self.qemu_arm64(),
        }
    }

    /// The directory of what `./x` fetches and records, `target/trapline` in the workspace.
    #[must_use]
    pub fn directory() -> PathBuf {
        workspace_root().join("target").join("trapline")
    }

    /// What `./x setup` recorded, with the environment variables applied on top.
    ///
    /// Without a record the result holds the variables' values only: each missing thing is an error where
    /// it is asked for, so that a test which needs less can still run.
    #[must_use]
    pub fn load() -> Self {
        let mut environment = Self::recorded();
        for (variable, _) in Self::VARIABLES {
            if let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) {
                environment
                    .paths
                    .insert((*variable).to_owned(), PathBuf::from(value));
            }
        }
        environment
    }

    /// What `./x setup` recorded, without regard to the environment variables.
    #[must_use]
    pub fn recorded() -> Self {
        Self::parse(&fs::read_to_string(Self::record()).unwrap_or_default())
    }

    /// Writes the record. What an environment variable overrides now stays as it was recorded.
    ///
    /// # Errors
    /// [`MachineError::File`] when it cannot be written.
    pub fn save(&self) -> Result<(), MachineError> {
        let recorded = Self::recorded();
        let mut text = String::new();
        for (variable, _) in Self::VARIABLES {
            let source = if Self::overridden(variable).is_some() {
                &recorded
            } else {
                self
            };
            if let Some(path) = source.paths.get(*variable) {
                text.push_str(&format!("{variable}={}\n", path.display()));
            }
        }
        // Written aside and renamed, so that another process never reads half a record.
        let record = Self::record();
        let aside = record.with_extension("new");
        fs::write(&aside, text).map_err(MachineError::file(&aside))?;
        fs::rename(&aside, &record).map_err(MachineError::file(&record))
    }

    /// The environment variables that name something which does not exist.
    #[must_use]
    pub fn wrong_overrides() -> Vec<(&'static str, PathBuf)> {
        let variables = Self::VARIABLES.iter();
        let set =
            variables.filter_map(|(variable, _)| Some((*variable, Self::overridden(variable)?)));
        set.filter(|(_, path)| !path.exists()).collect()
    }

    fn overridden(variable: &str) -> Option<PathBuf> {
        env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// A program of this workspace, such as `trapline`.
    ///
    /// It is looked for where `TRAPLINE_PROGRAMS` says (`./x test` sets it to the release build), and else
    /// beside the running test. Programs for arm64 are where `TRAPLINE_PROGRAMS_ARM64` says, or else where
    /// [`Environment::cross_programs`] says.
    ///
    /// # Errors
    /// [`MachineError::NotBuilt`] when it is in neither place.
    pub fn program_for(architecture: Architecture, name: &str) -> Result<PathBuf, MachineError> {
        match architecture {
            Architecture::X86_64 => Self::program(name),
            Architecture::Arm64 => {
                let directory = Self::overridden("TRAPLINE_PROGRAMS_ARM64");
                let program = directory.unwrap_or_else(Self::cross_programs).join(name);
                let found = program.is_file().then_some(program);
                found.ok_or_else(|| MachineError::NotBuilt(format!("{name} for arm64")))
            }
        }
    }

    /// The directory in which cargo builds for other machines than this computer.
    #[must_use]
    pub fn cross_directory() -> PathBuf {
        Self::directory().join("cross")
    }

    /// The directory of the programs that `./x` has built for Linux on arm64.
    #[must_use]
    pub fn cross_programs() -> PathBuf {
        Self::cross_directory().join("aarch64-unknown-linux-gnu/release")
    }

    /// The image of the hypervisor for EL2 that `./x` has built, or that `TRAPLINE_EL2_IMAGE` names.
    ///
    /// # Errors
    /// [`MachineError::NotBuilt`] when there is none.
    pub fn el2_image() -> Result<PathBuf, MachineError> {
        let image = Self::overridden("TRAPLINE_EL2_IMAGE");
        let image = image.unwrap_or_else(|| Self::cross_directory().join("trapline-el2.img"));
        let found = image.is_file().then_some(image);
        found.ok_or_else(|| MachineError::NotBuilt("trapline-el2".to_owned()))
    }

    /// A program of this workspace for this computer, as [`Environment::program_for`].
    ///
    /// # Errors
    /// [`MachineError::NotBuilt`] when it is in neither place.
    pub fn program(name: &str) -> Result<PathBuf, MachineError> {
        let directory = match env::var_os("TRAPLINE_PROGRAMS") {
            Some(directory) => Some(PathBuf::from(directory)),
            None => env::current_exe()
                .ok()
                .and_then(|own| Some(profile_directory(own.parent()?))),
        };
        directory
            .map(|directory| directory.join(name))
            .filter(|program| program.is_file())
            .ok_or_else(|| MachineError::NotBuilt(name.to_owned()))
    }

    fn record() -> PathBuf {
        Self::directory().join("environment")
    }

    fn parse(text: &str) -> Self {
        let entries = text.lines().filter_map(|line| line.split_once('='));
        let paths = entries
            .map(|(key, path)| (key.to_owned(), PathBuf::from(path)))
            .collect();
        Self { paths }
    }
}

/// Test programs live in `target/PROFILE/deps`, their neighbours in `target/PROFILE`.
fn profile_directory(directory: &Path) -> PathBuf {
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.parent().unwrap_or(directory).to_owned()
    } else {
        directory.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        let environment =
            Environment::parse("TRAPLINE_GDB=/usr/bin/gdb\nnonsense\nTRAPLINE_KERNEL=/a=b\n");
        assert_eq!(environment.gdb().unwrap(), Path::new("/usr/bin/gdb"));
        assert_eq!(environment.kernel().unwrap(), Path::new("/a=b"));
    }

    #[test]
    fn a_missing_thing_names_its_variable() {
        let error = Environment::default().qemu().unwrap_err().to_string();
        assert!(error.contains("TRAPLINE_QEMU"), "{error}");
    }

    #[test]
    fn test_programs_find_their_neighbours() {
        assert_eq!(
            profile_directory(Path::new("/t/debug/deps")),
            Path::new("/t/debug")
        );
        assert_eq!(
            profile_directory(Path::new("/t/debug")),
            Path::new("/t/debug")
        );
    }
}
