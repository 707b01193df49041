//! GDB agent expressions: the conditions of breakpoints, as bytecode that GDB compiles and a vCPU
//! evaluates where it stopped (rule B6).
//!
//! [`Expression::parse`] checks and decodes the bytecode once, when the breakpoint is set, so that
//! [`Expression::evaluate`], which runs at every hit, neither allocates nor looks at bytes again.
//! An expression reads registers and memory through an [`Environment`] and cannot change anything.
//!
//! The work of one evaluation is bounded by [`OPERATION_LIMIT`], its stack by [`STACK_CELLS`]. The
//! depth of the stack is checked as it runs: the manual lets two paths meet at different depths, so
//! no check in advance accepts every legal program, and the check costs one comparison.
//!
//! What a failed evaluation means for the breakpoint is the caller's to decide.
//!
//! Source: GDB manual, appendix "The GDB Agent Expression Mechanism", "General Bytecode Design" and
//! "Bytecode Descriptions".

use alloc::boxed::Box;

use trapline_arch::Gva;

mod decode;
mod error;
mod evaluate;
pub mod fuzz;
mod opcode;
mod operation;
#[cfg(test)]
mod tests;

pub use error::{EvaluateError, ExpressionError};
use operation::Operation;

/// The longest bytecode that is accepted, in bytes.
///
/// Decoded, each instruction takes 16 bytes, so one expression holds at most 64 KiB, and one of
/// the usual ten to twenty instructions less than 400 bytes.
pub const MAX_BYTECODE_BYTES: usize = 4096;

/// The most operations one evaluation executes before it gives up.
///
/// Only a loop reaches it, since [`MAX_BYTECODE_BYTES`] is less. Operations are cheap except the
/// memory reads, which walk page tables: the limit keeps the worst expression at some milliseconds.
pub const OPERATION_LIMIT: u32 = 10_000;

/// The number of 64-bit cells on the stack of an evaluation.
pub const STACK_CELLS: usize = 64;

/// A checked and decoded agent expression.
///
/// Holding one proves that every opcode is known and supported, no operand is cut short, every
/// jump leads to an instruction, and execution cannot run past the last instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// Not empty; the last one is [`Operation::End`] or [`Operation::Goto`], and jump targets are
    /// indices into this.
    operations: Box<[Operation]>,
}

impl Expression {
    /// Checks and decodes `bytecode`, given as bytes (not as the hexadecimal digits of a packet).
    ///
    /// # Errors
    ///
    /// Every variant of [`ExpressionError`], the first fault by offset winning; jumps are checked
    /// after all opcodes and operands.
    pub fn parse(bytecode: &[u8]) -> Result<Self, ExpressionError> {
        decode::decode(bytecode).map(|operations| Self { operations })
    }

    /// Returns how much memory the decoded expression takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.operations)
    }

    /// Evaluates the expression and returns the top of its stack; a condition holds if that is not
    /// zero.
    ///
    /// Arithmetic is 64-bit two's complement and wraps. Shifts take their count as unsigned: by 64
    /// or more they give 0, and a signed right shift copies of the sign bit. A signed division of
    /// the least number by -1 gives that number back, with remainder 0. Extending from 0 bits gives
    /// 0, from 64 or more the value itself.
    ///
    /// # Errors
    ///
    /// Every variant of [`EvaluateError`].
    pub fn evaluate(&self, environment: &mut dyn Environment) -> Result<u64, EvaluateError> {
        evaluate::evaluate(&self.operations, environment)
    }
}

/// What an expression can see of the vCPU that it is evaluated for.
pub trait Environment {
    /// Returns the value of the register that GDB's target description gives `number`, without
    /// sign extension, or `None` if there is no such register or it does not fit in 64 bits.
    fn register(&mut self, number: u16) -> Option<u64>;

    /// Fills `buffer`, which is 1, 2, 4 or 8 bytes long, from `address` on, and returns whether all
    /// of it could be read.
    ///
    /// Any alignment occurs, and so do ranges that cross a page. The address is the result of
    /// 64-bit arithmetic: an environment with narrower addresses has to cut it off, as the sum of a
    /// 32-bit stack pointer and a negative offset carries into the upper half.
    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool;

    /// Returns whether the vCPU's data accesses are big-endian.
    fn big_endian(&self) -> bool {
        false
    }
}
