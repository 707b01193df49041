//! From bytecode to checked operations.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::operation::{Binary, Division, Operation, Unary};
use super::{ExpressionError, MAX_BYTECODE_BYTES, opcode};

/// Decodes a program into operations, whose jump targets are indices instead of byte offsets.
pub(super) fn decode(bytecode: &[u8]) -> Result<Box<[Operation]>, ExpressionError> {
    let len_bytes = bytecode.len();
    if len_bytes > MAX_BYTECODE_BYTES {
        return Err(ExpressionError::TooLong { len_bytes });
    }
    let mut operations = Vec::new();
    let mut offsets = Vec::new();
    let mut cursor = Cursor {
        bytecode,
        start: 0,
        offset: 0,
    };
    while cursor.offset < len_bytes {
        offsets.push(cursor.offset);
        operations.push(cursor.operation()?);
    }
    if !matches!(
        operations.last(),
        Some(Operation::End | Operation::Goto { .. })
    ) {
        return Err(ExpressionError::NoEnd);
    }
    resolve_jumps(&mut operations, &offsets)?;
    Ok(operations.into_boxed_slice())
}

/// Replaces byte offsets in jumps by indices. `offsets`, in ascending order, tells where each
/// operation starts.
fn resolve_jumps(operations: &mut [Operation], offsets: &[usize]) -> Result<(), ExpressionError> {
    for (operation, &offset) in operations.iter_mut().zip(offsets) {
        let (Operation::Goto { target } | Operation::IfGoto { target }) = operation else {
            continue;
        };
        let index = offsets.binary_search(&usize::from(*target)).ok();
        *target = index.and_then(|index| u16::try_from(index).ok()).ok_or(
            ExpressionError::JumpTarget {
                offset,
                target: *target,
            },
        )?;
    }
    Ok(())
}

/// A place in the bytecode; `start <= offset <= bytecode.len()`.
struct Cursor<'a> {
    bytecode: &'a [u8],
    /// Where the current instruction starts.
    start: usize,
    /// The next byte to take.
    offset: usize,
}

impl Cursor<'_> {
    /// Takes and decodes the next instruction. Jumps keep their target in bytes.
    fn operation(&mut self) -> Result<Operation, ExpressionError> {
        self.start = self.offset;
        let [opcode] = self.take()?;
        Ok(match opcode {
            opcode::END => Operation::End,

            opcode::CONST8 => Operation::Constant(u8::from_be_bytes(self.take()?).into()),
            opcode::CONST16 => Operation::Constant(u16::from_be_bytes(self.take()?).into()),
            opcode::CONST32 => Operation::Constant(u32::from_be_bytes(self.take()?).into()),
            opcode::CONST64 => Operation::Constant(u64::from_be_bytes(self.take()?)),
            opcode::REG => Operation::Register(u16::from_be_bytes(self.take()?)),
            opcode::REF8 => Operation::Reference { size_bytes: 1 },
            opcode::REF16 => Operation::Reference { size_bytes: 2 },
            opcode::REF32 => Operation::Reference { size_bytes: 4 },
            opcode::REF64 => Operation::Reference { size_bytes: 8 },

            opcode::LOG_NOT => Operation::Unary(Unary::LogNot),
            opcode::BIT_NOT => Operation::Unary(Unary::BitNot),
            opcode::EXT => Operation::Unary(Unary::Ext(u8::from_be_bytes(self.take()?))),
            opcode::ZERO_EXT => Operation::Unary(Unary::ZeroExt(u8::from_be_bytes(self.take()?))),

            opcode::ADD => Operation::Binary(Binary::Add),
            opcode::SUB => Operation::Binary(Binary::Sub),
            opcode::MUL => Operation::Binary(Binary::Mul),
            opcode::DIV_SIGNED => Operation::Divide(Division::DivSigned),
            opcode::DIV_UNSIGNED => Operation::Divide(Division::DivUnsigned),
            opcode::REM_SIGNED => Operation::Divide(Division::RemSigned),
            opcode::REM_UNSIGNED => Operation::Divide(Division::RemUnsigned),
            opcode::LSH => Operation::Binary(Binary::Lsh),
            opcode::RSH_SIGNED => Operation::Binary(Binary::RshSigned),
            opcode::RSH_UNSIGNED => Operation::Binary(Binary::RshUnsigned),
            opcode::BIT_AND => Operation::Binary(Binary::BitAnd),
            opcode::BIT_OR => Operation::Binary(Binary::BitOr),
            opcode::BIT_XOR => Operation::Binary(Binary::BitXor),
            opcode::EQUAL => Operation::Binary(Binary::Equal),
            opcode::LESS_SIGNED => Operation::Binary(Binary::LessSigned),
            opcode::LESS_UNSIGNED => Operation::Binary(Binary::LessUnsigned),

            opcode::GOTO => Operation::Goto {
                target: u16::from_be_bytes(self.take()?),
            },
            opcode::IF_GOTO => Operation::IfGoto {
                target: u16::from_be_bytes(self.take()?),
            },

            opcode::DUP => Operation::Pick { depth: 0 },
            opcode::PICK => Operation::Pick {
                depth: u8::from_be_bytes(self.take()?),
            },
            opcode::POP => Operation::Discard { count: 1 },
            opcode::SWAP => Operation::Swap,
            opcode::ROT => Operation::Rotate,

            // There is no trace buffer to record into; what is left is their effect on the stack.
            opcode::TRACE | opcode::TRACENZ => Operation::Discard { count: 2 },
            opcode::TRACE_QUICK => self.take().map(|[_]| Operation::Keep)?,
            opcode::TRACE16 => self.take().map(|[_, _]| Operation::Keep)?,

            opcode => return Err(self.refusal(opcode)),
        })
    }

    /// Returns why `opcode`, which starts the current instruction, cannot be decoded.
    fn refusal(&self, opcode: u8) -> ExpressionError {
        let offset = self.start;
        match opcode {
            opcode::FLOAT
            | opcode::REF_FLOAT
            | opcode::REF_DOUBLE
            | opcode::REF_LONG_DOUBLE
            | opcode::L_TO_D
            | opcode::D_TO_L
            | opcode::GETV
            | opcode::SETV
            | opcode::TRACEV
            | opcode::PRINTF => ExpressionError::UnsupportedOpcode { opcode, offset },
            _ => ExpressionError::UnknownOpcode { opcode, offset },
        }
    }

    /// Takes the next bytes of the current instruction.
    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN], ExpressionError> {
        let rest = self.bytecode.get(self.offset..).unwrap_or_default();
        let bytes = rest
            .first_chunk()
            .ok_or(ExpressionError::Truncated { offset: self.start })?;
        self.offset = self.offset.saturating_add(LEN);
        Ok(*bytes)
    }
}
