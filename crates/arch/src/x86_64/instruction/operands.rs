//! The memory an instruction touches.

use alloc::vec::Vec;

use iced_x86::{InstructionInfoFactory, OpAccess, Register, UsedMemory};

use super::Decoded;
use crate::{
    Gva, RegisterFile,
    register_file::copy_common,
    x86_64::{CpuMode, SegmentRegister, mode::linear, registers},
};

/// How memory is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryAccess {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// It is read and written.
    ReadWrite,
}

/// A range of memory that an instruction touches, or may touch (masked vector elements, the
/// memory operand of a comparison that decides whether to write).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The linear address of the first byte.
    pub address: Gva,
    /// How many bytes there are; 0 where the instruction decides it by more than its encoding
    /// (XSAVE).
    pub len_bytes: u64,
    /// How they are accessed.
    pub access: MemoryAccess,
}

impl Decoded {
    /// Returns the memory that the instruction touches when it executes with `registers`: its
    /// operands, and what it pushes, pops or moves implicitly. A string instruction with a repeat
    /// prefix counts for one iteration; the fetch of the instruction does not count, nor do
    /// accesses to descriptor tables and the frames of interrupts.
    ///
    /// Gathers and scatters need the groups `General`, `System` and `Fpu`, all else the first two.
    #[must_use]
    pub fn memory_operands(&self, registers: &RegisterFile) -> Vec<MemoryOperand> {
        let mut factory = InstructionInfoFactory::new();
        let used = factory.info(&self.instruction).used_memory();
        used.iter()
            .flat_map(|memory| self.operand(memory, registers))
            .collect()
    }

    /// Returns the ranges of one operand: one, or one for each element of a gather or scatter.
    fn operand(
        &self,
        memory: &UsedMemory,
        registers: &RegisterFile,
    ) -> impl Iterator<Item = MemoryOperand> {
        let access = access_of(memory.access());
        let elements = match memory.vsib_size() {
            0 => 1,
            _ => self.element_count(memory),
        };
        let size = memory.memory_size();
        let len_bytes = match (memory.vsib_size(), size.size()) {
            // What a repeated string instruction touches in all is not known beforehand.
            (0, 0) if self.instruction.is_string_instruction() => {
                self.instruction.memory_size().size()
            }
            (0, len_bytes) => len_bytes,
            (_, _) => size.element_size(),
        };
        (0..elements).filter_map(move |element| {
            let address = memory.virtual_address(element, |register, element, size| {
                value_of(registers, register, element, size)
            })?;
            Some(MemoryOperand {
                address: wrapped(registers, address),
                len_bytes: u64::try_from(len_bytes).ok()?,
                access: access?,
            })
        })
    }

    /// Returns how many elements a gather or scatter has: as many as the shorter of its index
    /// vector and its data vector holds.
    fn element_count(&self, memory: &UsedMemory) -> usize {
        let per = |register: Register, size: usize| {
            register
                .size()
                .checked_div(size)
                .filter(|count| *count != 0)
        };
        let index_size = usize::try_from(memory.vsib_size()).unwrap_or(usize::MAX);
        let indices = per(memory.index(), index_size);
        let data_register = [
            self.instruction.op0_register(),
            self.instruction.op1_register(),
        ]
        .into_iter()
        .find(|register| register.is_vector_register());
        let data =
            data_register.and_then(|register| per(register, memory.memory_size().element_size()));
        match (indices, data) {
            (Some(indices), Some(data)) => indices.min(data),
            (Some(count), None) | (None, Some(count)) => count,
            (None, None) => 0,
        }
    }
}

const fn access_of(access: OpAccess) -> Option<MemoryAccess> {
    match access {
        OpAccess::Read | OpAccess::CondRead => Some(MemoryAccess::Read),
        OpAccess::Write | OpAccess::CondWrite => Some(MemoryAccess::Write),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => Some(MemoryAccess::ReadWrite),
        OpAccess::None | OpAccess::NoMemAccess => None,
    }
}

/// Wraps an address where the mode's linear addresses have 32 bits.
fn wrapped(registers: &RegisterFile, address: u64) -> Gva {
    match CpuMode::of(registers) {
        CpuMode::Long64 => Gva(address),
        _ => Gva(address & u64::from(u32::MAX)),
    }
}

/// Returns a register's value, a segment's base, or an element of an index vector.
fn value_of(
    file: &RegisterFile,
    register: Register,
    element: usize,
    element_bytes: usize,
) -> Option<u64> {
    if let Some(segment) = segment(register) {
        return Some(linear(file, segment, 0).0);
    }
    if register.is_vector_register() {
        return vector_element(file, register.number(), element, element_bytes);
    }
    let id = *registers::BY_ENCODING.get(register.number())?;
    match register.size() {
        8 if register.is_gpr64() => Some(file.u64(id)),
        4 if register.is_gpr32() => Some(file.u64(id) & u64::from(u32::MAX)),
        2 if register.is_gpr16() => Some(file.u64(id) & u64::from(u16::MAX)),
        // XLAT indexes by AL, which is the lowest byte of number 0 as the 8-bit registers that
        // a REX prefix selects are of theirs.
        1 if register == Register::AL => Some(file.u64(id) & u64::from(u8::MAX)),
        _ => None,
    }
}

const fn segment(register: Register) -> Option<SegmentRegister> {
    Some(match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::DS => SegmentRegister::Ds,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => return None,
    })
}

/// Returns an element of the vector register `number`, whose bytes lie in three parts of the
/// register file.
fn vector_element(
    file: &RegisterFile,
    number: usize,
    element: usize,
    element_bytes: usize,
) -> Option<u64> {
    let mut bytes = [0; 64];
    let (low, rest) = bytes.split_at_mut(16);
    let (middle, high) = rest.split_at_mut(16);
    copy_common(low, file.bytes(registers::xmm(number)?));
    copy_common(middle, file.bytes(registers::ymmh(number)?));
    copy_common(high, file.bytes(registers::zmmh(number)?));
    let start = element.checked_mul(element_bytes)?;
    let mut value = [0; 8];
    copy_common(value.get_mut(..element_bytes)?, bytes.get(start..)?);
    Some(u64::from_le_bytes(value))
}
