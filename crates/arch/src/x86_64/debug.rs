//! Debug registers: four slots for breakpoints and watchpoints.

use alloc::vec::Vec;

use bitfield_struct::bitfield;
use thiserror::Error;

use super::{control::stored_in, registers};
use crate::{Gva, RegisterFile, RegisterId};

/// How many addresses the debug registers can watch.
pub const SLOT_COUNT: usize = 4;

const ADDRESS_REGISTERS: [RegisterId; SLOT_COUNT] = [
    registers::DR0,
    registers::DR1,
    registers::DR2,
    registers::DR3,
];

stored_in! { Dr6: DR6, Dr7: DR7 }

/// The debug status register. The processor sets bits and never clears them.
///
/// Source: SDM vol. 3B, "Debug Status Register (DR6)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Dr6 {
    /// Which slots' conditions were met, slot 0 in bit 0. A bit may be set for a disabled slot.
    #[bits(4)]
    pub b: u8,
    /// Reads 1.
    #[bits(7, default = 0x7f)]
    pub reserved_10_4: u8,
    /// Clear if a bus lock was taken.
    #[bits(default = true)]
    pub bld: bool,
    /// Reads 0.
    pub reserved_12: bool,
    /// A debug register was accessed while DR7.GD was set.
    pub bd: bool,
    /// A single step ended.
    pub bs: bool,
    /// A task switch to a task with its T flag set.
    pub bt: bool,
    /// Clear if it happened inside a transactional region.
    #[bits(default = true)]
    pub rtm: bool,
    /// Reads 1.
    #[bits(15, default = 0x7fff)]
    pub reserved_31_17: u16,
    /// Reads 0.
    pub reserved_63_32: u32,
}

/// The debug control register.
///
/// Source: SDM vol. 3B, "Debug Control Register (DR7)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Dr7 {
    /// Slot 0 is on until the next task switch.
    pub l0: bool,
    /// Slot 0 is on.
    pub g0: bool,
    /// Slot 1 is on until the next task switch.
    pub l1: bool,
    /// Slot 1 is on.
    pub g1: bool,
    /// Slot 2 is on until the next task switch.
    pub l2: bool,
    /// Slot 2 is on.
    pub g2: bool,
    /// Slot 3 is on until the next task switch.
    pub l3: bool,
    /// Slot 3 is on.
    pub g3: bool,
    /// Exact data breakpoints until the next task switch; ignored since P6.
    pub le: bool,
    /// Exact data breakpoints; ignored since P6.
    pub ge: bool,
    /// Reads 1.
    #[bits(default = true)]
    pub reserved_10: bool,
    /// Debugging of transactional regions.
    pub rtm: bool,
    /// Reads 0.
    pub reserved_12: bool,
    /// An access to a debug register raises #DB.
    pub gd: bool,
    /// Reads 0.
    #[bits(2)]
    pub reserved_15_14: u8,
    /// What slot 0 watches for.
    #[bits(2)]
    pub rw0: SlotKind,
    /// How much slot 0 watches.
    #[bits(2)]
    pub len0: SlotLength,
    /// What slot 1 watches for.
    #[bits(2)]
    pub rw1: SlotKind,
    /// How much slot 1 watches.
    #[bits(2)]
    pub len1: SlotLength,
    /// What slot 2 watches for.
    #[bits(2)]
    pub rw2: SlotKind,
    /// How much slot 2 watches.
    #[bits(2)]
    pub len2: SlotLength,
    /// What slot 3 watches for.
    #[bits(2)]
    pub rw3: SlotKind,
    /// How much slot 3 watches.
    #[bits(2)]
    pub len3: SlotLength,
    /// Reads 0.
    pub reserved_63_32: u32,
}

impl Dr7 {
    /// Returns what slot `index` watches for and how much, or `None` if it is off or there is
    /// no such slot.
    #[must_use]
    pub const fn slot(self, index: usize) -> Option<(SlotKind, SlotLength)> {
        match index {
            0 if self.l0() || self.g0() => Some((self.rw0(), self.len0())),
            1 if self.l1() || self.g1() => Some((self.rw1(), self.len1())),
            2 if self.l2() || self.g2() => Some((self.rw2(), self.len2())),
            3 if self.l3() || self.g3() => Some((self.rw3(), self.len3())),
            _ => None,
        }
    }

    /// Turns slot `index` on in every task, or off. There is no effect if there is no such slot.
    #[must_use]
    pub const fn with_slot(self, index: usize, slot: Option<(SlotKind, SlotLength)>) -> Self {
        let on = slot.is_some();
        let (kind, len) = match slot {
            Some(slot) => slot,
            None => (SlotKind::Execute, SlotLength::One),
        };
        match index {
            0 => self
                .with_l0(false)
                .with_g0(on)
                .with_rw0(kind)
                .with_len0(len),
            1 => self
                .with_l1(false)
                .with_g1(on)
                .with_rw1(kind)
                .with_len1(len),
            2 => self
                .with_l2(false)
                .with_g2(on)
                .with_rw2(kind)
                .with_len2(len),
            3 => self
                .with_l3(false)
                .with_g3(on)
                .with_rw3(kind)
                .with_len3(len),
            _ => self,
        }
    }
}

/// What a slot watches for: the field R/W of DR7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotKind {
    /// Execution of the instruction that starts at the address; a fault, before it runs.
    #[default]
    Execute = 0b00,
    /// Writes; a trap, after them.
    Write = 0b01,
    /// Port accesses, if CR4.DE is set; a trap.
    Io = 0b10,
    /// Reads and writes but not instruction fetches; a trap.
    ReadWrite = 0b11,
}

impl SlotKind {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::Execute,
            0b01 => Self::Write,
            0b10 => Self::Io,
            _ => Self::ReadWrite,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// How much a slot watches: the field LEN of DR7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotLength {
    /// 1 byte; an instruction breakpoint takes this whatever the instruction's length.
    #[default]
    One = 0b00,
    /// 2 bytes.
    Two = 0b01,
    /// 8 bytes.
    Eight = 0b10,
    /// 4 bytes.
    Four = 0b11,
}

impl SlotLength {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0b00 => Self::One,
            0b01 => Self::Two,
            0b10 => Self::Eight,
            _ => Self::Four,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// What one address register and its fields of DR7 ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HardwareSlot {
    /// The first byte watched. The processor ignores low bits that the length does not allow.
    pub address: Gva,
    /// What is watched for.
    pub kind: SlotKind,
    /// How much is watched.
    pub length: SlotLength,
}

impl HardwareSlot {
    /// A breakpoint on the instruction that starts at `address`.
    #[must_use]
    pub const fn execute(address: Gva) -> Self {
        Self {
            address,
            kind: SlotKind::Execute,
            length: SlotLength::One,
        }
    }

    /// Returns whether an access to `len_bytes` bytes at `address` touches a watched byte.
    #[must_use]
    pub const fn touches(self, address: Gva, len_bytes: u64) -> bool {
        let start = self.address.align_down(self.length.bytes());
        let below = start.0.wrapping_sub(address.0);
        let above = address.0.wrapping_sub(start.0);
        len_bytes != 0 && (below < len_bytes || above < self.length.bytes())
    }
}

/// DR0 to DR3, DR6 and DR7 together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    /// DR0 to DR3.
    pub addresses: [Gva; SLOT_COUNT],
    /// DR6.
    pub dr6: Dr6,
    /// DR7.
    pub dr7: Dr7,
}

impl Default for DebugRegisters {
    /// The state after reset: no slot is on.
    fn default() -> Self {
        Self {
            addresses: [Gva(0); SLOT_COUNT],
            dr6: Dr6::new(),
            dr7: Dr7::new(),
        }
    }
}

impl DebugRegisters {
    /// Reads a vCPU's debug registers.
    #[must_use]
    pub fn read(registers: &RegisterFile) -> Self {
        Self {
            addresses: ADDRESS_REGISTERS.map(|id| Gva(registers.u64(id))),
            dr6: Dr6::read(registers),
            dr7: Dr7::read(registers),
        }
    }

    /// Writes a vCPU's debug registers.
    pub fn write(self, registers: &mut RegisterFile) {
        for (id, address) in ADDRESS_REGISTERS.into_iter().zip(self.addresses) {
            registers.set_u64(id, address.0);
        }
        self.dr6.write(registers);
        self.dr7.write(registers);
    }

    /// Makes debug registers that watch for `slots` and nothing else.
    #[must_use]
    pub fn from_slots(slots: [Option<HardwareSlot>; SLOT_COUNT]) -> Self {
        let mut debug = Self::default();
        for (index, slot) in slots.into_iter().enumerate() {
            debug.set_slot(index, slot);
        }
        debug
    }

    /// Returns what each register watches for; `None` where it is off.
    #[must_use]
    pub fn slots(&self) -> [Option<HardwareSlot>; SLOT_COUNT] {
        let mut index = 0..SLOT_COUNT;
        self.addresses.map(|address| {
            let (kind, length) = self.dr7.slot(index.next()?)?;
            Some(HardwareSlot {
                address,
                kind,
                length,
            })
        })
    }

    /// Sets what slot `index` watches for. There is no effect if there is no such slot.
    pub fn set_slot(&mut self, index: usize, slot: Option<HardwareSlot>) {
        if let Some(address) = self.addresses.get_mut(index) {
            *address = slot.map_or(Gva(0), |slot| slot.address);
            self.dr7 = self
                .dr7
                .with_slot(index, slot.map(|slot| (slot.kind, slot.length)));
        }
    }

    /// Returns the slots that are on and whose condition DR6 says was met.
    pub fn hits(&self) -> impl Iterator<Item = (usize, HardwareSlot)> {
        let hit = self.dr6.b();
        let slots = self.slots().into_iter().enumerate();
        slots.filter_map(move |(index, slot)| {
            (hit.checked_shr(u32::try_from(index).ok()?)? & 1 == 1).then_some(())?;
            Some((index, slot?))
        })
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
    /// The range needs more slots than there are.
    #[error("{len_bytes} bytes at {address} need more than {SLOT_COUNT} debug registers")]
    TooLong {
        /// Where the range starts.
        address: Gva,
        /// Its length in bytes.
        len_bytes: u64,
    },
}

/// Splits a range into the fewest aligned pieces that slots can watch, in ascending order.
///
/// # Errors
///
/// See [`WatchError`].
pub fn split_watch(address: Gva, len_bytes: u64) -> Result<Vec<(Gva, SlotLength)>, WatchError> {
    if len_bytes == 0 {
        return Err(WatchError::Empty);
    }
    if address.0.checked_add(len_bytes.saturating_sub(1)).is_none() {
        return Err(WatchError::Wraps { address });
    }
    let mut pieces = Vec::new();
    let (mut next, mut rest) = (address, len_bytes);
    while rest != 0 {
        if pieces.len() == SLOT_COUNT {
            return Err(WatchError::TooLong { address, len_bytes });
        }
        let length = longest_piece(next, rest);
        pieces.push((next, length));
        next = next.wrapping_add(length.bytes());
        rest = rest.saturating_sub(length.bytes());
    }
    Ok(pieces)
}

fn longest_piece(address: Gva, rest: u64) -> SlotLength {
    let fits =
        |length: &SlotLength| length.bytes() <= rest && address.offset_in(length.bytes()) == 0;
    let lengths = [SlotLength::Eight, SlotLength::Four, SlotLength::Two];
    lengths.into_iter().find(fits).unwrap_or(SlotLength::One)
}

#[cfg(test)]
mod tests;
