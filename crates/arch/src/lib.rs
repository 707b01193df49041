//! What Trapline knows of processor architectures: address types, register files and their target
//! descriptions, page walkers, debug registers and pointer tags.
//!
//! Everything here is a value or a pure function of values. The guest's architecture is itself a
//! value ([`Architecture`]), so one debug server serves guests of any kind. The crate reads guest
//! memory only through [`PhysicalMemory`] and touches no machine register.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod architecture;
mod memory;

pub use address::{Gpa, Gva};
pub use architecture::Architecture;
pub use memory::PhysicalMemory;
