//! Writing `.debug_frame`.
//!
//! ```text
//!  CIE │ FDE │ FDE │ …      each: length, CIE pointer, [start, length of the code], instructions
//! ```
//!
//! Source: DWARF 4, sections "Structure of Call Frame Information" and "Call Frame Instructions".

use alloc::vec::Vec;

use super::orc::dwarf_register::{RBP, RETURN_ADDRESS, RSP};
use super::orc::{Base, Frame, FramePointer, Unwind};

pub(super) const NOP: u8 = 0x00;
pub(super) const ADVANCE_LOC: u8 = 0x40;
pub(super) const ADVANCE_LOC1: u8 = 0x02;
pub(super) const ADVANCE_LOC2: u8 = 0x03;
const ADVANCE_LOC4: u8 = 0x04;
pub(super) const OFFSET: u8 = 0x80;
pub(super) const OFFSET_EXTENDED: u8 = 0x05;
const OFFSET_EXTENDED_SF: u8 = 0x11;
pub(super) const RESTORE: u8 = 0xc0;
pub(super) const RESTORE_EXTENDED: u8 = 0x06;
pub(super) const REMEMBER_STATE: u8 = 0x0a;
pub(super) const RESTORE_STATE: u8 = 0x0b;
pub(super) const UNDEFINED: u8 = 0x07;
pub(super) const SAME_VALUE: u8 = 0x08;
pub(super) const DEF_CFA: u8 = 0x0c;
pub(super) const DEF_CFA_REGISTER: u8 = 0x0d;
pub(super) const DEF_CFA_OFFSET: u8 = 0x0e;
const DEF_CFA_SF: u8 = 0x12;
const DEF_CFA_EXPRESSION: u8 = 0x0f;
const EXPRESSION: u8 = 0x10;
pub(super) const VAL_EXPRESSION: u8 = 0x16;

pub(super) const OP_DEREF: u8 = 0x06;
const OP_PLUS: u8 = 0x22;
const OP_CONSTS: u8 = 0x11;
pub(super) const OP_BREG0: u8 = 0x70;

/// Offsets in `struct pt_regs` (Linux, `arch/x86/include/asm/ptrace.h`).
const REGISTERS_RBP: i64 = 32;
const REGISTERS_RIP: i64 = 128;
const REGISTERS_RSP: i64 = 152;
/// The stack pointer in what the processor pushes for an interrupt.
const FRAME_RSP: i64 = 24;

/// Stack slots are counted in words, downwards.
const DATA_ALIGNMENT: i64 = -8;

/// A CIE of version 3 with augmentation `z`: code counted in bytes, slots of −8 bytes, return address
/// in register 16; its length first.
const CIE: [u8; CIE_BYTES] = [
    20,
    0,
    0,
    0,
    0xff,
    0xff,
    0xff,
    0xff,
    3,
    b'z',
    0,
    1,
    0x78,
    RETURN_ADDRESS,
    0,
    DEF_CFA,
    RSP,
    8,
    OFFSET | RETURN_ADDRESS,
    1,
    0,
    0,
    0,
    0,
];

/// The same for what a debugger calls a signal frame (augmentation `zS`): the caller's pc is the next
/// instruction, not a return address, and its stack may be another one.
const SIGNAL_CIE: [u8; CIE_BYTES] = [
    20,
    0,
    0,
    0,
    0xff,
    0xff,
    0xff,
    0xff,
    3,
    b'z',
    b'S',
    0,
    1,
    0x78,
    RETURN_ADDRESS,
    0,
    DEF_CFA,
    RSP,
    8,
    OFFSET | RETURN_ADDRESS,
    1,
    0,
    0,
    0,
];

const CIE_BYTES: usize = 24;

/// Where an FDE says which CIE is its own: behind its length.
const CIE_POINTER_AT: usize = 4;
/// Where the length of the code is in an FDE: behind its own length, the CIE pointer and the start.
const CODE_LEN_AT: usize = 16;

/// Call frame information under construction.
pub(super) struct FrameWriter {
    bytes: Vec<u8>,
    /// The FDE under construction.
    piece: Option<Piece>,
}

struct Piece {
    /// Where it begins in the output.
    at: usize,
    start: u64,
    /// Up to where the code is described.
    address: u64,
    last: Option<Unwind>,
    /// A debugger has to treat it as a signal frame.
    is_signal: bool,
}

/// Returns whether a function with such a row is a signal frame: it is entered by an interrupt, or it
/// has gone to another stack, where debuggers else take the way back for the end.
///
/// A function that saves all registers, but does not begin with them saved, is the entry of system
/// calls: nothing was interrupted there, and a debugger is to show its name.
fn is_signal(frame: Option<Frame>, is_first: bool) -> bool {
    match frame {
        Some(Frame::Interrupt { .. }) => true,
        Some(Frame::Registers { .. }) => is_first,
        Some(Frame::Call { base, .. }) => base == Base::AtStackPointer,
        None => false,
    }
}

impl FrameWriter {
    pub(super) fn new() -> Self {
        let bytes = [CIE.as_slice(), SIGNAL_CIE.as_slice()].concat();
        Self { bytes, piece: None }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Says how to unwind from `address` on, in a new piece if asked for, as at the start of a
    /// function.
    pub(super) fn row(&mut self, address: u64, unwind: &Unwind, begins_piece: bool) {
        let fits = self.piece.as_ref().is_some_and(|piece| {
            !begins_piece && u32::try_from(address.wrapping_sub(piece.address)).is_ok()
        });
        if !fits {
            self.end_piece(address);
            self.begin_piece(address);
        }
        let Some(piece) = self.piece.as_mut() else {
            return;
        };
        piece.is_signal |= is_signal(unwind.frame, piece.last.is_none());
        if piece.last == Some(*unwind) {
            return;
        }
        let distance = u32::try_from(address.wrapping_sub(piece.address)).unwrap_or(0);
        let last = piece.last.replace(*unwind);
        piece.address = address;
        self.advance(distance);
        self.unwind(unwind, last);
    }

    /// Ends the last piece at `end` and gives away what was written.
    pub(super) fn finish(&mut self, end: u64) -> Vec<u8> {
        let end = self
            .piece
            .as_ref()
            .map_or(end, |piece| end.max(piece.address));
        self.end_piece(end);
        self.bytes.shrink_to_fit();
        core::mem::take(&mut self.bytes)
    }

    fn begin_piece(&mut self, start: u64) {
        let at = self.bytes.len();
        self.piece = Some(Piece {
            at,
            start,
            address: start,
            last: None,
            is_signal: false,
        });
        // The length, the CIE pointer (that of the first), the start, the length of the code, and no
        // augmentation data.
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&start.to_le_bytes());
        self.bytes.extend_from_slice(&[0; 9]);
    }

    fn end_piece(&mut self, end: u64) {
        let Some(piece) = self.piece.take() else {
            return;
        };
        let Piece { at, start, .. } = piece;
        if end <= start {
            // A later row for the same address takes its place.
            self.bytes.truncate(at);
            return;
        }
        let padded = self.bytes.len().saturating_sub(at).next_multiple_of(8);
        self.bytes.resize(at.saturating_add(padded), 0);
        let len = self.bytes.len().saturating_sub(at).saturating_sub(4);
        self.patch(at, &u32::try_from(len).unwrap_or(0).to_le_bytes());
        self.patch(
            at.saturating_add(CODE_LEN_AT),
            &end.saturating_sub(start).to_le_bytes(),
        );
        if piece.is_signal {
            let cie = u32::try_from(CIE.len()).unwrap_or(0);
            self.patch(at.saturating_add(CIE_POINTER_AT), &cie.to_le_bytes());
        }
    }

    fn patch(&mut self, at: usize, value: &[u8]) {
        let to = self.bytes.get_mut(at..).unwrap_or_default();
        for (byte, new) in to.iter_mut().zip(value) {
            *byte = *new;
        }
    }

    fn advance(&mut self, distance: u32) {
        match (u8::try_from(distance), distance) {
            (_, 0) => {}
            (Ok(short), 1..0x40) => self.bytes.push(ADVANCE_LOC | short),
            (Ok(short), _) => self.bytes.extend_from_slice(&[ADVANCE_LOC1, short]),
            (Err(_), _) => {
                self.bytes.push(ADVANCE_LOC4);
                self.bytes.extend_from_slice(&distance.to_le_bytes());
            }
        }
    }

    /// Writes what differs from the row before; with none before, everything.
    fn unwind(&mut self, unwind: &Unwind, last: Option<Unwind>) {
        if last.map(|last| last.frame) != Some(unwind.frame) {
            self.frame(unwind.frame, last.and_then(|last| last.frame));
        }
        let saves_all = matches!(unwind.frame, Some(Frame::Registers { .. }));
        let saved_all =
            last.is_some_and(|last| matches!(last.frame, Some(Frame::Registers { .. })));
        let is_same = last.map(|last| last.frame_pointer) == Some(unwind.frame_pointer);
        if saves_all || (is_same && !saved_all) {
            return;
        }
        match unwind.frame_pointer {
            FramePointer::Unchanged => self.bytes.extend_from_slice(&[SAME_VALUE, RBP]),
            FramePointer::Saved(offset) => self.saved(RBP, offset.into()),
        }
    }

    fn frame(&mut self, frame: Option<Frame>, last: Option<Frame>) {
        match frame {
            None => self.bytes.extend_from_slice(&[UNDEFINED, RETURN_ADDRESS]),
            Some(Frame::Call { base, offset }) => {
                self.caller_stack(base, offset.into());
                if !matches!(last, Some(Frame::Call { .. })) {
                    self.saved(RETURN_ADDRESS, DATA_ALIGNMENT);
                }
            }
            Some(Frame::Registers { base, offset }) => {
                let at = |field: i64| i64::from(offset).saturating_add(field);
                self.at_address(DEF_CFA_EXPRESSION, None, base, at(REGISTERS_RSP), true);
                self.at_address(
                    EXPRESSION,
                    Some(RETURN_ADDRESS),
                    base,
                    at(REGISTERS_RIP),
                    false,
                );
                self.at_address(EXPRESSION, Some(RBP), base, at(REGISTERS_RBP), false);
            }
            Some(Frame::Interrupt { base, offset }) => {
                let at = |field: i64| i64::from(offset).saturating_add(field);
                self.at_address(DEF_CFA_EXPRESSION, None, base, at(FRAME_RSP), true);
                self.at_address(EXPRESSION, Some(RETURN_ADDRESS), base, at(0), false);
            }
        }
    }

    /// Says where the caller's stack pointer is.
    fn caller_stack(&mut self, base: Base, offset: i64) {
        match base {
            Base::Register(number) if offset >= 0 => {
                self.bytes.extend_from_slice(&[DEF_CFA, number]);
                self.unsigned(offset.unsigned_abs());
            }
            Base::Register(number) => {
                self.bytes.extend_from_slice(&[DEF_CFA_SF, number]);
                self.signed(offset / DATA_ALIGNMENT);
            }
            Base::AtStackPointer | Base::AtFramePointer => {
                self.at_address(DEF_CFA_EXPRESSION, None, base, offset, false);
            }
        }
    }

    /// Says that a register is saved at a distance from the caller's stack pointer.
    fn saved(&mut self, register: u8, distance: i64) {
        let slot = distance / DATA_ALIGNMENT;
        match u64::try_from(slot) {
            Ok(slot) => {
                self.bytes.push(OFFSET | register);
                self.unsigned(slot);
            }
            Err(_) => {
                self.bytes
                    .extend_from_slice(&[OFFSET_EXTENDED_SF, register]);
                self.signed(slot);
            }
        }
    }

    /// Writes an instruction whose operand is an expression for `base + offset`, or for what stands
    /// there.
    fn at_address(
        &mut self,
        instruction: u8,
        register: Option<u8>,
        base: Base,
        offset: i64,
        is_loaded: bool,
    ) {
        let mut expression = Self {
            bytes: Vec::new(),
            piece: None,
        };
        match base {
            Base::Register(number) => {
                expression.bytes.push(OP_BREG0.saturating_add(number));
                expression.signed(offset);
            }
            Base::AtStackPointer => {
                expression
                    .bytes
                    .extend_from_slice(&[OP_BREG0 + RSP, 0, OP_DEREF, OP_CONSTS]);
                expression.signed(offset);
                expression.bytes.push(OP_PLUS);
            }
            Base::AtFramePointer => {
                expression.bytes.push(OP_BREG0 + RBP);
                expression.signed(offset);
                expression.bytes.push(OP_DEREF);
            }
        }
        if is_loaded {
            expression.bytes.push(OP_DEREF);
        }
        self.bytes.push(instruction);
        self.bytes.extend(register);
        self.unsigned(expression.bytes.len() as u64);
        self.bytes.extend_from_slice(&expression.bytes);
    }

    /// Appends an unsigned LEB128 number.
    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(low_bits(value) | 0x80);
            value >>= 7;
        }
        self.bytes.push(low_bits(value));
    }

    /// Appends a signed LEB128 number.
    fn signed(&mut self, mut value: i64) {
        while !(-0x40..0x40).contains(&value) {
            self.bytes.push(low_bits(value.cast_unsigned()) | 0x80);
            value >>= 7;
        }
        self.bytes.push(low_bits(value.cast_unsigned()));
    }
}

/// Returns the lowest seven bits.
fn low_bits(value: u64) -> u8 {
    value.to_le_bytes()[0] & 0x7f
}
