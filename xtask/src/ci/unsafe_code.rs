//! Unsafe code is where the inventory says, and nowhere else.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, bail};
use trapline_test_machine::workspace_root;

use super::{
    Context,
    builds::tracked_files,
    source::{code_only, has_word},
};

/// The inventory: `path: reason` lines, and comments after `#`.
const INVENTORY: &str = "xtask/unsafe-inventory.txt";

/// Every file with unsafe code is in the inventory with a reason, and every file in it has some.
pub(super) fn check(_: &mut Context<'_>) -> Result<()> {
    let allowed = read_reasons(INVENTORY)?;
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    for path in tracked_files()?
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
    {
        let text =
            fs::read_to_string(workspace_root().join(&path)).with_context(|| path.clone())?;
        let code = code_only(&text);
        if code.lines().any(|line| line.contains("allow(unsafe_code")) {
            wrong.push(format!(
                "{path}: use #![expect(unsafe_code, reason = \"…\")], not allow"
            ));
        }
        if code.lines().any(|line| has_word(line, "unsafe")) {
            if !allowed.contains_key(&path) {
                wrong.push(format!("{path}: has unsafe code and is not in {INVENTORY}"));
            }
            found.push(path);
        }
    }
    let gone = allowed.keys().filter(|path| !found.contains(path));
    wrong.extend(gone.map(|path| format!("{path}: is in {INVENTORY} and has no unsafe code")));
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!(
        "    {} files with unsafe code, each with its reason",
        found.len()
    );
    Ok(())
}

/// Reads a list of `path: reason` lines.
pub(super) fn read_reasons(list: &str) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(workspace_root().join(list)).with_context(|| list.to_owned())?;
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (path, reason) = line
                .split_once(": ")
                .with_context(|| format!("{list}: not a path, a colon and a reason: {line}"))?;
            Ok((path.to_owned(), reason.to_owned()))
        })
        .collect()
}
