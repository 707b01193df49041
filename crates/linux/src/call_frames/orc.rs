//! Entries of the ORC tables, whose numbers have changed over the kernel's versions.
//!
//! ```text
//!  i16 sp_offset │ i16 bp_offset │ u16: sp_reg:4 bp_reg:4 type:2 or 3 …
//! ```

/// How to find the caller from some address on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unwind {
    /// The caller's stack pointer, or `None` where the stack ends or nothing is known.
    pub(super) frame: Option<Frame>,
    /// Where the caller's frame pointer is.
    pub(super) frame_pointer: FramePointer,
}

/// Where the caller's stack pointer and return address are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// It is `base + offset`, and the return address is in the word below it.
    Call { base: Base, offset: i16 },
    /// All registers were saved at `base + offset`, as `struct pt_regs`.
    Registers { base: Base, offset: i16 },
    /// What the processor pushes for an interrupt is at `base + offset`.
    Interrupt { base: Base, offset: i16 },
}

/// What an offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// A register, by its DWARF number.
    Register(u8),
    /// The word that RSP points to.
    AtStackPointer,
    /// The word at RBP plus the offset, to which nothing is added.
    AtFramePointer,
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FramePointer {
    /// In its register.
    Unchanged,
    /// At this distance from the caller's stack pointer.
    Saved(i16),
}

/// DWARF numbers of registers (System V ABI for x86-64, "DWARF Register Number Mapping").
pub(super) mod dwarf_register {
    pub(crate) const RAX: u8 = 0;
    pub(crate) const RDX: u8 = 1;
    pub(crate) const RDI: u8 = 5;
    pub(crate) const RBP: u8 = 6;
    pub(crate) const RSP: u8 = 7;
    pub(crate) const R10: u8 = 10;
    pub(crate) const R13: u8 = 13;
    pub(crate) const RETURN_ADDRESS: u8 = 16;
}
use dwarf_register::{R10, R13, RAX, RBP, RDI, RDX, RSP};

/// One entry as it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OrcEntry {
    sp_offset: i16,
    bp_offset: i16,
    sp_register: u8,
    bp_register: u8,
    /// The type and the bits above it, which differ between versions.
    type_bits: u8,
}

impl OrcEntry {
    pub(super) const LEN_BYTES: usize = 6;

    pub(super) fn from_bytes(bytes: [u8; Self::LEN_BYTES]) -> Self {
        let [s0, s1, b0, b1, registers, type_bits] = bytes;
        Self {
            sp_offset: i16::from_le_bytes([s0, s1]),
            bp_offset: i16::from_le_bytes([b0, b1]),
            sp_register: registers & 0xf,
            bp_register: registers >> 4,
            type_bits,
        }
    }
}

/// Which numbers a kernel's tables use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OrcFormat {
    /// Linux 6.4 gave the end of the stack and the unknown types of their own.
    has_end_types: bool,
    /// Later kernels number the registers anew.
    registers: &'static [Option<Base>; 16],
}

/// The number of the register on which the previous frame's frame pointer is saved relative to:
/// the caller's stack pointer, in either numbering.
const PREVIOUS_SP: [u8; 2] = [1, 8];

const fn register(number: u8) -> Option<Base> {
    Some(Base::Register(number))
}

/// Numbers up to 2025: undefined, previous SP, DX, DI, BP, SP, R10, R13, BP indirect, SP indirect.
static FIRST_NUMBERS: [Option<Base>; 16] = [
    None,
    None,
    register(RDX),
    register(RDI),
    register(RBP),
    register(RSP),
    register(R10),
    register(R13),
    Some(Base::AtFramePointer),
    Some(Base::AtStackPointer),
    None,
    None,
    None,
    None,
    None,
    None,
];

/// Later numbers: undefined, AX, DX, SP, BP, DI, R10, R13, previous SP, SP indirect, BP indirect.
static LATER_NUMBERS: [Option<Base>; 16] = [
    None,
    register(RAX),
    register(RDX),
    register(RSP),
    register(RBP),
    register(RDI),
    register(R10),
    register(R13),
    None,
    Some(Base::AtStackPointer),
    Some(Base::AtFramePointer),
    None,
    None,
    None,
    None,
    None,
];

/// The type of an ordinary function from Linux 6.4 on; before it was 0.
const CALL_TYPE: u8 = 2;

impl OrcFormat {
    /// Tells the numbers from entries: in any kernel most describe ordinary functions, whose frames
    /// are found from the stack pointer.
    pub(super) fn guess(entries: &[(u64, OrcEntry)]) -> Self {
        let count = |test: fn(&OrcEntry) -> bool| entries.iter().filter(|(_, e)| test(e)).count();
        let later = count(|entry| entry.sp_register == 3);
        let first = count(|entry| entry.sp_register == 5);
        let with_type = count(|entry| entry.type_bits & 7 == CALL_TYPE);
        Self {
            has_end_types: with_type > entries.len() / 2,
            registers: if later > first {
                &LATER_NUMBERS
            } else {
                &FIRST_NUMBERS
            },
        }
    }

    /// Returns what an entry says.
    pub(super) fn unwind(&self, entry: OrcEntry) -> Unwind {
        let base = self
            .registers
            .get(usize::from(entry.sp_register))
            .copied()
            .flatten();
        let offset = entry.sp_offset;
        // Types before Linux 6.4 begin with that of calls.
        let kind = if self.has_end_types {
            entry.type_bits & 7
        } else {
            (entry.type_bits & 3).saturating_add(CALL_TYPE)
        };
        let frame = base.and_then(|base| match kind {
            2 => Some(Frame::Call { base, offset }),
            3 => Some(Frame::Registers { base, offset }),
            4 => Some(Frame::Interrupt { base, offset }),
            _ => None,
        });
        let [first, later] = PREVIOUS_SP;
        let previous_sp = if core::ptr::eq(self.registers, &LATER_NUMBERS) {
            later
        } else {
            first
        };
        let frame_pointer = if entry.bp_register == previous_sp {
            FramePointer::Saved(entry.bp_offset)
        } else {
            FramePointer::Unchanged
        };
        Unwind {
            frame,
            frame_pointer,
        }
    }
}
