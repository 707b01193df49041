//! Every dependency's licence may be combined with ours, MIT or Apache-2.0.

use anyhow::{Context as _, Result, bail};

use super::Context;
use crate::programs::metadata;

/// Licences that ask for no more than attribution.
const ALLOWED: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "BSL-1.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "Unlicense",
];

/// Reads each package's licence, those of build scripts and tests included.
pub(super) fn check(_: &mut Context<'_>) -> Result<()> {
    let metadata = metadata(&[])?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if is_allowed(licence) => {}
            Some(licence) => wrong.push(format!("{name}: {licence}")),
            None => wrong.push(format!("{name}: states no licence")),
        }
    }
    if !wrong.is_empty() {
        bail!("not in the list of allowed licences:\n{}", wrong.join("\n"));
    }
    println!("    {} packages", packages.len());
    Ok(())
}

/// Whether an SPDX expression can be satisfied with allowed licences. `/` is an old way to write `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words };
    parser.alternatives() == Some(true) && parser.words.is_empty()
}

/// A parser of SPDX expressions that evaluates as it reads; `None` for what is malformed.
struct Parser<'a> {
    words: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn alternatives(&mut self) -> Option<bool> {
        let mut allowed = self.conjunction()?;
        while self.take("OR") {
            // Both sides are read, whatever the first one says.
            allowed = self.conjunction()? || allowed;
        }
        Some(allowed)
    }

    fn conjunction(&mut self) -> Option<bool> {
        let mut allowed = self.licence()?;
        while self.take("AND") {
            allowed = self.licence()? && allowed;
        }
        Some(allowed)
    }

    fn licence(&mut self) -> Option<bool> {
        if self.take("(") {
            let allowed = self.alternatives()?;
            return self.take(")").then_some(allowed);
        }
        let name = self.next()?;
        if self.take("WITH") {
            let exception = self.next()?;
            return Some(ALLOWED.contains(&format!("{name} WITH {exception}").as_str()));
        }
        Some(ALLOWED.contains(&name))
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.next();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated() {
        for allowed in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-2.0-only OR MIT",
            "(MIT OR GPL-2.0-only) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in [
            "GPL-2.0-only",
            "MIT AND GPL-2.0-only",
            "",
            "MIT OR",
            "(MIT",
            "MIT MIT",
            "GPL-2.0-only WITH LLVM-exception",
        ] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }
}
