//! Dependencies point down the list of layers only.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use trapline_test_machine::workspace_root;

use super::Context;
use crate::programs::metadata;

/// From the bottom up. A package may depend on packages of its own layer and of those above it in this list.
const LAYERS: [&[&str]; 7] = [
    &["crates"],
    &["server"],
    &["backends"],
    &["vmm"],
    &["hypervisors"],
    &["cli"],
    &["guests", "tests", "benches", "fuzz", "xtask"],
];

/// What the hypervisors have in common.
const COMMON: &str = "hypervisors/common";

/// A package of the workspace.
struct Member {
    name: String,
    /// Its directory, relative to the workspace's.
    directory: String,
    /// The directories, relative to the workspace's, of the packages it is built with.
    dependencies: Vec<String>,
}

/// Checks every package, and that those in `crates/` declare that they use neither `std` nor `unsafe`.
pub(super) fn check(_: &mut Context<'_>) -> Result<()> {
    let members = members()?;
    let mut wrong: Vec<_> = members.iter().flat_map(upward_dependencies).collect();
    wrong.extend(members.iter().flat_map(dependencies_with_a_system));
    for member in members
        .iter()
        .filter(|member| member.directory.starts_with("crates/"))
    {
        let library = workspace_root().join(&member.directory).join("src/lib.rs");
        let text =
            std::fs::read_to_string(&library).with_context(|| library.display().to_string())?;
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !text.lines().any(|line| line == attribute) {
                wrong.push(format!("{} lacks {attribute}", library.display()));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The names of the packages that need no operating system: the libraries of all architectures, and the
/// hypervisors.
pub(super) fn bare_packages() -> Result<(Vec<String>, Vec<String>)> {
    let (mut libraries, mut hypervisors) = (Vec::new(), Vec::new());
    for member in members()? {
        if member.directory.starts_with("crates/") || member.directory == COMMON {
            libraries.push(member.name);
        } else if member.directory.starts_with("hypervisors/") {
            hypervisors.push(member.name);
        }
    }
    Ok((libraries, hypervisors))
}

/// The name of the package in this directory.
pub(super) fn package_in(directory: &str) -> Result<String> {
    let member = members()?
        .into_iter()
        .find(|member| member.directory == directory);
    Ok(member
        .with_context(|| format!("there is no package in {directory}"))?
        .name)
}

fn upward_dependencies(member: &Member) -> Vec<String> {
    let Some(own) = layer(&member.directory) else {
        return vec![format!("{} is in no layer", member.directory)];
    };
    let too_high = |dependency: &&String| layer(dependency).is_none_or(|layer| layer > own);
    let wrong = member.dependencies.iter().filter(too_high);
    wrong
        .map(|up| format!("{} depends on {up}, which is above it", member.directory))
        .collect()
}

/// What runs on bare metal is built with `crates/` and what hypervisors have in common, and nothing else.
fn dependencies_with_a_system(member: &Member) -> Vec<String> {
    if !member.directory.starts_with("hypervisors/") {
        return Vec::new();
    }
    let is_bare = |directory: &str| directory.starts_with("crates/") || directory == COMMON;
    let wrong = member.dependencies.iter();
    wrong
        .filter(|directory| !is_bare(directory))
        .map(|other| {
            format!(
                "{} is for bare metal and depends on {other}",
                member.directory
            )
        })
        .collect()
}

fn layer(directory: &str) -> Option<usize> {
    let top = directory.split('/').next()?;
    LAYERS.iter().position(|layer| layer.contains(&top))
}

fn members() -> Result<Vec<Member>> {
    let metadata = metadata(&["--no-deps"])?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    packages.iter().map(member).collect()
}

fn member(package: &Value) -> Result<Member> {
    let name = package["name"].as_str().context("a package has no name")?;
    let manifest = package["manifest_path"]
        .as_str()
        .context("a package has no manifest")?;
    let dependencies = package["dependencies"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    // What only tests and examples use does not shape the product.
    let shipped = dependencies
        .iter()
        .filter(|dependency| dependency["kind"] != "dev");
    let paths = shipped.filter_map(|dependency| dependency["path"].as_str());
    Ok(Member {
        name: name.to_owned(),
        directory: relative(Path::new(manifest).parent().unwrap_or(Path::new(""))),
        dependencies: paths.map(|path| relative(Path::new(path))).collect(),
    })
}

fn relative(path: &Path) -> String {
    path.strip_prefix(workspace_root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member_with(directory: &str, dependency: &str) -> Member {
        Member {
            name: "x".to_owned(),
            directory: directory.to_owned(),
            dependencies: vec![dependency.to_owned()],
        }
    }

    #[test]
    fn arrows_point_down() {
        assert!(upward_dependencies(&member_with("vmm", "backends/kvm")).is_empty());
        assert!(upward_dependencies(&member_with("crates/engine", "crates/arch")).is_empty());
        assert_eq!(
            upward_dependencies(&member_with("backends/kvm", "vmm")).len(),
            1
        );
        assert_eq!(
            upward_dependencies(&member_with("crates/arch", "server")).len(),
            1
        );
    }

    #[test]
    fn bare_metal_stands_on_what_needs_no_system() {
        let wrong = |directory, dependency| {
            dependencies_with_a_system(&member_with(directory, dependency)).len()
        };
        assert_eq!(wrong("hypervisors/aarch64-el2", "crates/engine"), 0);
        assert_eq!(wrong("hypervisors/aarch64-el2", COMMON), 0);
        assert_eq!(wrong("hypervisors/aarch64-el2", "server"), 1);
        assert_eq!(wrong(COMMON, "hypervisors/aarch64-el2"), 1);
        assert_eq!(wrong("cli", "server"), 0);
    }

    #[test]
    fn an_unknown_directory_is_told() {
        assert_eq!(
            upward_dependencies(&member_with("extras", "crates/arch")).len(),
            1
        );
    }
}
