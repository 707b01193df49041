//! Everything in this crate that the compiler cannot check, kept small: a second view of the page
//! that a vCPU shares with KVM, the kick signal, the scheduler, and ioctls whose argument has a length
//! of its own.

#[cfg_attr(target_arch = "aarch64", path = "caches_aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "caches_x86_64.rs")]
mod caches;
#[cfg(target_arch = "aarch64")]
pub(crate) mod host_registers;
#[cfg(target_arch = "x86_64")]
mod port_exit;
mod run_page;
mod scheduling;
mod scratch;
mod signal;
#[cfg(target_arch = "x86_64")]
mod xsave;

pub(crate) use caches::make_executable;
pub(crate) use run_page::RunPage;
pub use scheduling::wake_promptly;
pub(crate) use scratch::ScratchMemory;
pub(crate) use signal::{KickSignal, ThreadId};
#[cfg(target_arch = "x86_64")]
pub(crate) use xsave::XsaveArea;
