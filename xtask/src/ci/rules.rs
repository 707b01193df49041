//! Every rule names the tests that hold it, those tests exist, and every end-to-end scenario is named.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};
use trapline_test_machine::workspace_root;

use super::{Context, builds::tracked_files};

/// The document with the rules and their tests.
const DOCUMENT: &str = "docs/rules.md";
/// Where end-to-end scenarios are, which are plain functions in a list.
const SCENARIOS: &str = "tests/e2e/tests/";
/// Where the tables that are not about rules begin.
const OTHER_TABLES: &str = "\n## Bad input";
/// The rules: a letter and how many there are.
const RULES: [(char, usize); 5] = [('R', 12), ('B', 6), ('M', 4), ('S', 3), ('A', 1)];

/// How many columns of tests there are: without a debugger, and of three hosts.
const COLUMNS: usize = 4;

/// A row of the document's tables: `| R1 | tests | end-to-end tests of each host | notes |`.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    rule: &'a str,
    tests: Vec<&'a str>,
}

/// Checks that each rule has a row with at least one test, that each test is in the tree, and that no end-to-end
/// scenario is left out.
pub(super) fn check(_: &mut Context<'_>) -> Result<()> {
    let text = fs::read_to_string(workspace_root().join(DOCUMENT)).context(DOCUMENT)?;
    let tests = tests()?;
    let mut wrong = problems(&rows(&text), &tests.all);
    let (_, other) = text.split_once(OTHER_TABLES).unwrap_or_default();
    wrong.extend(others(other, &tests.all));
    let named: BTreeSet<_> = names(&text).collect();
    let unnamed = tests
        .scenarios
        .iter()
        .filter(|name| !named.contains(name.as_str()));
    wrong.extend(unnamed.map(|name| format!("the scenario {name} is in no row")));
    if !wrong.is_empty() {
        bail!("{DOCUMENT}:\n{}", wrong.join("\n"));
    }
    Ok(())
}

fn problems(rows: &[Row<'_>], tests: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for rule in rules() {
        let named = rows.iter().filter(|row| row.rule == rule);
        if named.flat_map(|row| &row.tests).next().is_none() {
            wrong.push(format!("{rule} names no test"));
        }
    }
    for row in rows {
        let missing = row.tests.iter().filter(|test| !tests.contains(**test));
        wrong.extend(missing.map(|test| format!("{}: there is no test {test}", row.rule)));
    }
    wrong
}

/// What is wrong with the tables that are not about rules: `| subject | tests |`.
fn others(text: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let mut wrong = Vec::new();
    for (subject, cell) in rows.filter(|(subject, _)| !matches!(*subject, "input" | "subject")) {
        if names(cell).next().is_none() {
            wrong.push(format!("{subject:?} names no test"));
        }
        let missing = names(cell).filter(|name| !tests.contains(*name));
        wrong.extend(missing.map(|name| format!("{subject:?}: there is no test {name}")));
    }
    wrong
}

fn rules() -> impl Iterator<Item = String> {
    let numbered = |(letter, count)| (1..=count).map(move |number| format!("{letter}{number}"));
    RULES.into_iter().flat_map(numbered)
}

fn rows(text: &str) -> Vec<Row<'_>> {
    text.lines().filter_map(row).collect()
}

fn row(line: &str) -> Option<Row<'_>> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    let rule = cells.next().filter(|cell| is_rule(cell))?;
    let tests = cells.take(COLUMNS).flat_map(names).collect();
    Some(Row { rule, tests })
}

fn is_rule(cell: &str) -> bool {
    let mut characters = cell.chars();
    let is_letter = characters
        .next()
        .is_some_and(|first| RULES.iter().any(|(letter, _)| *letter == first));
    is_letter && characters.as_str().parse::<u32>().is_ok()
}

/// The names between grave accents.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The tests of the tree.
#[derive(Default)]
struct Tests {
    /// The names of all tests and end-to-end scenarios.
    all: BTreeSet<String>,
    /// The names in the lists of scenarios.
    scenarios: BTreeSet<String>,
}

fn tests() -> Result<Tests> {
    let mut tests = Tests::default();
    for path in tracked_files()?
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
    {
        let text =
            fs::read_to_string(workspace_root().join(&path)).with_context(|| path.clone())?;
        let is_scenarios = path.starts_with(SCENARIOS);
        tests
            .all
            .extend(tests_in(&text, is_scenarios).map(str::to_owned));
        if is_scenarios {
            tests.scenarios.extend(listed(&text).map(str::to_owned));
        }
    }
    Ok(tests)
}

/// The functions under `#[test]`, or all functions where the file is one of scenarios.
fn tests_in(text: &str, is_scenarios: bool) -> impl Iterator<Item = &str> {
    let mut is_test = false;
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        let Some((name, _)) = line
            .strip_prefix("fn ")
            .and_then(|rest| rest.split_once('('))
        else {
            // Other attributes and comments may stand between the two.
            is_test =
                line == "#[test]" || is_test && (line.starts_with("#[") || line.starts_with("//"));
            return None;
        };
        (core::mem::take(&mut is_test) || is_scenarios).then_some(name)
    })
}

/// The names in a list `crate::scenarios! { Each AnyKvm name; Gdb [KvmArm64 El2] name; … }`.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    let list = text
        .split_once("crate::scenarios! {")
        .map_or("", |(_, rest)| rest);
    let list = list.split_once('}').map_or("", |(list, _)| list);
    list.split(';')
        .filter_map(|entry| entry.split_whitespace().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "| rule | tests | x86 | arm | el2 | notes |\n|---|---|---|---|---|---|\n\
                        | R1 | `one`<br>`two` | `three` | | | not `four` |\n| R13 | | | | | |\n";

    #[test]
    fn a_row_names_the_tests_of_its_columns() {
        let tests = vec!["one", "two", "three"];
        assert_eq!(rows(TEXT)[0], Row { rule: "R1", tests });
        assert_eq!(rows(TEXT).len(), 2);
    }

    #[test]
    fn a_missing_test_and_a_rule_without_one_are_told() {
        let known = ["one", "three"].map(str::to_owned).into();
        let wrong = problems(&rows(TEXT), &known);
        assert!(wrong.contains(&"R1: there is no test two".to_owned()));
        assert!(wrong.contains(&"R2 names no test".to_owned()));
        assert!(!wrong.iter().any(|line| line.starts_with("R1 ")));
    }

    #[test]
    fn scenarios_are_read_from_their_list() {
        let text = "use x;\ncrate::scenarios! {\n    Each AnyKvm one;\n    Gdb Hardware two;\n    Gdb [KvmArm64 El2] three;\n}\nfn one() {}\n";
        assert_eq!(listed(text).collect::<Vec<_>>(), ["one", "two", "three"]);
        assert_eq!(listed("fn main() {}").count(), 0);
    }

    #[test]
    fn other_tables_name_tests_that_exist() {
        let text =
            "| input | tests |\n|---|---|\n| no `/dev/kvm` | `one`<br>`two` |\n| noise | |\n";
        let known = ["one"].map(str::to_owned).into();
        let wrong = others(text, &known);
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert!(
            wrong
                .iter()
                .any(|line| line.ends_with("there is no test two"))
        );
        assert!(wrong.iter().any(|line| line.ends_with("names no test")));
    }

    #[test]
    fn only_functions_under_the_attribute_are_tests() {
        let source =
            "#[test]\n#[ignore = \"x\"]\nfn a() {}\nfn helper() {}\n    #[test]\n    fn b() {\n";
        assert_eq!(tests_in(source, false).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tests_in(source, true).count(), 3);
    }
}
