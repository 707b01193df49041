//! Rounds in which everybody is measured in turn, so that noise of a shared machine hits all alike.

use anyhow::{Context as _, Result};

use crate::stats::{Summary, median};

/// One of those that are compared.
pub(crate) struct Party<'a> {
    name: &'static str,
    sample: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Party<'a> {
    /// `sample` measures once.
    pub(crate) fn new(name: &'static str, sample: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self {
            name,
            sample: Box::new(sample),
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds; each party has its turn in each.
    pub(crate) rounds: u32,
    /// Samples at the start of a turn that do not count.
    pub(crate) warm_up: u32,
    /// Samples of a turn that count.
    pub(crate) samples: u32,
}

/// What was measured of one party.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) samples: Vec<f64>,
    /// The median of each round.
    pub(crate) rounds: Vec<f64>,
}

impl Measured {
    pub(crate) fn summary(&self) -> Summary {
        Summary::of(&self.samples)
    }
}

/// Measures all parties. The results are in their order.
pub(crate) fn measure<const N: usize>(
    plan: Plan,
    mut parties: [Party<'_>; N],
) -> Result<[Measured; N]> {
    let mut measured = core::array::from_fn(|index| Measured {
        name: parties.get(index).map_or("", |party| party.name),
        samples: Vec::new(),
        rounds: Vec::new(),
    });
    for _ in 0..plan.rounds {
        for (party, measured) in parties.iter_mut().zip(&mut measured) {
            let turn = turn(plan, party).with_context(|| format!("measuring {}", party.name))?;
            measured.rounds.push(median(&turn));
            measured.samples.extend(turn);
        }
    }
    Ok(measured)
}

fn turn(plan: Plan, party: &mut Party<'_>) -> Result<Vec<f64>> {
    for _ in 0..plan.warm_up {
        (party.sample)()?;
    }
    (0..plan.samples).map(|_| (party.sample)()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parties_take_turns_and_warm_up_does_not_count() {
        let order = core::cell::RefCell::new(Vec::new());
        let plan = Plan {
            rounds: 2,
            warm_up: 1,
            samples: 2,
        };
        let party = |name, value: f64| {
            let order = &order;
            Party::new(name, move || {
                order.borrow_mut().push(name);
                Ok(value)
            })
        };
        let [a, b] = measure(plan, [party("a", 1.0), party("b", 2.0)]).unwrap();
        assert_eq!(a.samples.len(), 4);
        assert_eq!(b.rounds, [2.0, 2.0]);
        assert_eq!(
            order.into_inner().concat(),
            "aaabbbaaabbb",
            "three samples each, in turn"
        );
    }
}
