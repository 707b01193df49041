//! What did not run here, and why: from steps of the gate, and from tests by way of a file.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use trapline_test_machine::{Environment, workspace_root};

use super::{Context, builds::tracked_files};

/// The one place that may print that something did not run: it also records it.
const RECORDER: &str = "tests/machine/src/report.rs";
/// What a test that leaves itself out would print, in lower case.
const OWN_WORDS: [&str; 4] = ["did not run", "not run:", "skipped", "skipping"];

/// Checks that no test leaves itself out with a word of its own, which a test runner swallows, or by
/// `#[ignore]`.
pub(super) fn check(_: &mut Context<'_>) -> Result<()> {
    let mut wrong = Vec::new();
    let files = tracked_files()?;
    for path in files.iter().filter(|path| may_skip(path)) {
        let text = fs::read_to_string(workspace_root().join(path)).with_context(|| path.clone())?;
        let lines = text
            .lines()
            .zip(1..)
            .filter(|(line, _)| is_silent_skip(line));
        wrong.extend(lines.map(|(_, number)| format!("{path}:{number}: use {RECORDER}")));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The gate's own programs print the list.
fn may_skip(path: &str) -> bool {
    path.ends_with(".rs") && path != RECORDER && !path.starts_with("xtask/")
}

fn is_silent_skip(line: &str) -> bool {
    let line = line.trim_start();
    if line.starts_with("#[ignore") {
        return true;
    }
    let Some((_, printed)) = line.split_once("println!(\"") else {
        return false;
    };
    let printed = printed.to_lowercase();
    OWN_WORDS.iter().any(|words| printed.contains(words))
}

/// The list of what did not run.
pub(super) struct LeftOut {
    /// Where tests write; see `trapline_test_machine::did_not_run`.
    file: PathBuf,
    /// What steps could not do.
    steps: Vec<String>,
    /// What a later step did after all.
    done: BTreeSet<String>,
}

impl LeftOut {
    /// An empty list.
    ///
    /// # Errors
    /// When the file for the tests cannot be written.
    pub(super) fn new() -> Result<Self> {
        let file = Environment::directory().join("did-not-run");
        fs::write(&file, "").with_context(|| file.display().to_string())?;
        Ok(Self {
            file,
            steps: Vec::new(),
            done: BTreeSet::new(),
        })
    }

    /// The file in which tests say what they could not do here.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Adds what a step could not do, with the reason.
    pub(super) fn step(&mut self, line: String) {
        self.steps.push(line);
    }

    /// Takes a test off the list: it ran in another place.
    pub(super) fn ran_after_all(&mut self, test: &str) {
        self.done.insert(test.to_owned());
    }

    /// What steps could not do, then what tests could not.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn lines(&self) -> Result<(Vec<String>, Vec<String>)> {
        let text =
            fs::read_to_string(&self.file).with_context(|| self.file.display().to_string())?;
        Ok((self.steps.clone(), about_tests(&text, &self.done)))
    }
}

/// The lines about tests that did not run in any place, each once.
fn about_tests(text: &str, done: &BTreeSet<String>) -> Vec<String> {
    let ran = text.lines().filter_map(|line| line.strip_prefix("ran: "));
    let ran: BTreeSet<_> = ran.chain(done.iter().map(String::as_str)).collect();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("ran: ")) {
        let what = line.split_once(": ").map_or(line, |(what, _)| what);
        if !ran.contains(what) && !lines.iter().any(|known| known == line) {
            lines.push(line.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_tests_own_is_found() {
        assert!(is_silent_skip("    println!(\"Did not run: {why}\");"));
        assert!(is_silent_skip("eprintln!(\"skipped\");"));
        assert!(is_silent_skip("    #[ignore = \"slow\"]"));
        assert!(!is_silent_skip("println!(\"booted\");"));
    }

    #[test]
    fn what_ran_in_another_place_is_not_listed() {
        let text = "a::b: why\nc: why\nc: why\nd: why: this\nran: d\n";
        let done = BTreeSet::from(["a::b".to_owned()]);
        assert_eq!(about_tests(text, &done), ["c: why"]);
    }
}
