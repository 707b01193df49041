//! Checks of the files as files.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use trapline_test_machine::workspace_root;

use super::{Context, builds::tracked_files, unsafe_code::read_reasons};

/// The longest a Rust file may be without its tests, in lines.
const LENGTH_LIMIT: usize = 500;
/// Files that may be longer: `path: reason` lines.
const LONG_FILES: &str = "xtask/long-files.txt";

/// Registries' servers, in pieces so that this file does not name them. Packages are asked for by name, from
/// wherever a computer is set up to get them.
const SERVERS: [&[&str]; 9] = [
    &["deb.", "debian.org"],
    &["ftp.", "debian.org"],
    &["security.", "debian.org"],
    &["archive.", "ubuntu.com"],
    &["static.", "crates.io"],
    &["index.", "crates.io"],
    &["files.", "pythonhosted.org"],
    &["pypi", ".org"],
    &["registry.", "npmjs.org"],
];

/// Rust files are at most [`LENGTH_LIMIT`] lines long, tests apart, or listed with a reason.
pub(super) fn length(_: &mut Context<'_>) -> Result<()> {
    let allowed = read_reasons(LONG_FILES)?;
    let mut wrong = Vec::new();
    for path in tracked_files()?
        .into_iter()
        .filter(|path| is_product_code(path))
    {
        let text =
            fs::read_to_string(workspace_root().join(&path)).with_context(|| path.clone())?;
        let lines = lines_without_tests(&text);
        match (lines > LENGTH_LIMIT, allowed.contains_key(&path)) {
            (true, false) => wrong.push(format!("{path}: {lines} lines; look for its seam")),
            (false, true) => wrong.push(format!("{path}: is in {LONG_FILES} and is not long")),
            _ => {}
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn is_product_code(path: &str) -> bool {
    let is_test = path
        .split('/')
        .any(|part| part == "tests" || part == "tests.rs");
    path.ends_with(".rs") && !is_test
}

/// The number of lines before the test module at the foot of a file.
fn lines_without_tests(text: &str) -> usize {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

/// No file names a package registry's server, neither a well-known one nor one this computer uses.
pub(super) fn servers(_: &mut Context<'_>) -> Result<()> {
    let mut servers: Vec<_> = SERVERS.iter().map(|pieces| pieces.concat()).collect();
    servers.extend(configured_servers());
    let mut wrong = Vec::new();
    for path in tracked_files()? {
        let bytes = fs::read(workspace_root().join(&path)).with_context(|| path.clone())?;
        let text = String::from_utf8_lossy(&bytes);
        for server in servers
            .iter()
            .filter(|server| text.contains(server.as_str()))
        {
            wrong.push(format!("{path}: names the server {server}"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The servers in this computer's own configuration of its package tools.
fn configured_servers() -> Vec<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    let cargo = std::env::var("CARGO_HOME").unwrap_or_else(|_| format!("{home}/.cargo"));
    let mut files = vec![
        format!("{cargo}/config.toml"),
        format!("{home}/.npmrc"),
        format!("{home}/.config/pip/pip.conf"),
        "/etc/pip.conf".to_owned(),
        "/etc/apt/sources.list".to_owned(),
    ];
    let directory = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    files.extend(directory.map(|entry| entry.path().display().to_string()));
    let texts = files
        .iter()
        .map(|file| fs::read_to_string(Path::new(file)).unwrap_or_default());
    let mut servers: Vec<_> = texts.flat_map(|text| hosts(&text)).collect();
    servers.sort();
    servers.dedup();
    servers
}

/// The host names in the URLs of a text; a host without a dot is no server's name.
fn hosts(text: &str) -> Vec<String> {
    let addresses = text.split("://").skip(1);
    let hosts = addresses.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-._@".contains(c));
        let host = rest.get(..end.unwrap_or(rest.len()))?;
        let host = host.rsplit('@').next()?;
        // Projects' own pages are named everywhere, and rightly.
        (host.contains('.') && host != "github.com").then(|| host.to_owned())
    });
    hosts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_at_the_foot_are_not_counted() {
        assert_eq!(
            lines_without_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"),
            2
        );
        assert!(!is_product_code("crates/rsp/src/framing/tests.rs"));
        assert!(!is_product_code("tests/e2e/src/lib.rs"));
        assert!(is_product_code("vmm/src/lib.rs"));
    }

    #[test]
    fn hosts_are_found_in_addresses() {
        let text = "URIs: http://mirror.example/debian\nregistry = \"sparse+https://user@crates.example:8/x\"\n";
        assert_eq!(hosts(text), ["mirror.example", "crates.example"]);
        assert!(hosts("http://localhost/ file:///etc").is_empty());
    }
}
