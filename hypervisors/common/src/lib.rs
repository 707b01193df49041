//! What bare-metal hypervisors with the debug server inside have in common, whatever the processor.
//!
//! | module | what |
//! |---|---|
//! | [`bundle`] | the guest that is appended to a hypervisor's image |
//! | [`board`] | what a device tree says of the machine |
//! | [`handover`] | the device tree that the guest gets, and where things go in memory |
//! | [`uart`] | serial ports: PL011 and 16550 |
//! | [`link`] | a client on a serial port |
//! | [`log`] | what the hypervisor has said of itself |
//! | [`lanes`] | the engine with its clients, and the processors it sets going |
//!
//! Nothing here touches hardware: memory-mapped registers come through [`uart::Registers`], other
//! processors through [`lanes::Platform`]. So all of it is tested on any computer.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod board;
pub mod bundle;
pub mod handover;
pub mod lanes;
pub mod link;
pub mod log;
pub mod uart;

use core::fmt;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
}

impl Span {
    /// Returns the range of `len_bytes` from `start` on, cut at the end of the address space.
    #[must_use]
    pub const fn new(start: u64, len_bytes: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len_bytes),
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn len_bytes(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Returns whether an address is in it.
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Returns whether the two have an address in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}
