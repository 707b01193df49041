//! How to find a function's caller in a kernel of AArch64: `.debug_frame` from the code itself.
//!
//! Such a kernel has no unwind tables. It keeps frame records, but not from a function's first
//! instruction to its last, and a debugger without debug information does not find out where they
//! are made. So the code is followed, whenever the section is read, and nothing is kept: every
//! function has a slot of the same size.
//!
//! ```text
//!  CIEs, one for each kind │ slot │ slot │ …        one per symbol of the kernel's code
//! ```
//!
//! Where the caller's stack pointer and x29 are, a slot tells. Where the return address is, a CIE tells
//! for all functions, by an expression: while x29 points into the function's own frame, in the record
//! there, else in x30. For x29 an expression would not do: each that asks for x29 has the debugger
//! evaluate the next frame's once more, and the time for a backtrace grows with the power of its depth.
//!
//! A return address may be signed (`CONFIG_ARM64_PTR_AUTH_KERNEL`). DWARF has an instruction for that,
//! but debuggers take the signature off only if they know the guest's masks, as GDB does from 13.2 on.
//! So the expression does: the high bits of a kernel's code address are all ones.
//!
//! Source: DWARF 4, "Call Frame Information"; DWARF for the Arm 64-bit Architecture, "DWARF Register
//! Names"; Procedure Call Standard for the Arm 64-bit Architecture, "The Frame Pointer".

mod instruction;
mod program;
mod scan;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::ops::Range;

use trapline_arch::Gva;

use super::dwarf::{
    DEF_CFA, NOP, OFFSET, OFFSET_EXTENDED, OP_BREG0, OP_DEREF, SAME_VALUE, VAL_EXPRESSION,
};
use crate::kallsyms::{Kallsyms, Symbol};
use crate::memory::{VirtualMemory, read_exact};
use program::{FRAME_POINTER, LINK_REGISTER, PC, PROGRAM_BYTES, SP};
use scan::{Description, Frame, Kind, REGISTERS_PC, Scan};

/// The size of a slot.
pub(crate) const SLOT_BYTES: usize = 52;

/// How much of a function's code is followed, in bytes; few are longer.
const MAX_CODE_BYTES: u64 = 8 << 10;

/// How much code is read at a time, in bytes.
const CHUNK_BYTES: usize = 512;

/// The longest name of a symbol that is looked at, in bytes.
const NAME_BYTES: usize = 512;

/// The part of a function that is seldom executed is a symbol of its own, named so.
const COLD: &[u8] = b".cold";

/// What `struct user_pt_regs` takes: 31 registers, sp, pc and the state.
const REGISTERS_BYTES: u16 = 272;

/// The number that says that an entry is a CIE.
const CIE_ID: [u8; 4] = [0xff; 4];

const KINDS: [Kind; 4] = [
    Kind::Function,
    Kind::StackSwitch,
    Kind::KernelException,
    Kind::UserException,
];

/// The section `.debug_frame` of a kernel, made when it is read.
pub(crate) struct CodeFrames {
    /// The CIEs.
    head: Vec<u8>,
    /// Where each kind's CIE is in it.
    cies: [u32; KINDS.len()],
    places: Vec<Place>,
}

/// A section of code.
struct Place {
    /// Its symbols, by number.
    symbols: Range<usize>,
    end: u64,
}

impl CodeFrames {
    /// Creates the section of the functions that are in `code`.
    pub(crate) fn new(symbols: &Kallsyms, code: impl Iterator<Item = Range<Gva>>) -> Self {
        let mut head = Vec::new();
        let first = symbols.address(symbols.first_in_image()).unwrap_or(0);
        let cies = KINDS.map(|kind| {
            let offset = u32::try_from(head.len()).unwrap_or(0);
            head.extend(cie(kind, first));
            offset
        });
        let number = |address: Gva| symbols.partition_point(|symbol| symbol < address.0);
        let places = code.map(|code| Place {
            symbols: number(code.start)..number(code.end),
            end: code.end.0,
        });
        Self {
            head,
            cies,
            places: places.collect(),
        }
    }

    /// Returns the length of the section in bytes.
    pub(crate) fn len(&self) -> u64 {
        let slots = self.places.iter().map(|place| place.symbols.len());
        let slots = slots.fold(0, usize::saturating_add);
        let len = slots.saturating_mul(SLOT_BYTES);
        len.saturating_add(self.head.len()) as u64
    }

    /// Makes the section from `offset` on and gives it to `put`, piece by piece, until that returns
    /// `false`. Of each piece, the bytes that are to be skipped are told.
    pub(crate) fn read(
        &self,
        symbols: &Kallsyms,
        code: &dyn VirtualMemory,
        offset: u64,
        put: &mut dyn FnMut(usize, &[u8]) -> bool,
    ) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let in_slots = offset.checked_sub(self.head.len());
        if in_slots.is_none() && !put(offset, &self.head) {
            return;
        }
        let in_slots = in_slots.unwrap_or(0);
        let (mut number, mut skip) = (in_slots / SLOT_BYTES, in_slots % SLOT_BYTES);
        for place in &self.places {
            let count = place.symbols.len();
            let first = place.symbols.start.saturating_add(number);
            number = number.saturating_sub(count);
            if first >= place.symbols.end {
                continue;
            }
            let range = first..place.symbols.end;
            for (index, symbol) in range.clone().zip(symbols.symbols_from(first)) {
                let next = symbols.address(index.saturating_add(1));
                let end = next.unwrap_or(u64::MAX).min(place.end);
                if !put(skip, &self.slot(&symbol, end, code)) {
                    return;
                }
                skip = 0;
            }
        }
    }

    /// Returns the slot of a symbol whose code is up to `end`.
    fn slot(&self, symbol: &Symbol<'_>, end: u64, code: &dyn VirtualMemory) -> [u8; SLOT_BYTES] {
        let mut slot = [NOP; SLOT_BYTES];
        let start = symbol.address.0;
        let Some(len_bytes) = end.checked_sub(start).filter(|len_bytes| *len_bytes > 0) else {
            // The next symbol has the same address. This place is filled by a CIE of no use.
            let filler = [SLOT_LEN.as_slice(), &CIE_ID, &CIE_FILLER];
            fill(&mut slot, filler.into_iter().flatten());
            return slot;
        };
        let description = describe(symbol, len_bytes, code);
        let kind = KINDS.iter().position(|kind| *kind == description.kind);
        let cie = kind.and_then(|kind| self.cies.get(kind)).copied();
        let parts = [
            SLOT_LEN.as_slice(),
            &cie.unwrap_or(0).to_le_bytes(),
            &start.to_le_bytes(),
            &len_bytes.to_le_bytes(),
            // No augmentation data.
            &[0],
            &description.program,
        ];
        fill(&mut slot, parts.into_iter().flatten());
        slot
    }
}

/// The length of a slot without the length's own four bytes.
const SLOT_LEN: [u8; 4] = [48, 0, 0, 0];
/// What follows a CIE's number: version 3, no augmentation, factors of 4 and −8, x30.
const CIE_FILLER: [u8; 5] = [3, 0, CODE_ALIGNMENT, DATA_ALIGNMENT, LINK_REGISTER];
/// Code is counted in instructions.
const CODE_ALIGNMENT: u8 = 4;
/// Stack slots are counted in words, downwards: −8 as a signed LEB128 number.
const DATA_ALIGNMENT: u8 = 0x78;

const _: () = assert!(8 + 16 + 1 + PROGRAM_BYTES == SLOT_BYTES);

fn fill<'a>(slot: &mut [u8; SLOT_BYTES], bytes: impl Iterator<Item = &'a u8>) {
    for (place, byte) in slot.iter_mut().zip(bytes) {
        *place = *byte;
    }
}

/// Follows a function's code.
fn describe(symbol: &Symbol<'_>, len_bytes: u64, code: &dyn VirtualMemory) -> Description {
    let first = if is_cold(symbol) {
        Frame::RECORD
    } else {
        Frame::ENTRY
    };
    let mut scan = Scan::new(first);
    let len_bytes = len_bytes.min(MAX_CODE_BYTES) & !3;
    let mut chunk = [0; CHUNK_BYTES];
    let mut at = 0_u32;
    for offset in (0..len_bytes).step_by(CHUNK_BYTES) {
        let left = usize::try_from(len_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let chunk = chunk.get_mut(..left.min(CHUNK_BYTES)).unwrap_or_default();
        if !read_exact(code, symbol.address.wrapping_add(offset), chunk) {
            if offset == 0 {
                // Most functions that one sees are those that have called others.
                scan = Scan::new(Frame::RECORD);
            }
            break;
        }
        for word in chunk.as_chunks::<4>().0 {
            scan.step(at, u32::from_le_bytes(*word));
            at = at.saturating_add(1);
        }
    }
    scan.finish()
}

/// Returns whether a symbol is a function's part to which the rest jumps.
fn is_cold(symbol: &Symbol<'_>) -> bool {
    let mut name = [0; NAME_BYTES];
    let name = symbol.name.copy_to(&mut name);
    name.windows(COLD.len()).any(|part| part == COLD)
}

/// Returns the CIE of a kind, for a kernel whose code begins at `text`.
///
/// A debugger takes a frame with the augmentation `S` for one that was interrupted: the program
/// counter before it is that of the next instruction, no return address, and its stack may be another
/// one. It has no name then, so that the entries of system calls do without.
fn cie(kind: Kind, text: u64) -> Vec<u8> {
    let (augmentation, return_address) = match kind {
        Kind::Function => (b"z\0".as_slice(), LINK_REGISTER),
        Kind::StackSwitch => (b"zS\0".as_slice(), LINK_REGISTER),
        Kind::KernelException => (b"zS\0".as_slice(), PC),
        Kind::UserException => (b"z\0".as_slice(), PC),
    };
    let mut bytes = [[0; 4], CIE_ID].concat();
    bytes.push(3);
    bytes.extend_from_slice(augmentation);
    bytes.extend_from_slice(&[CODE_ALIGNMENT, DATA_ALIGNMENT, return_address, 0]);
    match kind {
        Kind::Function | Kind::StackSwitch => {
            bytes.extend_from_slice(&[DEF_CFA, SP, 0]);
            bytes.extend_from_slice(&[SAME_VALUE, FRAME_POINTER]);
            bytes.extend(return_address_of(kind, text));
        }
        Kind::KernelException | Kind::UserException => bytes.extend(saved_registers()),
    }
    bytes.resize(bytes.len().next_multiple_of(8), NOP);
    let len = u32::try_from(bytes.len().saturating_sub(4)).unwrap_or(0);
    for (place, byte) in bytes.iter_mut().zip(len.to_le_bytes()) {
        *place = byte;
    }
    bytes
}

const OP_CONST1U: u8 = 0x08;
const OP_CONST1S: u8 = 0x09;
const OP_DUP: u8 = 0x12;
const OP_AND: u8 = 0x1a;
const OP_OR: u8 = 0x21;
const OP_SHL: u8 = 0x24;
const OP_BRA: u8 = 0x28;
const OP_GE: u8 = 0x2a;
const OP_GT: u8 = 0x2b;
const OP_SKIP: u8 = 0x2f;
const OP_X29: u8 = OP_BREG0 + FRAME_POINTER;
const OP_X30: u8 = OP_BREG0 + LINK_REGISTER;
const OP_SP: u8 = OP_BREG0 + SP;

/// Whether x29 points into this frame: below the caller's stack pointer, which is on the expression's
/// stack at first, and not below the function's own, unless that is on another stack.
fn has_record(kind: Kind) -> Vec<u8> {
    let mut bytes = Vec::from([OP_X29, 0, OP_GT]);
    if kind != Kind::StackSwitch {
        bytes.extend_from_slice(&[OP_X29, 0, OP_SP, 0, OP_GE, OP_AND]);
    }
    bytes
}

/// Says that x30 is `has_record ? *(x29 + 8) : x30`, with all high bits set that `text` has, but zero
/// as it is: that ends the stack. Distances of jumps are in bytes.
fn return_address_of(kind: Kind, text: u64) -> Vec<u8> {
    let low_bits = 64_u32.saturating_sub(text.leading_ones().max(1));
    let low_bits = u8::try_from(low_bits).unwrap_or(0);
    let mut expression = has_record(kind);
    expression.extend_from_slice(&[OP_BRA, 5, 0, OP_X30, 0, OP_SKIP, 3, 0, OP_X29, 8, OP_DEREF]);
    expression.extend_from_slice(&[OP_DUP, OP_BRA, 3, 0, OP_SKIP, 6, 0]);
    expression.extend_from_slice(&[OP_CONST1S, 0xff, OP_CONST1U, low_bits, OP_SHL, OP_OR]);
    let len = u8::try_from(expression.len()).unwrap_or(0);
    [&[VAL_EXPRESSION, LINK_REGISTER, len], expression.as_slice()].concat()
}

/// Says that `struct user_pt_regs` is at the stack pointer. Its end identifies the frame.
fn saved_registers() -> Vec<u8> {
    let [low, high] = REGISTERS_BYTES.to_le_bytes();
    let mut bytes = Vec::from([DEF_CFA, SP, low & 0x7f | 0x80, high << 1 | low >> 7]);
    let words = [SP, PC].map(|register| (OFFSET_EXTENDED, register));
    let general = (0..=LINK_REGISTER).map(|register| (OFFSET, register));
    for (instruction, register) in general.chain(words) {
        let slot = (REGISTERS_WORDS).saturating_sub(register);
        match instruction {
            OFFSET => bytes.extend_from_slice(&[OFFSET | register, slot]),
            _ => bytes.extend_from_slice(&[instruction, register, slot]),
        }
    }
    bytes
}

/// [`REGISTERS_BYTES`] in words: a register's slot is this less its DWARF number, for they are in
/// that order.
const REGISTERS_WORDS: u8 = 34;

const _: () =
    assert!(REGISTERS_WORDS as u16 * 8 == REGISTERS_BYTES && PC as u32 * 8 == REGISTERS_PC);
