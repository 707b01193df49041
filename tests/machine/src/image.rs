//! The root file systems of machines and guests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    Architecture, Archive, Environment, KernelModules, MachineError, MachineOptions,
    libraries::shared_libraries, modules::Module, protocol,
};

/// Loaded in every machine beside its KVM: what the agent and the forwards use.
const MACHINE_MODULES: [&str; 5] = [
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "virtio_blk",
    "virtio-rng",
];

/// A path in the machine and the file of this computer that appears there.
pub(crate) type FileCopy = (String, PathBuf);

/// What a guest's root file system holds beside busybox.
#[derive(Clone, Debug, Default)]
pub struct GuestImage {
    /// For which kernel and processor.
    pub architecture: Architecture,
    /// Kernel modules to load at boot, for instance `virtio_mmio` and `virtio_blk`.
    pub modules: Vec<String>,
    /// More files: path in the guest, file on this computer. Programs bring their libraries along.
    pub files: Vec<(String, PathBuf)>,
}

/// Makes the root file system of a guest that runs for ever with a visible heartbeat.
///
/// On its console it says `trapline-guest: up with N processors` and then about once a second
/// `trapline-guest: heartbeat N, up T s`, opening files and starting processes each time. With
/// `trapline.guest=poweroff`, `=reboot` or `=crash` on its command line it does that instead; with `=root`
/// it goes on from its first disk, which [`crate::guest_disk`] makes.
///
/// # Errors
/// Those of [`Environment::busybox`] and [`Environment::kernel_modules`], [`MachineError::NoModule`], and
/// [`MachineError::File`] for a file that cannot be read.
pub fn guest_initramfs(
    environment: &Environment,
    image: &GuestImage,
) -> Result<Vec<u8>, MachineError> {
    let modules: Vec<_> = image.modules.iter().map(String::as_str).collect();
    let init = include_bytes!("guest-init.sh");
    let mut archive = base(environment, image.architecture, &modules, init)?;
    add_files(&mut archive, &image.files)?;
    Ok(archive.finish())
}

/// Makes the root file system of a machine.
pub(crate) fn machine_initramfs(
    environment: &Environment,
    options: &MachineOptions,
    token: &str,
) -> Result<Vec<u8>, MachineError> {
    // On arm64 KVM is a part of the kernel.
    let kvm: &[&str] = match options.architecture {
        Architecture::X86_64 => &["kvm-amd"],
        Architecture::Arm64 => &[],
    };
    let modules = [kvm, &MACHINE_MODULES].concat();
    let init = include_bytes!("init.sh");
    let mut archive = base(environment, options.architecture, &modules, init)?;
    let agent = options.agent()?;
    add_files(&mut archive, &[("/trapline/agent".to_owned(), agent)])?;
    archive.file(protocol::TOKEN_FILE, 0o600, token.as_bytes());
    archive.file(
        "/trapline/ports",
        0o644,
        lines(&options.serial_ports).as_bytes(),
    );
    add_files(&mut archive, &options.files)?;
    Ok(archive.finish())
}

/// Busybox, the modules with their order, a console and the first process.
fn base(
    environment: &Environment,
    architecture: Architecture,
    modules: &[&str],
    init: &[u8],
) -> Result<Archive, MachineError> {
    let mut archive = Archive::new();
    archive.character_device("/dev/console", 5, 1);
    archive.file("/init", 0o755, init);
    add_files(
        &mut archive,
        &[(
            "/bin/busybox".to_owned(),
            environment.busybox_for(architecture)?.to_owned(),
        )],
    )?;
    let modules = if modules.is_empty() {
        Vec::new()
    } else {
        KernelModules::open(environment.kernel_modules_for(architecture)?)?
            .with_dependencies(modules)?
    };
    for Module { name, content } in &modules {
        archive.file(&format!("/modules/{name}.ko"), 0o644, content);
    }
    let order: Vec<_> = modules.into_iter().map(|module| module.name).collect();
    archive.file("/modules/order", 0o644, lines(&order).as_bytes());
    Ok(archive)
}

fn lines(names: &[String]) -> String {
    names.iter().map(|name| format!("{name}\n")).collect()
}

/// Adds files, and for programs the libraries they load at the paths they load them from.
fn add_files(archive: &mut Archive, files: &[FileCopy]) -> Result<(), MachineError> {
    for (path, source) in files {
        archive.host_file(path, source)?;
        if is_program(source)? {
            for library in shared_libraries(source)? {
                archive.host_file(&library.to_string_lossy(), &library)?;
            }
        }
    }
    Ok(())
}

/// Whether `path` is an executable ELF file; `ldd` would run a script.
fn is_program(path: &Path) -> Result<bool, MachineError> {
    use std::{io::Read, os::unix::fs::PermissionsExt};
    let mut file = fs::File::open(path).map_err(MachineError::file(path))?;
    let metadata = file.metadata().map_err(MachineError::file(path))?;
    let mut magic = [0; 4];
    let is_elf = file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
    Ok(is_elf && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executable_elf_files_bring_libraries() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        assert!(!is_program(&script).unwrap());
        assert!(is_program(&std::env::current_exe().unwrap()).unwrap());
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut archive = Archive::new();
        let error = add_files(&mut archive, &[("/x".to_owned(), "/nonexistent".into())]);
        assert!(error.unwrap_err().to_string().contains("/nonexistent"));
    }
}
