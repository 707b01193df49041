//! What Trapline knows of processor architectures: address types, register files and their target
//! descriptions, page walkers, debug registers and pointer tags.
//!
//! Everything here is a value or a pure function of values. The guest's architecture is itself a
//! value ([`Architecture`]), so one debug server serves guests of any kind. The crate reads guest
//! memory only through [`PhysicalMemory`] and touches no machine register.

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "a test that overflows fails"
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aarch64;
mod address;
mod architecture;
mod disassembly;
mod layout;
mod memory;
mod regions;
mod register;
mod register_builder;
mod register_file;
mod table_cache;
pub mod x86_64;

pub use address::{Gpa, Gva};
pub use architecture::{Architecture, PcError, WatchTiming};
pub use disassembly::DisassembledLine;
pub use layout::{FeatureSet, Layout, LayoutEntry, LayoutKind, RegisterError};
pub use memory::PhysicalMemory;
pub use regions::{Region, Regions, Spans};
pub use register::{
    Encoding, FlagField, Format, GdbGroup, GdbType, GenericRole, Register, RegisterGroup,
    RegisterGroups, RegisterId, View, Writable,
};
pub use register_file::RegisterFile;
