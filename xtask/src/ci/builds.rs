//! Checks that cargo and rustc make.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Context as _, Result, bail};
use trapline_test_machine::{Environment, workspace_root};

use super::{Context, layers};
use crate::{
    command::{cargo, command, output, succeed},
    toolchain::{Target, Toolchain},
};

/// The libraries that are there without an operating system.
const BARE_LIBRARIES: [&str; 5] = [
    "libcore-",
    "liballoc-",
    "libcompiler_builtins-",
    "librustc_std_workspace_core-",
    "librustc_std_workspace_alloc-",
];

/// The workspace and the fuzz targets, which are a workspace of their own, are formatted.
pub(super) fn format(_: &mut Context<'_>) -> Result<()> {
    succeed(cargo().args(["fmt", "--all", "--check"]))?;
    succeed(cargo().args([
        "fmt",
        "--all",
        "--check",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]))
}

/// There is no warning of rustc or clippy.
pub(super) fn lints(_: &mut Context<'_>) -> Result<()> {
    let deny = ["--", "-D", "warnings"];
    let everything = ["clippy", "--locked", "--all-targets", "--quiet"];
    succeed(cargo().args(everything).arg("--workspace").args(deny))?;
    succeed(
        cargo()
            .args(everything)
            .args(["--manifest-path", "fuzz/Cargo.toml"])
            .args(deny),
    )
}

/// Every link in the documentation leads somewhere.
pub(super) fn documentation(_: &mut Context<'_>) -> Result<()> {
    succeed(
        cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked", "--quiet"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// Neither the libraries for bare metal nor anything they depend on reaches `std`.
///
/// They are checked against a set of libraries that holds `core` and `alloc` and nothing else, so that any use
/// of `std` by any of them is a compile error. This needs no other toolchain. Where there is one for bare metal,
/// they are also checked for that.
pub(super) fn no_std(context: &mut Context<'_>) -> Result<()> {
    let (libraries, hypervisors) = layers::bare_packages()?;
    let packages: Vec<_> = libraries
        .iter()
        .flat_map(|name| ["--package", name])
        .collect();
    let host = host_triple()?;
    let sysroot = Environment::directory().join("bare-sysroot");
    fill_sysroot(&sysroot, &host)?;
    let flags = format!("--sysroot\u{1f}{}", sysroot.display());
    let target_directory = Environment::directory().join("bare-target");
    succeed(
        cargo()
            .args(["check", "--lib", "--quiet", "--locked", "--target", &host])
            .args(&packages)
            .arg("--target-dir")
            .arg(&target_directory)
            // For a named target these flags stay away from build scripts and procedural macros.
            .env("CARGO_ENCODED_RUSTFLAGS", flags),
    )?;
    check_bare(context, Target::BareX86, &packages)?;
    // The hypervisors there are yet are for AArch64.
    let hypervisors = hypervisors.iter().flat_map(|name| ["--package", name]);
    let packages: Vec<_> = packages.into_iter().chain(hypervisors).collect();
    check_bare(context, Target::BareArm, &packages)
}

/// Checks packages for bare metal, with every lint where the toolchain for it has clippy.
fn check_bare(context: &mut Context<'_>, target: Target, packages: &[&str]) -> Result<()> {
    let Some(toolchain) = Toolchain::find(target) else {
        context.left_out.step(format!(
            "check of {}: no Rust toolchain here builds for it (that the libraries use core and alloc only was checked)",
            target.triple()
        ));
        return Ok(());
    };
    println!("    {} by {}", target.triple(), toolchain.describe());
    let parts = ["--lib", "--bins"];
    if toolchain.has_clippy() {
        let mut clippy = toolchain.cargo(target, "clippy");
        clippy.args(parts).args(packages);
        return succeed(clippy.args(["--", "-D", "warnings"]));
    }
    context.left_out.step(format!(
        "clippy for {}: {} has none (rustc's own warnings were checked)",
        target.triple(),
        toolchain.describe()
    ));
    let mut check = toolchain.cargo(target, "check");
    // Cargo passes these on for this workspace's packages and for those of others, whose warnings are capped.
    check.env("RUSTFLAGS", "-D warnings");
    succeed(check.args(parts).args(packages))
}

fn host_triple() -> Result<String> {
    let version = output(command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// Makes `directory` a sysroot of `core` and `alloc` alone.
fn fill_sysroot(directory: &Path, host: &str) -> Result<()> {
    let source = output(command("rustc").args(["--print", "target-libdir"]))?;
    let libraries = directory.join("lib/rustlib").join(host).join("lib");
    // Made anew each time: the toolchain may have been updated since.
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(&libraries)?;
    let mut count = 0;
    for entry in fs::read_dir(source.trim())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if BARE_LIBRARIES.iter().any(|prefix| name.starts_with(prefix)) {
            symlink(&path, libraries.join(name))?;
            count += 1;
        }
    }
    if count < 3 {
        bail!("no core, alloc and compiler_builtins in {}", source.trim());
    }
    Ok(())
}

/// The files of the workspace that git knows, and those it would be given next, relative to the root.
pub(super) fn tracked_files() -> Result<Vec<String>> {
    let list = [
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
    ];
    let text = output(command("git").args(list))?;
    let files = text.split('\0').filter(|path| !path.is_empty());
    let root = workspace_root();
    Ok(files
        .filter(|path| root.join(path).is_file())
        .map(str::to_owned)
        .collect())
}
