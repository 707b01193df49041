//! Sequences of exclusive accesses, which a stepper must run through in one go.
//!
//! Every exception clears the exclusive monitor, so a Store-Exclusive that is reached by single steps
//! always fails, and the loop around it never ends. A stepper that finds a Load-Exclusive at the pc
//! lets the vCPU run instead until it has left the sequence: with a breakpoint behind the
//! Store-Exclusive and one at the target of each branch that leads out before it.
//!
//! ```text
//!   ┌─▶ 1: ldaxr  w0, [x1]      ◀── pc
//!   │      cbnz   w0, 3f        ─── leaves: an exit
//!   │      stxr   w2, w3, [x1]
//!   └───   cbnz   w2, 1b        ◀── end: what failed by itself is tried again from here
//! ```
//!
//! A step that begins inside a sequence needs nothing: the Store-Exclusive fails once, and the loop
//! leads back to its Load-Exclusive.
//!
//! Source: Arm ARM, "Synchronization and semaphores", "Load-Exclusive and Store-Exclusive instruction
//! usage restrictions".

use alloc::vec::Vec;

use super::{Branch, Instruction, LEN_BYTES, StepClass};
use crate::Gva;

/// The longest sequence that is recognised, in instructions. The architecture promises progress to
/// loops whose two ends are no more than 128 bytes apart.
pub const MAX_SEQUENCE_INSTRUCTIONS: usize = 128 / LEN_BYTES + 1;

/// The way out of a sequence of exclusive accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExclusiveSequence {
    /// The address behind the last Store-Exclusive of the sequence.
    pub end: Gva,
    /// Where else the sequence can be left, in ascending order and each once: the targets of branches
    /// out of it. There are at most [`MAX_SEQUENCE_INSTRUCTIONS`].
    pub exits: Vec<Gva>,
    /// Whether a branch inside leads back inside, so that the vCPU may go round without ever leaving:
    /// it waits for memory to change. A stepper must be able to call it out.
    pub inner_loop: InnerLoop,
}

/// Whether a sequence can go round without passing its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InnerLoop {
    /// It can.
    Present,
    /// It cannot.
    Absent,
}

impl ExclusiveSequence {
    /// Finds the way out of the sequence that begins with a Load-Exclusive at `pc`, the address of the
    /// first byte of `code`.
    ///
    /// `None` if there is no Load-Exclusive at `pc`, if no Store-Exclusive follows it in `code` or in
    /// [`MAX_SEQUENCE_INSTRUCTIONS`], or if the sequence holds an instruction after which it is not
    /// known where it goes on: an indirect branch, a call, or one that raises an exception or waits.
    #[must_use]
    pub fn at(pc: Gva, code: &[u8]) -> Option<Self> {
        let instructions = || {
            let words = code.chunks_exact(LEN_BYTES).take(MAX_SEQUENCE_INSTRUCTIONS);
            let addresses = (0_u64..).map(|index| pc.wrapping_add(index.saturating_mul(4)));
            addresses.zip(words.filter_map(Instruction::from_bytes))
        };
        let (_, first) = instructions().next()?;
        if first.step_class() != StepClass::LoadExclusive {
            return None;
        }
        let mut branches = Vec::new();
        for (address, instruction) in instructions() {
            match instruction.step_class() {
                StepClass::StoreExclusive => {
                    let end = address.wrapping_add(LEN_BYTES as u64);
                    return Some(Self::new(pc, end, &branches));
                }
                StepClass::Plain
                | StepClass::LoadExclusive
                | StepClass::ClearExclusive
                | StepClass::ReadSystemRegister(_) => (),
                _ => return None,
            }
            match instruction.branch(address) {
                Some(Branch::Call(_)) => return None,
                Some(branch) => branches.push((address, branch.target())),
                None => (),
            }
        }
        None
    }

    fn new(start: Gva, end: Gva, branches: &[(Gva, Gva)]) -> Self {
        let is_inside = |target: Gva| start <= target && target < end;
        let mut exits: Vec<Gva> = branches
            .iter()
            .map(|(_, target)| *target)
            .filter(|target| !is_inside(*target) && *target != end)
            .collect();
        exits.sort_unstable();
        exits.dedup();
        let goes_round = branches
            .iter()
            .any(|(from, target)| is_inside(*target) && target <= from);
        Self {
            end,
            exits,
            inner_loop: if goes_round {
                InnerLoop::Present
            } else {
                InnerLoop::Absent
            },
        }
    }
}
