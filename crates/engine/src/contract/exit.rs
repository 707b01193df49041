//! Why a vCPU left the guest, and why it stopped for the debugger.

use core::fmt;

use trapline_arch::{Gpa, Gva};

use super::AccessError;

/// How a guest came to its end (rule R12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuestEnd {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A client killed it.
    Killed,
    /// A triple fault: the processor met a fault that it could not deliver.
    TripleFault,
    /// The hypervisor could not enter the guest; the number is the hardware's reason.
    EntryFailed(u64),
    /// The hypervisor could not go on with the guest; the number is its own code.
    InternalError(u64),
}

impl fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Killed => f.write_str("a debugger ended the guest"),
            Self::TripleFault => f.write_str("the guest ended in a triple fault"),
            Self::EntryFailed(reason) => {
                write!(
                    f,
                    "the hypervisor could not enter the guest (reason {reason:#x})"
                )
            }
            Self::InternalError(code) => {
                write!(
                    f,
                    "the hypervisor could not go on with the guest (error {code:#x})"
                )
            }
        }
    }
}

/// A return from the guest to the hypervisor that concerns the debugger.
///
/// Exits that the hypervisor handles by itself (a port, MMIO, an emulated instruction) do not
/// appear, with one exception: while [`Entry::step`](super::Entry::step) is set, an instruction that
/// the hypervisor completed by emulation ends the step, so it is reported as
/// [`Debug`](Self::Debug) with `step` set (rule R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmExit {
    /// The vCPU left the guest because [`Command::Stop`](super::Command::Stop) asked for it.
    Interrupted,
    /// The vCPU met a breakpoint instruction (x86 `int3`, Arm `BRK`) and nothing was delivered to
    /// the guest. The pc is that of the instruction.
    BreakpointInstruction,
    /// A debug exception was raised and nothing was delivered to the guest.
    Debug {
        /// A single step ended.
        step: bool,
        /// The hardware slots of [`Entry::hardware`](super::Entry::hardware) that hit, bit n for
        /// slot n. Where the entry asked for no slots, bit n is the guest's own breakpoint n.
        slots: u32,
        /// The data address, where the hardware tells it.
        data_address: Option<Gva>,
    },
    /// A hardware execution breakpoint was met at the pc and nothing was delivered to the guest.
    /// For architectures that do not say which slot it was (Arm).
    HardwareBreakpoint,
    /// A watchpoint was met and nothing was delivered to the guest; the access has not happened.
    /// For architectures that do not say which slot it was (Arm).
    Watchpoint {
        /// The address that the hardware gives, which need not be a watched one: FAR.
        address: Gva,
        /// What else the hardware says of the access: ESR.
        syndrome: u64,
    },
    /// The next instruction reads or writes the guest's own debug registers, and was not executed.
    /// Only hosts that can step report it, and only of entries that have
    /// [`hardware`](super::Entry::hardware) slots and do not step.
    DebugRegisterAccess,
    /// The guest's own debug registers are no longer what [`Vcpu::load`](super::Vcpu::load) last
    /// said; nothing else has happened. For entries that have
    /// [`hardware`](super::Entry::hardware) slots, on hosts that notice this some time later.
    DebugRegistersChanged,
    /// The guest is at its end; the vCPU cannot be entered again without a reset.
    Ended(GuestEnd),
}

/// What accesses a watchpoint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WatchKind {
    /// Writes: GDB's `watch`, packet `Z2`.
    Write,
    /// Reads: GDB's `rwatch`, packet `Z3`.
    Read,
    /// Both: GDB's `awatch`, packet `Z4`.
    Access,
}

/// Why a vCPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The engine asked for it; nothing happened in the guest.
    Paused,
    /// The step or range step that was asked for is complete.
    Step,
    /// A software breakpoint, before the instruction at `address` is executed.
    SoftwareBreakpoint {
        /// The breakpoint's address, which is the pc.
        address: Gva,
        /// The patched byte, or `None` for one that waits in a hardware slot.
        gpa: Option<Gpa>,
    },
    /// A hardware breakpoint, before the instruction at `address` is executed.
    HardwareBreakpoint {
        /// The breakpoint's address, which is the pc.
        address: Gva,
    },
    /// A watchpoint.
    Watchpoint {
        /// The kind that the client asked for.
        kind: WatchKind,
        /// The watchpoint's own address, as the client gave it.
        watched: Gva,
        /// The data address that was accessed, as exactly as the hardware tells.
        address: Gva,
    },
    /// The guest came to its end. The vCPU's registers are still there to read.
    Ended(GuestEnd),
    /// The step cannot be carried out on this hypervisor.
    CannotStep,
    /// The vCPU's registers could not be read or written where that was needed to go on.
    Failed(AccessError),
}

impl StopReason {
    /// Returns whether the vCPU hit a breakpoint or watchpoint of a client's.
    #[must_use]
    pub const fn is_of_a_point(&self) -> bool {
        self.is_breakpoint() || matches!(self, Self::Watchpoint { .. })
    }

    /// Returns whether the vCPU hit a breakpoint of a client's.
    #[must_use]
    pub const fn is_breakpoint(&self) -> bool {
        matches!(
            self,
            Self::SoftwareBreakpoint { .. } | Self::HardwareBreakpoint { .. }
        )
    }
}
