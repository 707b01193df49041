//! Everything in this crate that the compiler cannot check, kept small: a second view of the page
//! that a vCPU shares with KVM, the kick signal, and ioctls whose argument has a length of its own.

mod run_page;
mod scratch;
mod signal;
mod timer;
#[cfg(target_arch = "x86_64")]
mod xsave;

pub(crate) use run_page::RunPage;
pub(crate) use scratch::ScratchMemory;
pub(crate) use signal::{KickSignal, ThreadId};
pub(crate) use timer::IntervalTimer;
#[cfg(target_arch = "x86_64")]
pub(crate) use xsave::XsaveArea;
