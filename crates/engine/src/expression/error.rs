//! Why bytecode is refused, and why an evaluation fails.

use core::fmt;

use trapline_arch::Gva;

use super::{MAX_BYTECODE_BYTES, OPERATION_LIMIT, STACK_CELLS, opcode};

/// Why bytecode is no expression. Offsets are those of the opcode's byte, from the program's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpressionError {
    /// The program is longer than [`MAX_BYTECODE_BYTES`].
    TooLong {
        /// The program's length.
        len_bytes: usize,
    },
    /// The program ends inside an instruction's operand.
    Truncated {
        /// Where the instruction starts.
        offset: usize,
    },
    /// The opcode is none of the manual's.
    UnknownOpcode {
        /// The opcode.
        opcode: u8,
        /// Where it stands.
        offset: usize,
    },
    /// The opcode is the manual's, but has no meaning here: floating point, which was never
    /// specified; trace state variables, which exist only with tracepoints; and `printf`, which
    /// belongs to the commands of a breakpoint, not to its condition.
    UnsupportedOpcode {
        /// The opcode.
        opcode: u8,
        /// Where it stands.
        offset: usize,
    },
    /// A jump leads outside of the program or into the middle of an instruction.
    JumpTarget {
        /// Where the jump stands.
        offset: usize,
        /// Where it leads.
        target: u16,
    },
    /// Execution can run past the last instruction, which is neither `end` nor `goto`; an empty
    /// program is such a case.
    NoEnd,
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("agent expression ")?;
        match *self {
            Self::TooLong { len_bytes } => {
                write!(
                    f,
                    "of {len_bytes} bytes is longer than {MAX_BYTECODE_BYTES}"
                )
            }
            Self::Truncated { offset } => {
                write!(f, "is cut short in the instruction at offset {offset}")
            }
            Self::UnknownOpcode { opcode, offset } => {
                write!(f, "has an unknown opcode {opcode:#04x} at offset {offset}")
            }
            Self::UnsupportedOpcode { opcode, offset } => {
                let feature = feature(opcode);
                write!(
                    f,
                    "uses {feature} (opcode {opcode:#04x} at offset {offset}), unsupported"
                )
            }
            Self::JumpTarget { offset, target } => {
                write!(
                    f,
                    "jumps at offset {offset} to {target}, where no instruction starts"
                )
            }
            Self::NoEnd => f.write_str("can run past its last instruction"),
        }
    }
}

impl core::error::Error for ExpressionError {}

/// Returns what an unsupported opcode belongs to, in a user's words.
fn feature(opcode: u8) -> &'static str {
    match opcode {
        opcode::GETV | opcode::SETV | opcode::TRACEV => "trace state variables",
        opcode::PRINTF => "printf",
        _ => "floating point",
    }
}

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvaluateError {
    /// A divisor is zero.
    DivisionByZero,
    /// Memory cannot be read.
    Memory {
        /// The first address of the read.
        address: Gva,
    },
    /// A register does not exist or is wider than 64 bits.
    Register {
        /// Its number in the target description.
        number: u16,
    },
    /// A push finds [`STACK_CELLS`] cells on the stack.
    StackOverflow,
    /// An instruction, or the end of the program, needs more cells than are on the stack.
    StackUnderflow,
    /// [`OPERATION_LIMIT`] operations were executed.
    TooLong,
}

impl fmt::Display for EvaluateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DivisionByZero => f.write_str("division by zero"),
            Self::Memory { address } => write!(f, "cannot read memory at {address}"),
            Self::Register { number } => write!(f, "register {number} has no 64-bit value"),
            Self::StackOverflow => write!(f, "more than {STACK_CELLS} values on the stack"),
            Self::StackUnderflow => f.write_str("too few values on the stack"),
            Self::TooLong => write!(f, "no result after {OPERATION_LIMIT} operations"),
        }
    }
}

impl core::error::Error for EvaluateError {}
