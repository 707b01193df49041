//! Writing the instructions of one function's call frame information.

use crate::call_frames::dwarf::{
    ADVANCE_LOC, ADVANCE_LOC1, ADVANCE_LOC2, DEF_CFA, DEF_CFA_OFFSET, DEF_CFA_REGISTER, OFFSET,
    REMEMBER_STATE, RESTORE, RESTORE_EXTENDED, RESTORE_STATE, UNDEFINED,
};

/// DWARF numbers of registers (DWARF for the Arm 64-bit Architecture, "DWARF Register Names").
pub(super) const FRAME_POINTER: u8 = 29;
pub(super) const LINK_REGISTER: u8 = 30;
pub(super) const SP: u8 = 31;
pub(super) const PC: u8 = 32;

/// The room for a function's instructions, in bytes: enough to set a frame up in either usual way
/// and for two of its ends.
pub(super) const PROGRAM_BYTES: usize = 27;

/// What the caller's stack pointer is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Sp,
    FramePointer,
}

/// The caller's stack pointer: the base plus an offset in bytes. DWARF calls it the canonical frame
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cfa {
    pub(super) base: Base,
    pub(super) offset: u32,
}

impl Cfa {
    /// As a call leaves it.
    pub(super) const ENTRY: Self = Self {
        base: Base::Sp,
        offset: 0,
    };
}

/// What holds from an instruction on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) cfa: Cfa,
    /// How many words below the caller's stack pointer the caller's x29 is, if not in x29.
    pub(super) saved: Option<u32>,
}

impl Row {
    /// As a call leaves it.
    const ENTRY: Self = Self {
        cfa: Cfa::ENTRY,
        saved: None,
    };
}

/// Instructions under construction.
///
/// What deviates from a whole frame, as a function's ends do, is a group that is left out where it
/// does not fit.
#[derive(Clone, Copy)]
pub(super) struct Program {
    bytes: [u8; PROGRAM_BYTES],
    len: usize,
    /// The instruction up to which the code is described, and what holds from there on.
    at: u32,
    last: Row,
    group: Option<Group>,
    /// A group was left out: nothing is written before this holds again.
    awaited: Option<Row>,
    is_full: bool,
}

/// What was there before a group.
#[derive(Clone, Copy)]
struct Group {
    len: usize,
    at: u32,
    row: Row,
}

impl Program {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; PROGRAM_BYTES],
            len: 0,
            at: 0,
            last: Row::ENTRY,
            group: None,
            awaited: None,
            is_full: false,
        }
    }

    pub(super) const fn bytes(&self) -> &[u8; PROGRAM_BYTES] {
        &self.bytes
    }

    /// Says that `row` holds from instruction `at` on.
    pub(super) fn row(&mut self, at: u32, row: Row) {
        if let Some(awaited) = self.awaited {
            if row == awaited {
                self.awaited = None;
            }
            return;
        }
        if self.is_full || row == self.last {
            return;
        }
        let mut longer = *self;
        if longer.write(at, row).is_some() {
            *self = longer;
            return;
        }
        match longer.group.take() {
            Some(group) => {
                self.awaited = (row != group.row).then_some(group.row);
                let rest = self.bytes.get_mut(group.len..).unwrap_or_default();
                rest.fill(0);
                (self.len, self.at, self.last) = (group.len, group.at, group.row);
                self.group = None;
            }
            None => self.is_full = true,
        }
    }

    /// Says that the program counter is not known from instruction `at` on.
    pub(super) fn pc_undefined(&mut self, at: u32) {
        let mut longer = *self;
        if longer.advance(at).is_some() && longer.push(&[UNDEFINED, PC]).is_some() {
            *self = longer;
        }
    }

    /// Says that the program counter is where it is for all such functions from instruction `at` on.
    pub(super) fn pc_as_initially(&mut self, at: u32) {
        let mut longer = *self;
        if longer.advance(at).is_some() && longer.push(&[RESTORE_EXTENDED, PC]).is_some() {
            *self = longer;
        }
    }

    fn write(&mut self, at: u32, row: Row) -> Option<()> {
        let last = self.last;
        if self.group.is_none() && last.saved.is_some() && row.saved.is_none() {
            self.group = Some(Group {
                len: self.len,
                at: self.at,
                row: last,
            });
            self.push(&[REMEMBER_STATE])?;
        }
        self.advance(at)?;
        match self.group {
            Some(group) if group.row == row => {
                self.push(&[RESTORE_STATE])?;
                self.group = None;
            }
            _ => self.change(last, row)?,
        }
        self.last = row;
        Some(())
    }

    fn change(&mut self, last: Row, row: Row) -> Option<()> {
        self.change_cfa(last.cfa, row.cfa)?;
        match row.saved {
            saved if saved == last.saved => {}
            Some(words) => {
                self.push(&[OFFSET | FRAME_POINTER])?;
                self.unsigned(words)?;
            }
            None => self.push(&[RESTORE | FRAME_POINTER])?,
        }
        Some(())
    }

    fn change_cfa(&mut self, last: Cfa, cfa: Cfa) -> Option<()> {
        let register = match cfa.base {
            Base::Sp => SP,
            Base::FramePointer => FRAME_POINTER,
        };
        match (last.base == cfa.base, last.offset == cfa.offset) {
            (true, true) => {}
            (true, false) => {
                self.push(&[DEF_CFA_OFFSET])?;
                self.unsigned(cfa.offset)?;
            }
            (false, true) => self.push(&[DEF_CFA_REGISTER, register])?,
            (false, false) => {
                self.push(&[DEF_CFA, register])?;
                self.unsigned(cfa.offset)?;
            }
        }
        Some(())
    }

    fn advance(&mut self, at: u32) -> Option<()> {
        let distance = at.saturating_sub(self.at);
        self.at = at;
        let [low, high, ..] = distance.to_le_bytes();
        match distance {
            0 => Some(()),
            1..0x40 => self.push(&[ADVANCE_LOC | low]),
            0x40..0x100 => self.push(&[ADVANCE_LOC1, low]),
            0x100..0x1_0000 => self.push(&[ADVANCE_LOC2, low, high]),
            _ => None,
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// Appends an unsigned LEB128 number.
    fn unsigned(&mut self, mut value: u32) -> Option<()> {
        while value >= 0x80 {
            self.push(&[value.to_le_bytes()[0] | 0x80])?;
            value >>= 7;
        }
        self.push(&[value.to_le_bytes()[0]])
    }
}
