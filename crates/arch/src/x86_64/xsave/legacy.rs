//! The legacy region of an XSAVE area, which is an FXSAVE area.
//!
//! ```text
//!   0  FCW (2) FSW (2) abridged FTW (1) – (1) FOP (2)
//!   8  FIP (8): instruction pointer, or offset (4) and selector (2)
//!  16  FDP (8): data pointer, or offset (4) and selector (2)
//!  24  MXCSR (4) MXCSR_MASK (4)
//!  32  ST0–7, 16 bytes each, of which 10 are used
//! 160  XMM0–15, 16 bytes each
//! ```
//!
//! Source: SDM vol. 1, "Legacy Region of an XSAVE Area"; SDM vol. 2A, "FXSAVE".

use bitfield_struct::bitfield;

use super::Contents;
use crate::{
    RegisterFile, RegisterId,
    register_file::copy_common,
    x86_64::{
        registers,
        segment::{low_16, low_32},
    },
};

const FCW: usize = 0;
const FSW: usize = 2;
const FTW: usize = 4;
const FOP: usize = 6;
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;

/// How far apart two registers of one kind are, in bytes.
const STRIDE: usize = 16;

/// What FINIT leaves in the control word.
const INITIAL_FCW: u64 = 0x37f;
/// The full tag word when every register is empty.
const ALL_EMPTY: u16 = 0xffff;

/// Registers that are stored as they are, with their offset and the length of the field there.
const FIELDS: [(RegisterId, usize, usize); 7] = [
    (registers::FCTRL, FCW, 2),
    (registers::FSTAT, FSW, 2),
    (registers::FOP, FOP, 2),
    (registers::FIOFF, 8, 4),
    (registers::FISEG, 12, 4),
    (registers::FOOFF, 16, 4),
    (registers::FOSEG, 20, 4),
];

/// The x87 status word.
///
/// Source: SDM vol. 1, "x87 FPU Status Register".
#[bitfield(u16)]
struct StatusWord {
    #[bits(11)]
    __: u16,
    /// Which register is the top of the stack.
    #[bits(3)]
    top: u8,
    #[bits(2)]
    __: u8,
}

/// An element of the x87 stack.
///
/// Source: SDM vol. 1, "Floating-Point Data Types", double extended precision.
#[bitfield(u128)]
struct ExtendedFloat {
    #[bits(63)]
    fraction: u64,
    integer: bool,
    #[bits(15)]
    exponent: u16,
    sign: bool,
    #[bits(48)]
    __: u64,
}

/// The two bits of the full tag word for one register.
///
/// Source: SDM vol. 1, "x87 FPU Tag Word".
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    Valid = 0b00,
    Zero = 0b01,
    Special = 0b10,
    Empty = 0b11,
}

impl ExtendedFloat {
    const fn tag(self) -> Tag {
        match (self.exponent(), self.integer(), self.fraction()) {
            (0, false, 0) => Tag::Zero,
            (0 | 0x7fff, _, _) | (_, false, _) => Tag::Special,
            (_, true, _) => Tag::Valid,
        }
    }
}

/// Expands the abridged tag word of an FXSAVE area: one bit for each physical register, set if it
/// is not empty. `stack` is ST0–7, `status` the status word, whose TOP says which physical
/// register ST0 is.
#[must_use]
pub fn full_tag_word(abridged: u8, status: u16, stack: &[u128; 8]) -> u16 {
    let top = usize::from(StatusWord::from_bits(status).top());
    let tag = |physical: usize| {
        if u32::from(abridged).unbounded_shr(shift(physical)) & 1 == 0 {
            return Tag::Empty;
        }
        let element = physical.wrapping_sub(top) % 8;
        stack
            .get(element)
            .map_or(Tag::Empty, |bits| ExtendedFloat::from_bits(*bits).tag())
    };
    (0..8)
        .rev()
        .fold(0, |word, physical| word << 2 | tag(physical) as u16)
}

/// Abridges a full tag word to one bit for each physical register, set if it is not empty.
#[must_use]
pub fn short_tag_word(full: u16) -> u8 {
    let used = |physical: usize| {
        let tag = u32::from(full).unbounded_shr(shift(physical).saturating_mul(2)) & 0b11;
        u8::from(tag != u32::from(Tag::Empty as u8))
    };
    (0..8)
        .rev()
        .fold(0, |word, physical| word << 1 | used(physical))
}

fn shift(physical: usize) -> u32 {
    u32::try_from(physical).unwrap_or(u32::MAX)
}

/// Loads the x87 registers. `area` has at least 512 bytes.
pub(super) fn load_x87(area: &[u8], registers: &mut RegisterFile) {
    for (id, offset, len_bytes) in FIELDS {
        copy_common(registers.bytes_mut(id), field(area, offset, len_bytes));
    }
    for (id, offset) in x87_stack() {
        copy_common(registers.bytes_mut(id), field(area, offset, STRIDE));
    }
    let abridged = area.get(FTW).copied().unwrap_or_default();
    let status = low_16(registers.u64(registers::FSTAT));
    let tag_word = full_tag_word(abridged, status, &stack_values(registers));
    registers.set_u64(registers::FTAG, tag_word.into());
}

/// Gives the x87 registers their initial state.
pub(super) fn initialize_x87(registers: &mut RegisterFile) {
    for (id, ..) in FIELDS {
        registers.set_u64(id, 0);
    }
    for (id, _) in x87_stack() {
        registers.set_u64(id, 0);
    }
    registers.set_u64(registers::FCTRL, INITIAL_FCW);
    registers.set_u64(registers::FTAG, ALL_EMPTY.into());
}

/// Returns whether the x87 registers are in their initial state.
pub(super) fn is_initial_x87(registers: &RegisterFile) -> bool {
    let zero = |id| registers.bytes(id).iter().all(|byte| *byte == 0);
    registers.u64(registers::FCTRL) == INITIAL_FCW
        && registers.u64(registers::FTAG) == ALL_EMPTY.into()
        && FIELDS
            .iter()
            .all(|(id, ..)| *id == registers::FCTRL || zero(*id))
        && x87_stack().all(|(id, _)| zero(id))
}

/// Stores the x87 registers. `area` has at least 512 bytes.
pub(super) fn store_x87(registers: &RegisterFile, area: &mut [u8]) {
    for (id, offset, len_bytes) in FIELDS {
        copy_common(field_mut(area, offset, len_bytes), registers.bytes(id));
    }
    for (id, offset) in x87_stack() {
        copy_common(field_mut(area, offset, STRIDE), registers.bytes(id));
    }
    let abridged = short_tag_word(low_16(registers.u64(registers::FTAG)));
    copy_common(field_mut(area, FTW, 1), &[abridged]);
}

/// Loads MXCSR, which is always valid, and XMM0–15, which are 0 if they are not in use.
pub(super) fn load_sse(area: &[u8], registers: &mut RegisterFile, in_use: bool) {
    copy_common(registers.bytes_mut(registers::MXCSR), field(area, MXCSR, 4));
    for (id, offset) in xmm() {
        let value = if in_use {
            field(area, offset, STRIDE)
        } else {
            &[0; STRIDE]
        };
        copy_common(registers.bytes_mut(id), value);
    }
}

/// Stores MXCSR and XMM0–15.
pub(super) fn store_sse(registers: &RegisterFile, area: &mut [u8]) -> Contents {
    let mxcsr = low_32(registers.u64(registers::MXCSR));
    copy_common(field_mut(area, MXCSR, 4), &mxcsr.to_le_bytes());
    let mut contents = Contents::Initial;
    for (id, offset) in xmm() {
        let value = registers.bytes(id);
        copy_common(field_mut(area, offset, STRIDE), value);
        if value.iter().any(|byte| *byte != 0) {
            contents = Contents::Used;
        }
    }
    contents
}

fn stack_values(registers: &RegisterFile) -> [u128; 8] {
    let mut values = [0; 8];
    for (value, (id, _)) in values.iter_mut().zip(x87_stack()) {
        let mut bytes = [0; 16];
        copy_common(&mut bytes, registers.bytes(id));
        *value = u128::from_le_bytes(bytes);
    }
    values
}

/// ST0–7 and where they are.
fn x87_stack() -> impl Iterator<Item = (RegisterId, usize)> {
    (0..8).filter_map(registers::st).zip((ST..).step_by(STRIDE))
}

/// XMM0–15 and where they are.
fn xmm() -> impl Iterator<Item = (RegisterId, usize)> {
    (0..16)
        .filter_map(registers::xmm)
        .zip((XMM..).step_by(STRIDE))
}

fn field(area: &[u8], offset: usize, len_bytes: usize) -> &[u8] {
    area.get(offset..)
        .and_then(|rest| rest.get(..len_bytes))
        .unwrap_or_default()
}

fn field_mut(area: &mut [u8], offset: usize, len_bytes: usize) -> &mut [u8] {
    area.get_mut(offset..)
        .and_then(|rest| rest.get_mut(..len_bytes))
        .unwrap_or_default()
}
