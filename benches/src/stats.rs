//! Medians and their spread.

use serde_json::{Value, json};

/// A measured quantity: its median and the range that holds the middle 80 % of the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p90: f64,
}

impl Summary {
    /// Summarizes samples; of none it is not a number.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |tenths: usize| {
            let last = sorted.len().saturating_sub(1);
            sorted.get(last * tenths / 10).copied().unwrap_or(f64::NAN)
        };
        Self {
            p10: at(1),
            median: at(5),
            p90: at(9),
        }
    }

    pub(crate) fn to_json(self) -> Value {
        json!({ "median": self.median, "p10": self.p10, "p90": self.p90 })
    }
}

/// Divides what was measured in the same rounds: each pair met the same noise.
pub(crate) fn ratios(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    numerators
        .iter()
        .zip(denominators)
        .map(|(numerator, denominator)| numerator / denominator)
        .collect()
}

/// Returns the median.
pub(crate) fn median(samples: &[f64]) -> f64 {
    Summary::of(samples).median
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_ignores_the_order() {
        let samples: Vec<f64> = [10, 3, 7, 1, 9, 2, 8, 4, 6, 5, 0].map(f64::from).to_vec();
        let summary = Summary::of(&samples);
        assert_eq!((summary.p10, summary.median, summary.p90), (1.0, 5.0, 9.0));
    }

    #[test]
    fn one_sample_is_its_own_spread() {
        let summary = Summary::of(&[2.5]);
        assert_eq!((summary.p10, summary.median, summary.p90), (2.5, 2.5, 2.5));
        assert!(Summary::of(&[]).median.is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), [2.0, 3.0]);
    }
}
