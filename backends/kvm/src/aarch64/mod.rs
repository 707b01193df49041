//! AArch64: the vCPU, how it is entered, and what of KVM has to be tried out first.

mod device;
mod enter;
mod features;
mod guest_debug;
mod hold;
mod one_reg;
mod probe;
mod registers;
mod trials;
mod vcpu;

pub use vcpu::KvmVcpu;

pub(crate) use probe::{examine, kind};
pub(crate) use vcpu::VcpuTraits;

/// The architecture of this host's guests.
pub const ARCHITECTURE: trapline_arch::Architecture = trapline_arch::Architecture::Aarch64;
