//! x86-64: a PC with what its firmware would have left behind.

mod acpi;
mod bus;
mod cpuid;
pub(crate) mod layout;
pub(crate) mod loader;
mod machine;
mod memory_map;
mod power;
mod state;

use object::elf::{EM_386, EM_X86_64, Machine};

pub use bus::Devices;
pub(crate) use loader::{Entry, IMAGE_KINDS, Request, load, require_free};
pub(crate) use machine::{InterruptController, NEEDED, boot, make_vcpus, make_vm};

/// The number of an ELF image of 32 bits.
pub(crate) const ELF_MACHINE_32: Option<Machine> = Some(EM_386);
/// The number of an ELF image of 64 bits.
pub(crate) const ELF_MACHINE_64: Option<Machine> = Some(EM_X86_64);
