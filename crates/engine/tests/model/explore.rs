//! Where the order of events comes from.

use std::collections::HashSet;

/// A source of choices.
pub(crate) enum Choices {
    /// Always the next in turn: fair.
    Fair(usize),
    /// Drawn by xorshift64.
    Random(u64),
    /// Replayed from a path, then always the first; what was open is noted for the search.
    Path(Path),
}

/// One path of a depth-first search.
#[derive(Default)]
pub(crate) struct Path {
    /// What was chosen, and of how many.
    taken: Vec<(usize, usize)>,
    position: usize,
    seen: HashSet<u64>,
}

impl Choices {
    pub(crate) fn random(seed: u64) -> Self {
        Self::Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Chooses a number below `count`, which is at least 1.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        assert!(count > 0);
        match self {
            Self::Fair(turn) => {
                *turn = turn.wrapping_add(1);
                *turn % count
            }
            Self::Random(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                (*state >> 8) as usize % count
            }
            Self::Path(path) => path.next(count),
        }
    }

    /// Returns whether the search wants to know the state reached now, to go no path twice.
    pub(crate) fn wants_state(&self) -> bool {
        matches!(self, Self::Path(path) if path.position >= path.taken.len())
    }

    /// Notes the state reached; returns whether it was reached before, so that all that can follow
    /// is known.
    pub(crate) fn is_known(&mut self, state: u64) -> bool {
        match self {
            Self::Path(path) => !path.seen.insert(state),
            _ => false,
        }
    }
}

impl Path {
    fn next(&mut self, count: usize) -> usize {
        if count == 1 {
            return 0;
        }
        if self.position == self.taken.len() {
            self.taken.push((0, count));
        }
        let (choice, of) = self.taken[self.position];
        assert_eq!(of, count, "the scenario is not the same twice");
        self.position += 1;
        choice
    }

    /// Moves to the next path; returns false if there is none.
    fn advance(&mut self) -> bool {
        self.position = 0;
        while let Some((choice, count)) = self.taken.pop() {
            if choice + 1 < count {
                self.taken.push((choice + 1, count));
                return true;
            }
        }
        false
    }
}

/// Runs `scenario` over every sequence of choices. Returns how many there were.
pub(crate) fn explore(limit: usize, mut scenario: impl FnMut(&mut Choices)) -> usize {
    let mut path = Path::default();
    for count in 1..=limit {
        let mut choices = Choices::Path(path);
        scenario(&mut choices);
        let Choices::Path(next) = choices else {
            unreachable!()
        };
        path = next;
        if !path.advance() {
            return count;
        }
    }
    panic!("more than {limit} interleavings");
}
