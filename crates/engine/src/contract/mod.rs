//! What a hypervisor implements so that the engine can debug its guest.
//!
//! A hypervisor provides a [`Machine`] (registers and memory of a guest whose vCPUs are stopped), a
//! [`Vcpu`] for each vCPU (the same for the vCPU's own thread, plus event injection) and a loop that
//! enters the guest as [`Entry`] asks and describes each return as a [`VmExit`]:
//!
//! ```text
//!   clients ──bytes──▶ Engine ──Command::Run(request)──▶ the vCPU's thread:
//!                        ▲                                  let mut run = VcpuRun::new(request, …);
//!                        │                                  loop {
//!                        │                                    match run.next(vcpu) {
//!                        │                                      Next::Enter(entry) =>
//!                        │                                        run.handle_exit(vcpu, enter(entry)),
//!                        └──────handle_stopped(reason)──────────  Next::Stop(reason) => break reason,
//!                                                             } }
//! ```
//!
//! Every [`Command::Run`] is answered by exactly one call of `handle_stopped`; [`Command::Stop`]
//! only hastens it. A vCPU executes guest code only between the two.

mod aarch64;
mod capabilities;
mod exit;
mod guest_os;
mod machine;
mod run;
mod systems;

pub use capabilities::{Capabilities, StepMethod};
pub use exit::{GuestEnd, StopReason, VmExit, WatchKind};
pub use guest_os::{FindProgress, GuestOs, KernelImage, SymbolAt, VirtualView};
pub use machine::{AccessError, GuestMemory, Machine, MemoryKind, MemoryRegion, PowerState, Vcpu};
pub use run::{
    Command, Entry, HardwarePoint, HardwarePoints, MAX_HARDWARE_SLOTS, PassFirst, PointAccess,
    ResumeAction, ResumeRequest,
};
pub use systems::Systems;

use core::fmt;

/// A vCPU, by its index in the guest: 0 is the boot processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(pub u32);

impl VcpuId {
    /// Returns the index for tables of vCPUs.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}", self.0)
    }
}

/// A point in time, in nanoseconds since an origin of the host's choosing that never moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Returns the time `duration_ns` later, saturating.
    #[must_use]
    pub const fn after(self, duration_ns: u64) -> Self {
        Self(self.0.saturating_add(duration_ns))
    }
}
