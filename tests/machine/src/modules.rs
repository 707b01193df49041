//! Kernel modules and what they depend on, from an unpacked kernel package.
//!
//! A package that was unpacked but not installed has no `modules.dep`: `depmod` writes that at
//! installation. Each module carries the same knowledge in its section `.modinfo`, as the string
//! `depends=`, so that is read instead.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::MachineError;

/// The modules of one kernel, found by name.
#[derive(Debug)]
pub struct KernelModules {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
}

/// A module's name and its uncompressed content.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl KernelModules {
    /// Lists the modules below `directory`, a kernel's `lib/modules/VERSION`.
    ///
    /// # Errors
    /// [`MachineError::File`] when the directory cannot be read.
    pub fn open(directory: &Path) -> Result<Self, MachineError> {
        let mut files = BTreeMap::new();
        collect(&directory.join("kernel"), &mut files)?;
        let list = directory.join("modules.builtin");
        let built_in = fs::read_to_string(&list).map_err(MachineError::file(&list))?;
        let built_in = built_in.lines().filter_map(module_name).collect();
        Ok(Self {
            directory: directory.to_owned(),
            files,
            built_in,
        })
    }

    /// The modules `names` with everything they depend on, in an order in which they can be loaded.
    /// Names of what is built into the kernel are left out.
    ///
    /// # Errors
    /// [`MachineError::NoModule`] for a name the kernel does not have, [`MachineError::File`] and
    /// [`MachineError::Program`] when a module cannot be read or decompressed.
    pub(crate) fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Module>, MachineError> {
        let mut loaded = Vec::new();
        for name in names {
            self.add(name, &mut loaded)?;
        }
        Ok(loaded)
    }

    // The kernel's dependencies have no cycles: `depmod` refuses them.
    fn add(&self, name: &str, loaded: &mut Vec<Module>) -> Result<(), MachineError> {
        let name = name.replace('-', "_");
        if loaded.iter().any(|module| module.name == name) || self.built_in.contains(&name) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name) else {
            return Err(MachineError::NoModule {
                name,
                directory: self.directory.clone(),
            });
        };
        let content = read_module(path)?;
        for dependency in dependencies(&content) {
            self.add(&dependency, loaded)?;
        }
        loaded.push(Module { name, content });
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), MachineError> {
    for entry in fs::read_dir(directory).map_err(MachineError::file(directory))? {
        let path = entry.map_err(MachineError::file(directory))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = path.to_str().and_then(module_name) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/arch/x86/kvm/kvm-amd.ko.xz` is the module `kvm_amd`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>, MachineError> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(path).map_err(MachineError::file(path)),
    };
    let failed = |reason| MachineError::Program {
        program: program.to_owned(),
        reason,
    };
    let output = Command::new(program)
        .args(["-d", "-c"])
        .arg(path)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(output.stdout)
}

/// The names after `depends=` in a module's `.modinfo`, whose strings are separated by NUL.
fn dependencies(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = content.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = content.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_directory_suffix_and_hyphens() {
        assert_eq!(
            module_name("kernel/arch/x86/kvm/kvm-amd.ko.xz").unwrap(),
            "kvm_amd"
        );
        assert_eq!(module_name("loop.ko").unwrap(), "loop");
        assert_eq!(module_name("modules.order"), None);
    }

    #[test]
    fn dependencies_end_at_the_nul() {
        assert_eq!(
            dependencies(b"license=GPL\0depends=kvm,ccp\0name=x\0"),
            ["kvm", "ccp"]
        );
        assert!(dependencies(b"\0depends=\0name=x\0").is_empty());
        assert!(dependencies(b"\0depends").is_empty());
    }

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let kernel = directory.path().join("kernel/sub");
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("kvm-amd.ko"), b"\0depends=kvm,irqbypass\0").unwrap();
        fs::write(kernel.join("kvm.ko"), b"\0depends=irqbypass\0").unwrap();
        fs::write(kernel.join("irqbypass.ko"), b"\0depends=\0").unwrap();
        fs::write(
            directory.path().join("modules.builtin"),
            "kernel/fs/ext4.ko\n",
        )
        .unwrap();
        directory
    }

    #[test]
    fn dependencies_are_loaded_first_and_once() {
        let directory = tree();
        let modules = KernelModules::open(directory.path()).unwrap();
        let order = modules
            .with_dependencies(&["kvm-amd", "ext4", "kvm"])
            .unwrap();
        let order: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(order, ["irqbypass", "kvm", "kvm_amd"]);
    }

    #[test]
    fn an_unknown_module_is_an_error() {
        let directory = tree();
        let modules = KernelModules::open(directory.path()).unwrap();
        let error = modules.with_dependencies(&["nothing"]).unwrap_err();
        assert!(matches!(error, MachineError::NoModule { name, .. } if name == "nothing"));
    }
}
