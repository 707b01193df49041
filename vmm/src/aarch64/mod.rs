//! AArch64: a machine without firmware, described by a device tree.

mod bus;
mod device_tree;
mod gic;
pub(crate) mod layout;
pub(crate) mod loader;
mod machine;

use object::elf::{EM_AARCH64, Machine};

pub use bus::Devices;
pub(crate) use gic::InterruptController;
pub(crate) use loader::{Entry, IMAGE_KINDS, Request, load, require_free};
pub(crate) use machine::{NEEDED, boot, make_vcpus, make_vm};

/// ELF images of 32 bits are not for this architecture.
pub(crate) const ELF_MACHINE_32: Option<Machine> = None;
/// The number of an ELF image of 64 bits.
pub(crate) const ELF_MACHINE_64: Option<Machine> = Some(EM_AARCH64);
