//! When a breakpoint or watchpoint counts as a hit.

use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::{Gva, Layout};

use crate::expression::{self, Expression};

/// What a condition may look at.
pub(crate) trait Environment {
    /// Returns the register that has `number` in `layout`.
    fn register(&mut self, layout: &Layout, number: u16) -> Option<u64>;
    /// Reads virtual memory; returns whether all of it could be read.
    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool;
}

/// An agent expression with the register numbers of the session that sent it.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    /// What to evaluate.
    pub(crate) expression: Arc<Expression>,
    /// What its register numbers mean.
    pub(crate) layout: Arc<Layout>,
}

impl Term {
    /// Returns how much memory the term takes, in bytes. The layout is the session's.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.expression.memory_bytes())
    }
}

/// When a breakpoint or watchpoint counts as a hit.
#[derive(Clone, Debug, Default)]
pub(crate) enum Condition {
    /// At each hit.
    #[default]
    Always,
    /// When any of these is not zero, or cannot be evaluated: GDB then evaluates it itself and
    /// tells the user why (GDB manual, "Packets", `cond_list`).
    Any(Vec<Term>),
}

impl Condition {
    /// Makes the condition that holds if one of `terms` does, or always if there are none.
    pub(crate) fn of(terms: Vec<Term>) -> Self {
        if terms.is_empty() {
            Self::Always
        } else {
            Self::Any(terms)
        }
    }

    /// Returns whether this hit counts.
    pub(crate) fn holds(&self, environment: &mut dyn Environment) -> bool {
        match self {
            Self::Always => true,
            Self::Any(terms) => terms.iter().any(|term| {
                let mut numbered = Numbered {
                    environment,
                    layout: &term.layout,
                };
                term.expression.evaluate(&mut numbered) != Ok(0)
            }),
        }
    }
}

/// An environment whose registers have the numbers of one layout.
struct Numbered<'a> {
    environment: &'a mut dyn Environment,
    layout: &'a Layout,
}

impl expression::Environment for Numbered<'_> {
    fn register(&mut self, number: u16) -> Option<u64> {
        self.environment.register(self.layout, number)
    }

    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool {
        self.environment.read_memory(address, buffer)
    }
}
