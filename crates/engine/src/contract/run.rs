//! How a vCPU is to run.

use alloc::sync::Arc;

use trapline_arch::{Architecture, Gva};

use super::{GuestEnd, VcpuId};
use crate::points::PointSet;

/// The most hardware slots of one vCPU that the engine handles: the most that Arm allows,
/// 16 for execution and 16 for data.
pub const MAX_HARDWARE_SLOTS: usize = 32;

/// What a hardware slot traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointAccess {
    /// Execution of the instruction at the address, before it executes.
    Execute,
    /// Writes.
    Write,
    /// Reads; not on x86, which has only `ReadWrite`.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// What one hardware slot is to trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HardwarePoint {
    /// The first byte. On x86 it is aligned to the length.
    pub address: Gva,
    /// Length in bytes. On x86 1 for [`PointAccess::Execute`], else 1, 2, 4 or 8. On Arm 4 for
    /// [`PointAccess::Execute`]; else adjacent bytes of one doubleword, or a power of two up to
    /// 2 GiB to which the address is aligned.
    pub len_bytes: u64,
    /// What it traps.
    pub access: PointAccess,
}

impl HardwarePoint {
    /// Returns the point on the execution of the instruction at `address`.
    pub(crate) const fn execute_at(architecture: Architecture, address: Gva) -> Self {
        Self {
            address,
            len_bytes: architecture.breakpoint_alignment_bytes(),
            access: PointAccess::Execute,
        }
    }

    /// Returns how many of the point's bytes fit into `buffer`.
    pub(crate) fn len_in(&self, buffer: &[u8]) -> usize {
        usize::try_from(self.len_bytes).map_or(buffer.len(), |len| len.min(buffer.len()))
    }
}

/// What each hardware slot is to trap, by slot number.
///
/// Where execution and data have slots of their own
/// ([`Capabilities::slots_are_shared`](super::Capabilities::slots_are_shared) is false), those for
/// execution come first and those for data directly behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardwarePoints {
    slots: [Option<HardwarePoint>; MAX_HARDWARE_SLOTS],
}

impl HardwarePoints {
    /// Returns whether no slot is in use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Returns what slot `number` traps.
    #[must_use]
    pub fn slot(&self, number: usize) -> Option<HardwarePoint> {
        self.slots.get(number).copied().flatten()
    }

    /// Sets slot `number`; a number past the last slot is ignored.
    pub fn set(&mut self, number: usize, point: Option<HardwarePoint>) {
        if let Some(slot) = self.slots.get_mut(number) {
            *slot = point;
        }
    }

    /// Returns the used slots with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, HardwarePoint)> + '_ {
        let used = self.slots.iter().enumerate();
        used.filter_map(|(number, slot)| slot.map(|point| (number, point)))
    }

    /// Puts `point` into the first free slot below `limit` and returns its number.
    pub fn insert(&mut self, point: HardwarePoint, limit: usize) -> Option<usize> {
        let free = self
            .slots
            .iter_mut()
            .take(limit)
            .enumerate()
            .find(|(_, slot)| slot.is_none());
        free.map(|(number, slot)| {
            *slot = Some(point);
            number
        })
    }
}

/// How to enter the guest once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Execute one instruction and come back with
    /// [`VmExit::Debug`](super::VmExit::Debug) whose `step` is set.
    pub step: bool,
    /// Deliver no interrupt before that instruction, where the hypervisor can hold it off. Never by
    /// changing what the guest can see.
    pub hold_interrupts: bool,
    /// Ignore execution breakpoints for the first instruction (x86: RFLAGS.RF).
    pub pass_first: bool,
    /// No other vCPU may be in the guest from before the entry until [`VcpuRun::next`] is called
    /// again; the hypervisor brings the others out and holds them. The vCPU's [`Vcpu::memory`] may
    /// then be changed before the entry without another vCPU executing the change.
    ///
    /// [`VcpuRun::next`]: crate::VcpuRun::next
    /// [`Vcpu::memory`]: super::Vcpu::memory
    pub alone: bool,
    /// Breakpoint instructions that are not the guest's own stand in its memory, so that they must
    /// come out. A host where that costs something leaves the guest's to the guest otherwise.
    pub has_patches: bool,
    /// What the debug registers trap while the guest runs. If it is empty the guest's own debug
    /// registers are in force.
    pub hardware: HardwarePoints,
}

/// How far a vCPU is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeAction {
    /// Until something happens.
    Continue,
    /// One instruction.
    Step,
    /// Instruction by instruction while the pc is in `start..end`, and at least one
    /// (GDB manual, "Packets", `vCont;r`).
    RangeStep {
        /// First address of the range.
        start: Gva,
        /// First address after the range.
        end: Gva,
    },
}

/// Whether a resume executes its first instruction without looking for breakpoints on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PassFirst {
    /// A breakpoint there is a hit.
    #[default]
    No,
    /// Clients were told of a breakpoint's hit at this very pc.
    Yes,
    /// As the vCPU's last resume was told, if that was interrupted before the instruction was
    /// executed; a vCPU that has come back to the same pc since has met its breakpoint anew.
    Still,
}

/// One resume of one vCPU.
#[derive(Clone, Debug)]
pub struct ResumeRequest {
    /// How far to run.
    pub action: ResumeAction,
    /// Whether to execute the first instruction without looking for breakpoints on it.
    pub pass_first: PassFirst,
    /// The breakpoints and watchpoints in force, the same for every vCPU (rule B3).
    pub points: Arc<PointSet>,
}

/// What the engine asks of the hypervisor.
#[derive(Clone, Debug)]
pub enum Command {
    /// Let the vCPU run. It is stopped when the command is given.
    Run(VcpuId, ResumeRequest),
    /// Bring the vCPU out of the guest soon. If it has stopped by itself meanwhile, this does
    /// nothing: each `Run` has exactly one answer.
    Stop(VcpuId),
    /// End the guest: a client killed it, or it had ended and no client wants to see it any more.
    End(GuestEnd),
}
