//! Everything in this crate that the compiler cannot check, kept small: a second view of the page
//! that a vCPU shares with KVM, the kick signal, the scheduler, and ioctls whose argument has a length
//! of its own.

mod run_page;
mod scheduling;
mod scratch;
mod signal;
#[cfg(target_arch = "x86_64")]
mod xsave;

pub(crate) use run_page::RunPage;
pub use scheduling::wake_promptly;
pub(crate) use scratch::ScratchMemory;
pub(crate) use signal::{KickSignal, ThreadId};
#[cfg(target_arch = "x86_64")]
pub(crate) use xsave::XsaveArea;
