//! Packages whose files are used without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Architecture, Environment};

use super::apt::Apt;

/// Kernels without drivers for real hardware first: they are small and boot fast.
const KERNEL_PACKAGES: [&str; 4] = [
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-amd64",
    "linux-image-generic",
];
/// The same for arm64, as a foreign architecture's.
const ARM64_KERNEL_PACKAGES: [&str; 4] = [
    "linux-image-cloud-arm64:arm64",
    "linux-image-virtual:arm64",
    "linux-image-arm64:arm64",
    "linux-image-generic:arm64",
];

/// Unpacks the distribution's kernel and its modules, as [`Environment::kernel_for`].
pub(super) fn kernel(
    apt: &Apt,
    environment: &mut Environment,
    architecture: Architecture,
) -> Result<()> {
    let (name, packages) = match architecture {
        Architecture::X86_64 => ("kernel", KERNEL_PACKAGES),
        Architecture::Arm64 => ("kernel-arm64", ARM64_KERNEL_PACKAGES),
    };
    let directory = Environment::directory().join(name);
    let packages = kernel_packages(apt, &packages)?;
    apt.unpack(
        &packages,
        &directory,
        "the stock kernel to debug; unpacked, not installed",
    )?;
    let image = find(&directory.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    // Since the merge of /usr, packages may have their modules there.
    let modules = ["lib/modules", "usr/lib/modules"];
    let modules = modules
        .map(|path| directory.join(path))
        .into_iter()
        .find(|path| path.is_dir());
    let modules = modules.context("the kernel's packages hold no modules")?;
    let modules = find(&modules, |_| true)?;
    match architecture {
        Architecture::X86_64 => {
            environment.set_kernel(image);
            environment.set_kernel_modules(modules);
        }
        Architecture::Arm64 => {
            environment.set_kernel_arm64(image);
            environment.set_kernel_modules_arm64(modules);
        }
    }
    Ok(())
}

/// Unpacks a busybox that needs no libraries, as [`Environment::busybox_for`].
pub(super) fn busybox(
    apt: &Apt,
    environment: &mut Environment,
    architecture: Architecture,
) -> Result<()> {
    let (name, package) = match architecture {
        Architecture::X86_64 => ("busybox", "busybox-static"),
        Architecture::Arm64 => ("busybox-arm64", "busybox-static:arm64"),
    };
    let directory = Environment::directory().join(name);
    let why = "for small root file systems; unpacked, not installed";
    apt.unpack(&[package.to_owned()], &directory, why)?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|path| directory.join(path));
    let program = places.into_iter().find(|path| path.is_file());
    let program = program.with_context(|| format!("the package {package} holds no busybox"))?;
    match architecture {
        Architecture::X86_64 => environment.set_busybox(program),
        Architecture::Arm64 => environment.set_busybox_arm64(program),
    }
    Ok(())
}

/// The packages behind the first of `candidates` that this release has, which are empty themselves
/// and depend on those of one version: an image, and on Ubuntu modules beside it.
fn kernel_packages(apt: &Apt, candidates: &[&str]) -> Result<Vec<String>> {
    for &name in candidates {
        if apt.candidate(name)?.is_none() {
            continue;
        }
        let is_image = |package: &String| package.starts_with("linux-image-");
        let Some(image) = apt.dependencies(name)?.into_iter().find(is_image) else {
            continue;
        };
        let is_modules = |package: &String| package.starts_with("linux-modules-");
        let modules = apt.dependencies(&image)?.into_iter().find(is_modules);
        return Ok(core::iter::once(image).chain(modules).collect());
    }
    bail!(
        "none of the packages {} is available",
        candidates.join(", ")
    )
}

fn find(directory: &Path, matches: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut names = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&matches));
    let entry = names
        .next()
        .with_context(|| format!("{} is empty", directory.display()))?;
    Ok(entry.path())
}
