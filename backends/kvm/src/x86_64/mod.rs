//! x86-64: the vCPU, how it is entered, and what of KVM has to be tried out first.

mod device;
mod enter;
mod features;
mod guest_debug;
mod inject;
pub mod long_mode;
mod msrs;
mod registers;
mod sregs;
mod trials;
mod vcpu;

#[cfg(test)]
mod tests;

pub use features::features;
pub use vcpu::{KvmVcpu, SharedMemory};

pub(crate) use enter::{Entered, Surroundings};
pub(crate) use trials::{Trial, TrialGuest, Trials};
pub(crate) use vcpu::{VcpuTraits, xsave_layout};
