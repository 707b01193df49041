//! What an entry into the guest needs and what comes of it, whatever the architecture.

use std::time::Instant;

use trapline_engine::VmExit;

use crate::bus::DeviceBus;
use crate::gate::Gate;

/// What a vCPU needs around it to run.
pub(crate) struct Surroundings<'a> {
    /// The gate to the guest.
    pub(crate) gate: &'a Gate,
    /// The devices.
    pub(crate) bus: &'a dyn DeviceBus,
    /// When the calling thread has to have its time back.
    pub(crate) deadline: Option<Instant>,
}

/// What came of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entered {
    /// An exit for the debugger.
    Exit(VmExit),
    /// The deadline has passed and the vCPU waits inside KVM. It can be entered again in the same
    /// way.
    Expired,
}
