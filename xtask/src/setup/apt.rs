//! Debian's package tools.

use core::fmt;
use std::{
    env, fs,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Environment, find_program};

use super::sources;
use crate::command::{output, shown};

/// The first two numbers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32, pub(super) u32);

impl Version {
    /// Reads `10.0.2 (Debian …)` and a package's `1:10.0.2+ds-2`; a missing second number is 0.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = match text.split_once(':') {
            Some((epoch, version)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => version,
            _ => text,
        };
        let mut numbers = text.split(|character: char| !character.is_ascii_digit());
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers
            .next()
            .and_then(|minor| minor.parse().ok())
            .unwrap_or(0);
        Some(Self(major, minor))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.0, self.1)
    }
}

/// Debian's or a descendant's package tools, on this computer.
#[derive(Debug)]
pub(super) struct Apt {
    /// The release's code name, such as `bookworm`.
    codename: Option<String>,
    log: PathBuf,
}

impl Apt {
    /// The tools, or `None` where there are none.
    pub(super) fn detect() -> Result<Option<Self>> {
        if find_program("apt-get").is_none() || find_program("dpkg").is_none() {
            return Ok(None);
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let log = Environment::directory().join("setup.log");
        File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        Ok(Some(Self {
            codename: value(&release, "VERSION_CODENAME"),
            log,
        }))
    }

    /// Brings the lists of packages up to date. Old lists may still do, so a failure is only told.
    pub(super) fn update(&self) {
        if let Err(error) = self.run(
            as_root("apt-get").arg("update"),
            "to know the newest packages",
        ) {
            println!("Going on with the package lists as they are: {error:#}");
        }
    }

    /// Lets packages of another architecture be fetched beside this computer's own.
    pub(super) fn add_architecture(&self, architecture: &str) -> Result<()> {
        let known = output(stable_output("dpkg").arg("--print-foreign-architectures"))?;
        let own = output(stable_output("dpkg").arg("--print-architecture"))?;
        if known
            .lines()
            .chain(own.lines())
            .any(|name| name == architecture)
        {
            return Ok(());
        }
        let mut add = as_root("dpkg");
        add.args(["--add-architecture", architecture]);
        self.run(
            &mut add,
            "guests and their libraries are of that architecture",
        )?;
        let mut update = as_root("apt-get");
        self.run(update.arg("update"), "to read that architecture's lists")
    }

    /// Installs packages without what they merely recommend.
    pub(super) fn install(&self, packages: &[&str], why: &str) -> Result<()> {
        let Err(error) = self.install_from(None, packages, why) else {
            return Ok(());
        };
        // A library that came with an earlier backport may ask for more of them.
        match self.backports()? {
            Some(suite) => self.install_from(Some(&suite), packages, why),
            None => Err(error),
        }
    }

    /// Installs a package of at least this version, from the release's backports where it has to be.
    pub(super) fn install_at_least(&self, package: &str, oldest: Version, why: &str) -> Result<()> {
        if self.offers(package, oldest, None)? {
            return self.install(&[package], why);
        }
        let codename = self
            .codename
            .as_deref()
            .context("this release has no code name")?;
        let backports = format!("{codename}-backports");
        if !self.offers(package, oldest, Some(&backports))? {
            self.add_backports(codename, &backports)?;
        }
        if !self.offers(package, oldest, Some(&backports))? {
            bail!("neither {codename} nor {backports} has {package} {oldest} or newer");
        }
        self.install_from(Some(&backports), &[package], why)
    }

    fn install_from(&self, suite: Option<&str>, packages: &[&str], why: &str) -> Result<()> {
        let mut command = as_root("apt-get");
        // Nothing of the user's is removed to make room, and another package manager is waited for.
        command.args(["install", "--yes", "--no-install-recommends", "--no-remove"]);
        command.args(["-o", "DPkg::Lock::Timeout=300"]);
        command.args(suite.map(|suite| ["-t", suite]).into_iter().flatten());
        self.run(command.args(packages), why)
    }

    /// The name of the release's backports, if this computer gets packages from there.
    fn backports(&self) -> Result<Option<String>> {
        let Some(codename) = &self.codename else {
            return Ok(None);
        };
        let name = format!("{codename}-backports");
        let policy = output(stable_output("apt-cache").arg("policy"))?;
        Ok(policy.contains(&format!("n={name},")).then_some(name))
    }

    /// The version that an installation would choose.
    pub(super) fn candidate(&self, package: &str) -> Result<Option<String>> {
        let policy = output(stable_output("apt-cache").args(["policy", package]))?;
        let candidate = policy
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "));
        Ok(candidate
            .filter(|version| *version != "(none)")
            .map(str::to_owned))
    }

    /// The packages that a package depends on.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let text = output(stable_output("apt-cache").args(["depends", package]))?;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Fetches packages and unpacks them below `directory` without installing them.
    pub(super) fn unpack(&self, packages: &[String], directory: &Path, why: &str) -> Result<()> {
        let download = directory.with_extension("download");
        recreate(&download)?;
        recreate(directory)?;
        self.run(
            Command::new("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(&download),
            why,
        )?;
        for file in fs::read_dir(&download)? {
            self.run(
                Command::new("dpkg")
                    .arg("-x")
                    .arg(file?.path())
                    .arg(directory),
                "to use them",
            )?;
        }
        Ok(fs::remove_dir_all(&download)?)
    }

    /// Whether a package is offered in this version or a newer one, anywhere or in one suite.
    fn offers(&self, package: &str, oldest: Version, suite: Option<&str>) -> Result<bool> {
        let Some(suite) = suite else {
            let candidate = self.candidate(package)?;
            return Ok(candidate.and_then(|text| Version::parse(&text)) >= Some(oldest));
        };
        let table = output(stable_output("apt-cache").args(["madison", package]))?;
        Ok(table
            .lines()
            .any(|row| offered_in(row, suite) >= Some(oldest)))
    }

    /// Adds the release's backports, from where this computer gets the release itself.
    fn add_backports(&self, codename: &str, backports: &str) -> Result<()> {
        let path = Path::new("/etc/apt/sources.list.d/trapline-backports.sources");
        let text = sources::backports(&sources::installed(), codename)
            .with_context(|| format!("no package source of this computer is for {codename}"))?;
        println!(
            "Adding {backports} in {}, to be used for QEMU only",
            path.display()
        );
        let new = Environment::directory().join("trapline-backports.sources");
        fs::write(&new, text)?;
        let mut copy = as_root("install");
        copy.args(["-m", "644"]).arg(&new).arg(path);
        self.run(&mut copy, "this release's own QEMU is too old")?;
        self.run(as_root("apt-get").arg("update"), "to read the new source")
    }

    /// Says what is run and why, and keeps its output in the log unless it fails.
    fn run(&self, command: &mut Command, why: &str) -> Result<()> {
        let line = shown(command);
        println!("  $ {line}    ({why})");
        let log = File::options().append(true).open(&self.log)?;
        let status = command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::inherit())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .with_context(|| format!("cannot run {line}"))?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = text.lines().rev().take(15).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        bail!(
            "{line}: {status}; from {}:\n{}",
            self.log.display(),
            last.join("\n")
        )
    }
}

/// The version in a row of `apt-cache madison`, `package | version | URI SUITE/COMPONENT ARCH Packages`.
fn offered_in(row: &str, suite: &str) -> Option<Version> {
    let mut columns = row.split('|').map(str::trim);
    let version = columns.nth(1)?;
    let component = columns.next()?.split_whitespace().nth(1)?;
    let in_suite = component
        .split_once('/')
        .is_some_and(|(name, _)| name == suite);
    in_suite.then(|| Version::parse(version))?
}

fn recreate(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))
}

/// A command whose output is read by us.
fn stable_output(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// A command that runs as root, through sudo where we are not.
fn as_root(program: &str) -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if is_root {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    if env::var_os("CI").is_some() {
        command.arg("--non-interactive");
    }
    command.args(["--preserve-env=DEBIAN_FRONTEND", program]);
    command
}

/// A value of `/etc/os-release`, without quotes.
fn value(release: &str, key: &str) -> Option<String> {
    let mut values = release
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values
        .next()
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs_and_packages_are_read() {
        assert_eq!(
            Version::parse("10.0.2 (Debian 1:9.9+ds)"),
            Some(Version(10, 0))
        );
        assert_eq!(Version::parse("10.0.2"), Some(Version(10, 0)));
        assert_eq!(Version::parse("1:7.2+dfsg-7+deb12u18"), Some(Version(7, 2)));
        assert_eq!(Version::parse("19"), Some(Version(19, 0)));
        assert_eq!(Version::parse("none"), None);
        assert!(Version(10, 0) > Version(9, 1));
    }

    #[test]
    fn a_row_counts_for_its_own_suite_only() {
        let row = " qemu | 1:10.0.2+ds-2~bpo12+1 | http://mirror/debian bookworm-backports/main amd64 Packages";
        assert_eq!(offered_in(row, "bookworm-backports"), Some(Version(10, 0)));
        assert_eq!(offered_in(row, "bookworm"), None);
        assert_eq!(offered_in("", "bookworm"), None);
    }

    #[test]
    fn values_lose_their_quotes() {
        let release = "ID=debian\nVERSION_CODENAME=\"bookworm\"\n";
        assert_eq!(
            value(release, "VERSION_CODENAME").as_deref(),
            Some("bookworm")
        );
        assert_eq!(value(release, "VERSION"), None);
    }
}
