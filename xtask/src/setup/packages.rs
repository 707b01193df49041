//! Packages whose files are used without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::Environment;

use super::apt::Apt;

/// Kernels without drivers for real hardware first: they are small and boot fast.
const KERNEL_PACKAGES: [&str; 4] = [
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-amd64",
    "linux-image-generic",
];

/// Unpacks the distribution's kernel and its modules.
pub(super) fn kernel(apt: &Apt, environment: &mut Environment) -> Result<()> {
    let directory = Environment::directory().join("kernel");
    let packages = kernel_packages(apt)?;
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
    environment.set_kernel(image);
    environment.set_kernel_modules(modules);
    Ok(())
}

/// Unpacks a busybox that needs no libraries.
pub(super) fn busybox(apt: &Apt, environment: &mut Environment) -> Result<()> {
    let directory = Environment::directory().join("busybox");
    let why = "for small root file systems; unpacked, not installed";
    apt.unpack(&["busybox-static".to_owned()], &directory, why)?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|path| directory.join(path));
    let program = places.into_iter().find(|path| path.is_file());
    environment.set_busybox(program.context("the package busybox-static holds no busybox")?);
    Ok(())
}

/// The packages behind the first of [`KERNEL_PACKAGES`] that this release has, which are empty themselves
/// and depend on those of one version: an image, and on Ubuntu modules beside it.
fn kernel_packages(apt: &Apt) -> Result<Vec<String>> {
    for name in KERNEL_PACKAGES {
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
        KERNEL_PACKAGES.join(", ")
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
