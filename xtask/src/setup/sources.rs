//! Where this computer gets its packages from.
//!
//! Backports live on the same servers, under the same keys, as the release they are for. So the source for
//! them is derived from the one that is there, and no server is named here.

use std::{fs, path::Path};

/// One place to get packages from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    uris: String,
    suites: Vec<String>,
    /// Options to carry over, as deb822 fields such as `Signed-By: …`, continuation lines included.
    options: Vec<String>,
}

/// The sources that apt is configured with.
pub(super) fn installed() -> Vec<Source> {
    let mut sources = Vec::new();
    let directory = fs::read_dir("/etc/apt/sources.list.d");
    let listed = directory
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for path in core::iter::once(Path::new("/etc/apt/sources.list").to_owned()).chain(listed) {
        let text = fs::read_to_string(&path).unwrap_or_default();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(parse_stanzas(&text)),
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            _ => {}
        }
    }
    sources
}

/// A deb822 source for the backports of `codename`, from wherever that release itself comes from.
pub(super) fn backports(sources: &[Source], codename: &str) -> Option<String> {
    let source = sources
        .iter()
        .find(|source| source.suites.iter().any(|suite| suite == codename))?;
    let mut text = format!(
        "# Written by Trapline's ./x: this release's own QEMU is older than 9.1.\n\
         Types: deb\nURIs: {}\nSuites: {codename}-backports\nComponents: main\n",
        source.uris
    );
    for option in &source.options {
        text.push_str(option);
        text.push('\n');
    }
    Some(text)
}

/// Reads deb822 stanzas: fields with continuation lines, separated by empty lines.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter_map(|stanza| parse_stanza(&fields(stanza)))
        .collect()
}

/// Joins each field with its continuation lines.
fn fields(lines: &[&str]) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in lines {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', '\t']) => {
                field.push('\n');
                field.push_str(line);
            }
            _ => fields.push((*line).to_owned()),
        }
    }
    fields
}

fn parse_stanza(fields: &[String]) -> Option<Source> {
    let value = |name: &str| {
        fields.iter().find_map(|field| {
            let (key, value) = field.split_once(':')?;
            key.trim()
                .eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let has_binaries = value("Types")?.split_whitespace().any(|kind| kind == "deb");
    let disabled = value("Enabled").is_some_and(|enabled| enabled.eq_ignore_ascii_case("no"));
    if !has_binaries || disabled {
        return None;
    }
    let kept = ["signed-by", "trusted", "architectures"];
    let is_kept = |field: &&String| {
        field
            .split_once(':')
            .is_some_and(|(key, _)| kept.contains(&key.trim().to_ascii_lowercase().as_str()))
    };
    Some(Source {
        uris: value("URIs")?,
        suites: value("Suites")?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        options: fields.iter().filter(is_kept).cloned().collect(),
    })
}

/// Reads the old form, `deb [option=value …] URI SUITE COMPONENT…`.
fn parse_line(line: &str) -> Option<Source> {
    let rest = line
        .trim()
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let options = options.split_whitespace().filter_map(|option| {
        let (key, value) = option.split_once('=')?;
        let name = match key {
            "signed-by" => "Signed-By",
            "trusted" => "Trusted",
            "arch" => "Architectures",
            _ => return None,
        };
        Some(format!("{name}: {}", value.replace(',', " ")))
    });
    Some(Source {
        uris: uri.to_owned(),
        suites: vec![suite.to_owned()],
        options: options.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "Types: deb deb-src\n# a comment\nURIs: http://mirror/debian\n\
        Suites: bookworm bookworm-updates\nComponents: main\nSigned-By:\n key line 1\n key line 2\n\n\
        Types: deb\nURIs: http://mirror/debian-security\nSuites: bookworm-security\nComponents: main\n";

    #[test]
    fn backports_come_from_where_the_release_comes_from() {
        let text = backports(&parse_stanzas(STANZAS), "bookworm").unwrap();
        assert!(text.contains("URIs: http://mirror/debian\n"), "{text}");
        assert!(text.contains("Suites: bookworm-backports\n"), "{text}");
        assert!(
            text.contains("Signed-By:\n key line 1\n key line 2\n"),
            "{text}"
        );
    }

    #[test]
    fn another_release_has_no_source() {
        assert_eq!(backports(&parse_stanzas(STANZAS), "trixie"), None);
    }

    #[test]
    fn the_old_form_keeps_its_key() {
        let line = "deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/k.gpg] http://mirror/debian bookworm main";
        let text = backports(&[parse_line(line).unwrap()], "bookworm").unwrap();
        assert!(text.contains("URIs: http://mirror/debian\n"), "{text}");
        assert!(
            text.contains("Signed-By: /usr/share/keyrings/k.gpg\n"),
            "{text}"
        );
        assert!(text.contains("Architectures: amd64 arm64\n"), "{text}");
        assert_eq!(
            parse_line("deb-src http://mirror/debian bookworm main"),
            None
        );
        assert_eq!(parse_line("# deb http://mirror/debian bookworm main"), None);
    }

    #[test]
    fn a_disabled_source_is_left_out() {
        assert!(parse_stanzas("Types: deb\nURIs: u\nSuites: s\nEnabled: no\n").is_empty());
    }
}
