//! What a Linux guest's memory says of itself: the kernel's release, its KASLR slide and its symbols.
//!
//! Nothing in the guest takes part. The kernel leaves a text, VMCOREINFO, in its memory for crash
//! dump tools; [`Scanner`] finds it, [`VmcoreInfo`] reads it, [`Kallsyms`] follows it to the
//! kernel's own symbol tables, and [`SymbolFile`] shows those to a debugger as an ELF file.
//!
//! All that is read here was written by the guest, which may be hostile. Every count and length is
//! checked against a limit before memory is allocated or a loop entered, and nothing here panics.
//!
//! [`LinuxGuest`] does all of that for the debug engine, a little at a time.
//!
//! Page tables are not this crate's business: symbols are read through [`VirtualMemory`], which a
//! caller implements with a page walk, or by [`ImageMemory`], which needs none.
//!
//! ```text
//! Scanner::step ──► VmcoreInfo ──► image_mapping ──► ImageMemory
//!                        │                              │
//!                        └───────► Kallsyms::load ◄─────┘
//!                                        │
//!                                   SymbolFile::read_at ──► GDB, LLDB
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "a test that overflows fails"
    )
)]

extern crate alloc;

mod call_frames;
mod chunks;
mod engine;
mod kallsyms;
mod memory;
mod scan;
mod slide;
mod symbol_file;
#[cfg(test)]
mod testing;
mod vmcoreinfo;

pub use call_frames::call_frames;
pub use engine::LinuxGuest;
pub use kallsyms::{
    AddressTable, Kallsyms, KallsymsError, Match, Name, Symbol, Symbols, TableAddresses,
    TableProgress, TableScanner,
};
pub use memory::{ImageMapping, ImageMemory, PhysicalView, VirtualMemory};
pub use scan::{Progress, Scanner, find_vmcoreinfo};
pub use slide::{Slide, read_banner};
pub use symbol_file::{Machine, SymbolFile};
pub use vmcoreinfo::{VmcoreInfo, VmcoreInfoError};
