//! x86-64: the vCPU, how it is entered, and what of KVM has to be tried out first.

mod device;
mod enter;
mod features;
mod guest_debug;
mod inject;
pub mod long_mode;
mod msrs;
mod probe;
mod registers;
mod sregs;
mod trials;
mod vcpu;

#[cfg(test)]
mod tests;

pub use features::features;
pub use vcpu::KvmVcpu;

pub(crate) use probe::{examine, kind};
pub(crate) use vcpu::VcpuTraits;

/// The architecture of this host's guests.
pub const ARCHITECTURE: trapline_arch::Architecture = trapline_arch::Architecture::X86_64;
