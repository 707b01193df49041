//! What a step and the guest's own debug exceptions take, by architecture.

use trapline_arch::Architecture;

use super::hits::Hit;
use super::slots::SlotPlan;
use super::{Delivery, VcpuRun, aarch64, x86_64};
use crate::contract::{AccessError, GuestMemory, Vcpu, VmExit};

/// Whether the instruction has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It has, or it has led to an exception handler.
    Stepped,
    /// It has not.
    NotYet,
}

/// How one instruction is stepped.
#[derive(Debug)]
pub(super) enum StepPlan {
    X86(x86_64::StepPlan),
    Aarch64(aarch64::StepPlan),
}

impl StepPlan {
    /// Plans the step over the next instruction and adds the traps that the plan needs to `slots`.
    pub(super) fn new(
        run: &mut VcpuRun,
        vcpu: &mut dyn Vcpu,
        slots: &mut SlotPlan,
    ) -> Result<Self, AccessError> {
        Ok(match run.cpu.architecture() {
            Architecture::X86_64 => Self::X86(x86_64::plan(run, vcpu, slots)?),
            Architecture::Aarch64 => Self::Aarch64(aarch64::plan(run, vcpu, slots)?),
        })
    }

    /// Returns whether the entry is for one instruction.
    pub(super) fn uses_trap(&self) -> bool {
        match self {
            Self::X86(plan) => plan.uses_trap(),
            Self::Aarch64(plan) => plan.uses_step(),
        }
    }

    /// Returns whether a breakpoint instruction must stand in memory for this step, which no other
    /// vCPU may meet.
    pub(super) fn needs_patch(&self) -> bool {
        match self {
            Self::X86(plan) => plan.needs_patch(),
            Self::Aarch64(_) => false,
        }
    }

    /// Puts the breakpoint instruction in place.
    pub(super) fn plant(self, memory: &dyn GuestMemory) -> Self {
        match self {
            Self::X86(plan) => Self::X86(plan.plant(memory)),
            Self::Aarch64(_) => self,
        }
    }

    /// Takes the breakpoint instruction away.
    pub(super) fn lift(&self, memory: &dyn GuestMemory) {
        match self {
            Self::X86(plan) => plan.lift(memory),
            Self::Aarch64(_) => (),
        }
    }

    /// Returns whether the breakpoint instruction that was met is the plan's own.
    pub(super) fn is_patch_hit(
        &self,
        run: &mut VcpuRun,
        vcpu: &mut dyn Vcpu,
    ) -> Result<bool, AccessError> {
        match self {
            Self::X86(plan) => plan.is_patch_hit(run, vcpu),
            Self::Aarch64(_) => Ok(false),
        }
    }

    /// Hides the step from the guest, and gives the guest the exception of its own step.
    pub(super) fn finish(
        &self,
        run: &mut VcpuRun,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        hit: &Hit,
    ) -> Result<Outcome, AccessError> {
        match self {
            Self::X86(plan) => plan.finish(run, vcpu, slots, hit),
            Self::Aarch64(plan) => plan.finish(run, vcpu, slots, hit),
        }
    }
}

impl VcpuRun {
    /// Adds the guest's own points to slots that are in use, where the engine does that: hosts of
    /// AArch64 guests put the debugger's points beside the guest's themselves.
    pub(super) fn add_guest_points(
        &mut self,
        vcpu: &mut dyn Vcpu,
        slots: &mut SlotPlan,
    ) -> Result<(), AccessError> {
        match self.cpu.architecture() {
            Architecture::X86_64 if !slots.is_empty() => {
                let own = x86_64::guest_points(&mut self.cpu, vcpu)?;
                slots.add_guest_points(&own, &self.capabilities);
            }
            Architecture::X86_64 | Architecture::Aarch64 => (),
        }
        Ok(())
    }

    /// Returns what a debug exit is about.
    pub(super) fn hit_of(
        &mut self,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        exit: VmExit,
    ) -> Result<Hit, AccessError> {
        match self.cpu.architecture() {
            Architecture::X86_64 => Ok(Hit::of_exit(exit)),
            Architecture::Aarch64 => aarch64::hit_of(self, vcpu, slots, exit),
        }
    }

    /// Returns whether a debug exit of a free run has nothing to do with the debugger.
    pub(super) fn is_guests_alone(&self, slots: &SlotPlan, hit: &Hit) -> bool {
        match self.cpu.architecture() {
            // The guest's own step goes with its hits.
            Architecture::X86_64 => !hit.is_step && !slots.has_role(hit.slots),
            Architecture::Aarch64 => hit.slots == 0,
        }
    }

    /// Gives the guest the exception of its own breakpoint instruction at the pc (rule R9).
    pub(super) fn give_guest_its_breakpoint(
        &mut self,
        vcpu: &mut dyn Vcpu,
    ) -> Result<Delivery, AccessError> {
        match self.cpu.architecture() {
            Architecture::X86_64 => vcpu.inject_breakpoint().map(|()| Delivery::AtEntry),
            Architecture::Aarch64 => {
                aarch64::deliver_breakpoint(self, vcpu).map(|()| Delivery::Done)
            }
        }
    }

    /// Gives the guest a debug exception that neither a slot of the debugger's nor a step explains
    /// (rule R9).
    pub(super) fn give_guest_the_exception(
        &mut self,
        vcpu: &mut dyn Vcpu,
        exit: VmExit,
    ) -> Result<Delivery, AccessError> {
        match self.cpu.architecture() {
            // INT1 leaves no mark in the status register.
            Architecture::X86_64 => vcpu.inject_debug(0).map(|()| Delivery::AtEntry),
            Architecture::Aarch64 => {
                aarch64::deliver_exit(self, vcpu, exit).map(|()| Delivery::Done)
            }
        }
    }

    /// Gives the guest the part of a debug exception that is its own, beside the debugger's
    /// (rule R9).
    pub(super) fn give_guest_its_hits(
        &mut self,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        hit: u32,
        is_step: bool,
    ) -> Result<(), AccessError> {
        match self.cpu.architecture() {
            Architecture::X86_64 => x86_64::give_hits(self, vcpu, slots, hit, is_step),
            // What stops at an instruction for both stops there for the guest when the debugger has
            // gone on.
            Architecture::Aarch64 => Ok(()),
        }
    }
}
