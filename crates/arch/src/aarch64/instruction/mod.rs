//! What an instruction is going to do, read before the guest executes it.
//!
//! A stepper must know the few instructions that see or change what single-stepping hides, or that do
//! not make progress when they are stepped one by one; a watchpoint check must know which bytes an
//! instruction accesses. Only A64 is decoded. Disassembly for people is left to the `yaxpeax-arm`
//! crate.
//!
//! Source: Arm ARM, "A64 Instruction Set Encoding".

mod class;
mod disassembly;
mod exclusive;
mod operands;

pub use class::{Branch, StepClass, SystemRegister};
pub use disassembly::disassemble;
pub use exclusive::{ExclusiveSequence, InnerLoop, MAX_SEQUENCE_INSTRUCTIONS};

/// The length of every A64 instruction in bytes.
pub const LEN_BYTES: usize = 4;

/// BRK #0, the instruction that GDB and LLDB plant.
pub const BRK: [u8; LEN_BYTES] = [0x00, 0x00, 0x20, 0xd4];

/// One A64 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Instruction(pub u32);

impl Instruction {
    /// Takes the instruction at the start of `bytes`, or `None` if they end inside it.
    /// Instructions are little-endian whatever the byte order of data.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<LEN_BYTES>()?;
        Some(Self(u32::from_le_bytes(*bytes)))
    }

    /// Returns whether the bits of `mask` have the value `value`.
    const fn is(self, mask: u32, value: u32) -> bool {
        self.0 & mask == value
    }

    /// Returns the field of `bits` bits from bit `low` on.
    const fn field(self, low: u32, bits: u32) -> u32 {
        self.0.unbounded_shr(low) & !u32::MAX.unbounded_shl(bits)
    }

    const fn bit(self, number: u32) -> bool {
        self.field(number, 1) == 1
    }

    /// Returns the field of `bits` bits from bit `low` on, whose highest bit is its sign.
    const fn signed_field(self, low: u32, bits: u32) -> i64 {
        let unused = 64_u32.saturating_sub(bits);
        let value = self.field(low, bits) as u64;
        value
            .unbounded_shl(unused)
            .cast_signed()
            .wrapping_shr(unused)
    }

    /// Returns the number of a register in the field of 5 bits from bit `low` on.
    #[expect(clippy::cast_possible_truncation, reason = "five bits")]
    const fn register(self, low: u32) -> u8 {
        self.field(low, 5) as u8
    }
}

#[cfg(test)]
mod tests;
