//! What an instruction is going to do, read before the guest executes it.
//!
//! A stepper must know the few instructions that see or change what single-stepping hides, and a
//! watchpoint check must know which bytes an instruction touches. The decoding itself is left to
//! the `iced-x86` crate.

mod class;
mod disassembly;
mod faults;
mod operands;

use iced_x86::{Decoder, DecoderOptions, Instruction};

pub use class::StepClass;
pub use disassembly::{Syntax, disassemble};
pub use faults::Faults;
pub use operands::{MemoryAccess, MemoryOperand};

use super::CpuMode;
use crate::RegisterFile;

/// The longest instruction in bytes.
///
/// Source: SDM vol. 2A, "Instruction Prefixes".
pub const MAX_LEN_BYTES: usize = 15;

/// The size of code: its default operand and address size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CodeSize {
    /// 16-bit code.
    Bits16,
    /// 32-bit code.
    Bits32,
    /// 64-bit code.
    Bits64,
}

impl CodeSize {
    const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

impl From<CpuMode> for CodeSize {
    fn from(mode: CpuMode) -> Self {
        match mode {
            CpuMode::Real
            | CpuMode::Virtual8086
            | CpuMode::Protected16
            | CpuMode::Compatibility16 => Self::Bits16,
            CpuMode::Protected32 | CpuMode::Compatibility32 => Self::Bits32,
            CpuMode::Long64 => Self::Bits64,
        }
    }
}

/// Whether an instruction repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Repetition {
    /// It executes once.
    Once,
    /// It is a string instruction with a REP, REPE or REPNE prefix. A step is one iteration, and
    /// the instruction pointer stays until the last one.
    Repeats,
}

/// One decoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    instruction: Instruction,
}

/// Decodes the instruction at the start of `bytes`, which stands at `ip` (an offset in the code
/// segment, which is the linear address in 64-bit code).
///
/// Returns `None` if the bytes are no instruction or end inside one.
#[must_use]
pub fn decode(bytes: &[u8], size: CodeSize, ip: u64) -> Option<Decoded> {
    let bytes = bytes.get(..MAX_LEN_BYTES).unwrap_or(bytes);
    let mut decoder = Decoder::with_ip(size.bits(), bytes, ip, DecoderOptions::NONE);
    let instruction = decoder.can_decode().then(|| decoder.decode())?;
    (!instruction.is_invalid()).then_some(Decoded { instruction })
}

/// Decodes the instruction that a vCPU executes next from the bytes at its program counter.
///
/// Returns `None` if the bytes are no instruction or end inside one.
#[must_use]
pub fn decode_next(bytes: &[u8], registers: &RegisterFile) -> Option<Decoded> {
    let size = CpuMode::of(registers).into();
    decode(bytes, size, registers.u64(super::registers::RIP))
}

impl Decoded {
    /// Returns the length in bytes, 1 to [`MAX_LEN_BYTES`].
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.instruction.len()
    }

    /// Returns what kind of care a step over the instruction needs.
    #[must_use]
    pub fn class(&self) -> StepClass {
        class::classify(&self.instruction)
    }

    /// Returns the size in bytes of the values that an IRET takes from the stack, or `None` for
    /// another instruction.
    #[must_use]
    pub fn interrupt_return_size_bytes(&self) -> Option<u8> {
        use iced_x86::Mnemonic;
        match self.instruction.mnemonic() {
            Mnemonic::Iret => Some(2),
            Mnemonic::Iretd => Some(4),
            Mnemonic::Iretq => Some(8),
            _ => None,
        }
    }

    /// Returns whether the instruction repeats.
    #[must_use]
    pub fn repetition(&self) -> Repetition {
        let prefixed = self.instruction.has_rep_prefix() || self.instruction.has_repne_prefix();
        if prefixed && self.instruction.is_string_instruction() {
            Repetition::Repeats
        } else {
            Repetition::Once
        }
    }

    /// Returns whether the instruction is a call, near or far, that a step over must run through.
    #[must_use]
    pub fn is_call(&self) -> bool {
        use iced_x86::FlowControl;
        matches!(
            self.instruction.flow_control(),
            FlowControl::Call | FlowControl::IndirectCall
        )
    }

    /// Returns the offset of the next instruction in memory.
    #[must_use]
    pub const fn next_ip(&self) -> u64 {
        self.instruction.next_ip()
    }
}

#[cfg(test)]
mod tests;
