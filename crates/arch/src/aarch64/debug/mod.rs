//! Debug registers: breakpoints, watchpoints, and which of them an exception came from.
//!
//! A processor has 2 to 16 breakpoints (DBGBVR, DBGBCR) and 2 to 16 watchpoints (DBGWVR, DBGWCR).
//! What a guest has linked to a context (a process, a virtual machine) is recognised, so that a
//! debugger leaves it alone.

mod beside;
mod control;
mod hit;
mod privilege;

use alloc::vec::Vec;

use thiserror::Error;

pub use beside::Beside;
pub use control::{BreakpointType, Dbgbcr, Dbgwcr, LoadStore, Mdscr};
pub use hit::{Access, WatchHit, watch_hits};
pub use privilege::{Privileges, SecurityState};

use super::registers::{self, MAX_DEBUG_SLOTS};
use crate::{Gva, RegisterFile, RegisterId};

/// The address registers hold bits 63:2 or 63:3. Bits above the virtual address are copies of the
/// highest one.
const INSTRUCTION_BYTES: u64 = 4;
const DOUBLEWORD_BYTES: u64 = 8;

/// How many addresses the debug registers can hold, breakpoints and watchpoints together.
pub const SLOT_COUNT: usize = 2 * MAX_DEBUG_SLOTS as usize;

/// The longest range that one watchpoint can watch: 2 GiB.
pub const MAX_WATCH_BYTES: u64 = 1 << 31;

/// One pair of DBGBVR and DBGBCR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoint {
    /// DBGBVR: an address, or a context where the control register says so.
    pub value: u64,
    /// DBGBCR.
    pub control: Dbgbcr,
}

impl Breakpoint {
    /// A breakpoint on the instruction at `address`, at EL1 and EL0 of the non-secure state.
    #[must_use]
    pub const fn at(address: Gva) -> Self {
        Self {
            value: address.align_down(INSTRUCTION_BYTES).0,
            control: Privileges::EL1_AND_EL0
                .in_breakpoint(Dbgbcr::new())
                .with_e(true)
                .with_bas(0b1111),
        }
    }

    /// Returns whether the breakpoint is on and matches the address of an instruction at
    /// `address`. Other conditions (privileges, a linked context) are not looked at.
    ///
    /// Source: Arm ARM, "Breakpoint instruction address comparisons".
    #[must_use]
    pub const fn matches(self, address: Gva) -> bool {
        self.control.e()
            && self.control.bt().compares_address()
            && self.value & !0b11 == address.0 & !0b11
            && self.selects(address)
    }

    /// A32 and A64 instructions select all four bytes; of T32 ones each half selects its own.
    const fn selects(self, address: Gva) -> bool {
        let half = address.0 & 0b10;
        self.control.bas() >> half & 0b1 != 0
    }
}

/// One pair of DBGWVR and DBGWCR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watchpoint {
    /// DBGWVR: the address of the doubleword, or of the range.
    pub value: u64,
    /// DBGWCR.
    pub control: Dbgwcr,
}

impl Watchpoint {
    /// A watchpoint on one piece of memory, at EL1 and EL0 of the non-secure state.
    #[must_use]
    pub const fn on(piece: WatchPiece, kind: LoadStore) -> Self {
        let control = Privileges::EL1_AND_EL0
            .in_watchpoint(Dbgwcr::new())
            .with_e(true)
            .with_lsc(kind);
        match piece {
            WatchPiece::Bytes { doubleword, select } => Self {
                value: doubleword.0,
                control: control.with_bas(select),
            },
            WatchPiece::Range { start, mask } => Self {
                value: start.0,
                control: control.with_bas(0xff).with_mask(mask),
            },
        }
    }

    /// Returns whether the byte at `address` is watched.
    ///
    /// Source: Arm ARM, "Watchpoint data address comparisons".
    #[must_use]
    pub const fn watches(self, address: Gva) -> bool {
        if !self.control.e() {
            return false;
        }
        let size = self.block_bytes();
        let is_in_block = address.align_down(size).0 == Gva(self.value).align_down(size).0;
        let byte = address.offset_in(DOUBLEWORD_BYTES);
        is_in_block && (self.is_range() || self.control.bas() >> byte & 1 == 1)
    }

    /// Returns the lowest watched byte from `first` to `last`, both included.
    #[must_use]
    pub fn lowest_watched(self, first: Gva, last: Gva) -> Option<Gva> {
        let start = Gva(self.value).align_down(self.block_bytes());
        let end = start.wrapping_add(self.block_bytes().wrapping_sub(1));
        let (first, last) = (first.max(start), last.min(end));
        if self.is_range() {
            return (first <= last && self.watches(first)).then_some(first);
        }
        (first.0..=last.0).map(Gva).find(|byte| self.watches(*byte))
    }

    const fn is_range(self) -> bool {
        self.control.mask() > 2
    }

    /// Returns the size of the aligned block that the watched bytes are in. The values 1 and 2 of
    /// MASK are reserved and count as none.
    const fn block_bytes(self) -> u64 {
        match self.control.mask() {
            0..=2 => DOUBLEWORD_BYTES,
            mask => 1 << mask,
        }
    }
}

/// A piece of memory that one watchpoint can watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchPiece {
    /// Adjacent bytes of one aligned doubleword.
    Bytes {
        /// The doubleword's address.
        doubleword: Gva,
        /// Which of its bytes, the lowest in bit 0: the field BAS.
        select: u8,
    },
    /// An aligned range.
    Range {
        /// The first byte.
        start: Gva,
        /// The binary logarithm of the length in bytes, 4 to 31: the field MASK.
        mask: u8,
    },
}

impl WatchPiece {
    /// Returns the first byte.
    #[must_use]
    pub const fn start(self) -> Gva {
        match self {
            Self::Bytes { doubleword, select } => {
                doubleword.wrapping_add(select.trailing_zeros() as u64)
            }
            Self::Range { start, .. } => start,
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn len_bytes(self) -> u64 {
        match self {
            Self::Bytes { select, .. } => select.count_ones() as u64,
            Self::Range { mask, .. } => 1_u64.unbounded_shl(mask as u32),
        }
    }
}

/// Why a range cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The range is empty.
    #[error("an empty range cannot be watched")]
    Empty,
    /// The range goes past the end of the address space.
    #[error("the range at {address} leaves the address space")]
    Wraps {
        /// Where the range starts.
        address: Gva,
    },
    /// The range needs more watchpoints than there are.
    #[error("{len_bytes} bytes at {address} need more than {available} watchpoint registers")]
    TooLong {
        /// Where the range starts.
        address: Gva,
        /// Its length in bytes.
        len_bytes: u64,
        /// How many watchpoints there are.
        available: usize,
    },
}

/// Splits a range into the fewest pieces that watchpoints can watch, in ascending order: at most
/// `available` of them.
///
/// # Errors
///
/// See [`WatchError`].
pub fn split_watch(
    address: Gva,
    len_bytes: u64,
    available: usize,
) -> Result<Vec<WatchPiece>, WatchError> {
    if len_bytes == 0 {
        return Err(WatchError::Empty);
    }
    if address.0.checked_add(len_bytes.saturating_sub(1)).is_none() {
        return Err(WatchError::Wraps { address });
    }
    let mut pieces = Vec::new();
    let (mut next, mut rest) = (address, len_bytes);
    while rest != 0 {
        if pieces.len() >= available {
            return Err(WatchError::TooLong {
                address,
                len_bytes,
                available,
            });
        }
        let piece = longest_piece(next, rest);
        pieces.push(piece);
        next = next.wrapping_add(piece.len_bytes());
        rest = rest.saturating_sub(piece.len_bytes());
    }
    Ok(pieces)
}

/// Returns the longest piece that starts at `address` and has no more than `rest` bytes, at least 1.
fn longest_piece(address: Gva, rest: u64) -> WatchPiece {
    let alignment = address.0.trailing_zeros().min(31);
    let fits = rest.checked_ilog2().unwrap_or(0);
    let mask = alignment.min(fits);
    if mask > 3
        && let Ok(mask) = u8::try_from(mask)
    {
        return WatchPiece::Range {
            start: address,
            mask,
        };
    }
    let offset = address.offset_in(DOUBLEWORD_BYTES);
    let count = rest.min(DOUBLEWORD_BYTES.saturating_sub(offset));
    let select = (0..DOUBLEWORD_BYTES)
        .filter(|byte| *byte >= offset && byte.saturating_sub(offset) < count)
        .fold(0, |select: u8, byte| select | 1 << byte);
    WatchPiece::Bytes {
        doubleword: address.align_down(DOUBLEWORD_BYTES),
        select,
    }
}

/// All debug registers of a vCPU together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    /// DBGBVR and DBGBCR. Those that the processor has not are off.
    pub breakpoints: [Breakpoint; MAX_DEBUG_SLOTS as usize],
    /// DBGWVR and DBGWCR. Those that the processor has not are off.
    pub watchpoints: [Watchpoint; MAX_DEBUG_SLOTS as usize],
    /// MDSCR.
    pub mdscr: Mdscr,
}

impl Default for DebugRegisters {
    /// Nothing is on.
    fn default() -> Self {
        Self {
            breakpoints: [Breakpoint::default(); MAX_DEBUG_SLOTS as usize],
            watchpoints: [Watchpoint::default(); MAX_DEBUG_SLOTS as usize],
            mdscr: Mdscr::new(),
        }
    }
}

impl DebugRegisters {
    /// Reads a vCPU's debug registers.
    #[must_use]
    pub fn read(registers: &RegisterFile) -> Self {
        let mut debug = Self {
            mdscr: Mdscr::from_bits(registers.u64(registers::MDSCR_EL1)),
            ..Self::default()
        };
        for (index, breakpoint) in (0..).zip(&mut debug.breakpoints) {
            let value = |first| value_of(registers, first, index);
            *breakpoint = Breakpoint {
                value: value(registers::DBGBVR0_EL1),
                control: Dbgbcr::from_bits(value(registers::DBGBCR0_EL1)),
            };
        }
        for (index, watchpoint) in (0..).zip(&mut debug.watchpoints) {
            let value = |first| value_of(registers, first, index);
            *watchpoint = Watchpoint {
                value: value(registers::DBGWVR0_EL1),
                control: Dbgwcr::from_bits(value(registers::DBGWCR0_EL1)),
            };
        }
        debug
    }

    /// Writes a vCPU's debug registers.
    pub fn write(&self, registers: &mut RegisterFile) {
        registers.set_u64(registers::MDSCR_EL1, self.mdscr.into_bits());
        for (index, breakpoint) in (0..).zip(&self.breakpoints) {
            let mut set = |first, value| set_value(registers, first, index, value);
            set(registers::DBGBVR0_EL1, breakpoint.value);
            set(registers::DBGBCR0_EL1, breakpoint.control.into_bits());
        }
        for (index, watchpoint) in (0..).zip(&self.watchpoints) {
            let mut set = |first, value| set_value(registers, first, index, value);
            set(registers::DBGWVR0_EL1, watchpoint.value);
            set(registers::DBGWCR0_EL1, watchpoint.control.into_bits());
        }
    }
}

fn value_of(registers: &RegisterFile, first: RegisterId, index: u8) -> u64 {
    registers::nth(first, Some(index)).map_or(0, |id| registers.u64(id))
}

fn set_value(registers: &mut RegisterFile, first: RegisterId, index: u8, value: u64) {
    if let Some(id) = registers::nth(first, Some(index)) {
        registers.set_u64(id, value);
    }
}

#[cfg(test)]
mod tests;
