//! Figures as text for people and as JSON for programs.

use core::fmt;

use serde_json::{Value, json};

use crate::rounds::Measured;
use crate::stats::{Summary, ratios};

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

impl Bar {
    /// By how much a value misses the bar, as a fraction of the bar; `None` if it does not.
    fn missed_by(self, value: f64) -> Option<f64> {
        match self {
            Self::AtMost(bar) => (value > bar).then_some(value / bar - 1.0),
            Self::AtLeast(bar) => (value < bar).then_some(1.0 - value / bar),
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bar) => write!(f, "at most {bar}"),
            Self::AtLeast(bar) => write!(f, "at least {bar}"),
        }
    }
}

/// A comparison with its bar.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    what: String,
    value: Summary,
    /// What is to be reached, if something is.
    bar: Option<Bar>,
}

impl Check {
    /// By how much the bar is missed; `None` if it is not, or if there is none.
    fn missed_by(&self) -> Option<f64> {
        self.bar?.missed_by(self.value.median)
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    values: Vec<(String, Summary)>,
    checks: Vec<Check>,
    notes: Vec<String>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            values: Vec::new(),
            checks: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Shows a value.
    #[must_use]
    pub(crate) fn value(mut self, name: impl Into<String>, value: Summary) -> Self {
        self.values.push((name.into(), value));
        self
    }

    /// Shows what was measured of several parties.
    #[must_use]
    pub(crate) fn values<'a>(self, measured: impl IntoIterator<Item = &'a Measured>) -> Self {
        measured
            .into_iter()
            .fold(self, |figure, one| figure.value(one.name, one.summary()))
    }

    /// Holds a value against a bar.
    #[must_use]
    pub(crate) fn check(mut self, what: impl Into<String>, value: Summary, bar: Bar) -> Self {
        self.checks.push(Check {
            what: what.into(),
            value,
            bar: Some(bar),
        });
        self
    }

    /// Shows the ratio of two parties, taken round by round.
    #[must_use]
    pub(crate) fn compare(mut self, upper: &Measured, lower: &Measured) -> Self {
        self.checks.push(Check {
            what: format!("{} / {}", upper.name, lower.name),
            value: Summary::of(&ratios(&upper.rounds, &lower.rounds)),
            bar: None,
        });
        self
    }

    /// Holds the ratio of two parties, taken round by round, against a bar.
    #[must_use]
    pub(crate) fn ratio(self, upper: &Measured, lower: &Measured, bar: Bar) -> Self {
        let ratio = Summary::of(&ratios(&upper.rounds, &lower.rounds));
        self.check(format!("{} / {}", upper.name, lower.name), ratio, bar)
    }

    /// Adds a sentence.
    #[must_use]
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Returns whether every bar is reached.
    pub(crate) fn is_met(&self) -> bool {
        self.checks.iter().all(|check| check.missed_by().is_none())
    }

    pub(crate) fn to_json(&self) -> Value {
        let values: serde_json::Map<String, Value> = self
            .values
            .iter()
            .map(|(name, value)| (name.clone(), value.to_json()))
            .collect();
        let checks = self.checks.iter().map(|check| {
            let missed_by = check.missed_by();
            json!({
                "what": check.what,
                "value": check.value.to_json(),
                "bar": check.bar.map(|bar| bar.to_string()),
                "met": check.bar.map(|_| missed_by.is_none()),
                "missed_by": missed_by,
            })
        });
        json!({
            "name": self.name,
            "unit": self.unit,
            "values": values,
            "checks": checks.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} [{}]", self.name, self.unit)?;
        for (name, value) in &self.values {
            writeln!(f, "  {name:<34}{value}")?;
        }
        for check in &self.checks {
            let Some(bar) = check.bar else {
                writeln!(f, "  {:<34}{}", check.what, check.value)?;
                continue;
            };
            let verdict = match check.missed_by() {
                None => "met".to_owned(),
                Some(fraction) => format!("MISSED by {:.0} %", (fraction * 100.0).max(1.0)),
            };
            writeln!(f, "  {:<34}{}  {bar}: {verdict}", check.what, check.value)?;
        }
        for note in &self.notes {
            writeln!(f, "  ({note})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    /// Writes the median, and in parentheses what the middle 80 % of the samples are between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread = format!("({} – {})", short(self.p10), short(self.p90));
        write!(f, "{:>10}  {spread:<22}", short(self.median))
    }
}

/// Writes a number with three or more significant digits.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        magnitude if magnitude >= 100.0 => 0,
        magnitude if magnitude >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_when_it_is_reached_exactly() {
        assert_eq!(Bar::AtMost(1.2).missed_by(1.2), None);
        assert_eq!(Bar::AtLeast(15.0).missed_by(15.0), None);
        assert_eq!(Bar::AtMost(2.0).missed_by(3.0), Some(0.5));
        assert_eq!(Bar::AtLeast(20.0).missed_by(15.0), Some(0.25));
    }

    #[test]
    fn a_missed_bar_is_told_by_how_much() {
        let figure = Figure::new("steps", "/s").check(
            "trapline / limit",
            Summary::of(&[0.35]),
            Bar::AtLeast(0.7),
        );
        assert!(!figure.is_met());
        assert!(figure.to_string().contains("MISSED by 50 %"), "{figure}");
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(
            [1.234, 12.34, 123.4, 12345.6].map(short),
            ["1.23", "12.3", "123", "12346"]
        );
    }
}
