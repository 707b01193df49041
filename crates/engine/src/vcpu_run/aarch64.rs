//! Steps by the software step exception, and the guest's own debug exceptions (rules R5, R8, R9).
//!
//! The hypervisor steps by MDSCR.SS and PSTATE.SS, which it hides from the guest but in two places:
//!
//! | what | how the step is hidden |
//! |---|---|
//! | an exception to EL1 saves PSTATE, SS included | SS in `SPSR_EL1` is cleared when the step has ended at a vector |
//! | ERET to code that the guest itself steps loses the guest's SS | SS is taken from `SPSR_EL1` |
//!
//! A sequence of exclusive accesses never succeeds step by step. In a step over a range it counts as
//! one step: the vCPU runs freely from the Load-Exclusive to breakpoints at the ways out, of which one
//! is the handler of a fault in it.
//!
//! An exception of the guest's own is delivered as the processor would have, by changing registers.
//!
//! Source: Arm ARM, "Software Step exceptions", "Synchronization and semaphores".

use alloc::vec::Vec;

use trapline_arch::aarch64::control::{Dczid, Pstate};
use trapline_arch::aarch64::debug::{Access, DebugRegisters, Mdscr, Watchpoint, watch_hits};
use trapline_arch::aarch64::delivery::{VECTOR_BYTES, is_vector, synchronous_vector, take_to_el1};
use trapline_arch::aarch64::exception::{Esr, ExceptionClass, StepSyndrome, WatchpointSyndrome};
use trapline_arch::aarch64::instruction::{
    ExclusiveSequence, Instruction, LEN_BYTES, MAX_SEQUENCE_INSTRUCTIONS, StepClass,
};
use trapline_arch::aarch64::{CpuMode, ExceptionLevel, registers};
use trapline_arch::{Architecture, Gva, RegisterGroup, RegisterGroups};

use super::VcpuRun;
use super::hits::Hit;
use super::plan::Outcome;
use super::slots::{Role, SlotPlan};
use crate::contract::{AccessError, HardwarePoint, PointAccess, ResumeAction, Vcpu, VmExit};
use crate::cpu::CONTROL;

/// The fault status of debug exceptions in a syndrome.
const DEBUG_FAULT_STATUS: u8 = 0b10_0010;

/// The length of the longest sequence of exclusive accesses in bytes.
const MAX_SEQUENCE_BYTES: usize = MAX_SEQUENCE_INSTRUCTIONS * LEN_BYTES;

/// How one instruction is stepped.
#[derive(Debug)]
pub(super) struct StepPlan {
    /// By the software step exception; else the vCPU runs to one of the targets.
    uses_step: bool,
    /// The level that the instruction is executed at.
    level: Option<ExceptionLevel>,
    /// The guest itself steps the instruction.
    guest_steps: bool,
}

impl StepPlan {
    /// Returns whether the entry is for one instruction.
    pub(super) fn uses_step(&self) -> bool {
        self.uses_step
    }

    /// Hides the step from the guest, and gives the guest the exception of its own step.
    pub(super) fn finish(
        &self,
        run: &mut VcpuRun,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        hit: &Hit,
    ) -> Result<Outcome, AccessError> {
        if !hit.is_step {
            let mut roles = slots.hit_roles(hit.slots).map(|(_, role)| role);
            return Ok(if roles.any(|role| role == Role::Target) {
                Outcome::Stepped
            } else {
                Outcome::NotYet
            });
        }
        self.hide(run, vcpu)?;
        Ok(Outcome::Stepped)
    }

    fn hide(&self, run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu) -> Result<(), AccessError> {
        let file = run.cpu.ensure(&mut vcpu, RegisterGroups::GENERAL)?;
        let pc = Architecture::Aarch64.pc(file);
        let level = CpuMode::of(file).level();
        if level == Some(ExceptionLevel::El1) && pc.offset_in(VECTOR_BYTES) == 0 {
            let file = run.cpu.ensure(&mut vcpu, CONTROL)?;
            if is_vector(file, pc) {
                return self.hide_in_saved_state(run, vcpu);
            }
        }
        if self.level == Some(ExceptionLevel::El1) && level == Some(ExceptionLevel::El0) {
            return keep_step_of_return(run, vcpu);
        }
        if self.guest_steps {
            let syndrome = StepSyndrome::new()
                .with_ifsc(DEBUG_FAULT_STATUS)
                .with_isv(true)
                .into_bits();
            return deliver(run, vcpu, Class::Step, syndrome, None);
        }
        Ok(())
    }

    fn hide_in_saved_state(
        &self,
        run: &mut VcpuRun,
        mut vcpu: &mut dyn Vcpu,
    ) -> Result<(), AccessError> {
        let saved = Pstate::from_bits(run.cpu.file().u64(registers::SPSR_EL1));
        if !saved.ss() || self.guest_steps {
            return Ok(());
        }
        run.cpu.update(&mut vcpu, RegisterGroup::System, |file| {
            file.set_u64(registers::SPSR_EL1, saved.with_ss(false).into_bits());
            Ok(())
        })
    }
}

/// After ERET to EL0, sets what the guest wants to be stepped there.
fn keep_step_of_return(run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu) -> Result<(), AccessError> {
    let file = run.cpu.ensure(&mut vcpu, CONTROL)?;
    if !Pstate::from_bits(file.u64(registers::SPSR_EL1)).ss() || !guest_step_is_on(run, vcpu)? {
        return Ok(());
    }
    run.cpu.update(&mut vcpu, RegisterGroup::General, |file| {
        Pstate::read(file).with_ss(true).write(file);
        Ok(())
    })
}

fn guest_step_is_on(run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu) -> Result<bool, AccessError> {
    let file = run.cpu.ensure(&mut vcpu, RegisterGroups::DEBUG)?;
    Ok(Mdscr::from_bits(file.u64(registers::MDSCR_EL1)).ss())
}

/// Plans the step over the next instruction and adds the traps that the plan needs to `slots`.
pub(super) fn plan(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    slots: &mut SlotPlan,
) -> Result<StepPlan, AccessError> {
    let file = run.cpu.ensure(&mut vcpu, RegisterGroups::GENERAL)?;
    let level = CpuMode::of(file).level();
    let guest_steps = Pstate::read(file).ss() && guest_step_is_on(run, vcpu)?;
    let is_range = matches!(run.action, ResumeAction::RangeStep { .. });
    let runs = is_range && run_through_sequence(run, vcpu, slots)?;
    Ok(StepPlan {
        uses_step: !runs,
        level,
        guest_steps,
    })
}

/// Sets breakpoints at the ways out of the sequence of exclusive accesses that begins at the pc.
/// Returns false, and changes nothing, if there is none, or slots are too few.
fn run_through_sequence(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    slots: &mut SlotPlan,
) -> Result<bool, AccessError> {
    let pc = run.cpu.pc(&mut vcpu)?;
    let space = run.cpu.address_space(&mut vcpu)?;
    let mut code = [0; MAX_SEQUENCE_BYTES];
    let read = |buffer: &mut [u8]| space.read(vcpu.memory(), &run.points, pc, buffer);
    let first = code.get_mut(..LEN_BYTES).unwrap_or_default();
    let is_load = read(first) == LEN_BYTES
        && Instruction::from_bytes(first)
            .is_some_and(|first| first.step_class() == StepClass::LoadExclusive);
    if !is_load {
        return Ok(false);
    }
    let len = read(&mut code);
    let Some(sequence) = ExclusiveSequence::at(pc, code.get(..len).unwrap_or_default()) else {
        return Ok(false);
    };
    let mut planned = *slots;
    for exit in sequence.exits.iter().chain([&sequence.end]) {
        let point = HardwarePoint::execute_at(Architecture::Aarch64, *exit);
        if !planned.insert(point, Role::Target, &run.capabilities) {
            return Ok(false);
        }
    }
    // A fault in the sequence would lead away. The guest returns to it when a breakpoint is missing
    // here, and only then does the step end.
    let file = run.cpu.ensure(&mut vcpu, CONTROL)?;
    let fault = HardwarePoint::execute_at(Architecture::Aarch64, synchronous_vector(file));
    planned.insert(fault, Role::Target, &run.capabilities);
    *slots = planned;
    Ok(true)
}

/// Returns what a debug exit is about: the processor does not say which breakpoint or watchpoint it
/// was.
pub(super) fn hit_of(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    slots: &SlotPlan,
    exit: VmExit,
) -> Result<Hit, AccessError> {
    match exit {
        VmExit::HardwareBreakpoint => {
            let pc = run.cpu.pc(&mut vcpu)?;
            let met = slots.points();
            let met = met
                .iter()
                .filter(|(_, point)| point.access == PointAccess::Execute && point.address == pc);
            Ok(Hit {
                slots: met.fold(0, |bits, (number, _)| bits | bit(number)),
                ..Hit::default()
            })
        }
        VmExit::Watchpoint { address, syndrome } => watch_hit(run, vcpu, slots, address, syndrome),
        _ => Ok(Hit::of_exit(exit)),
    }
}

/// Finds the watchpoints of the debugger's that an exception is of.
///
/// What the instruction accesses tells, if it touches one of them. Otherwise FAR decides, and it
/// need not be a watched address: the guest's own watchpoints, which are in force beside these, are
/// candidates too.
fn watch_hit(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    slots: &SlotPlan,
    far: Gva,
    syndrome: u64,
) -> Result<Hit, AccessError> {
    let numbered: Vec<(usize, Watchpoint)> = slots
        .points()
        .iter()
        .filter_map(|(number, point)| Some((number, point.watchpoint()?)))
        .collect();
    if numbered.is_empty() {
        return Ok(Hit::default());
    }
    let access = access_at_pc(run, vcpu)?;
    let far = run.cpu.address_space(&mut vcpu)?.untag(far);
    let dczid = Dczid::read(run.cpu.ensure(&mut vcpu, RegisterGroups::MSR)?);
    // The number, where the processor gives one, is of its registers and not of these slots.
    let syndrome = WatchpointSyndrome::from_bits(Esr::from_bits(syndrome).iss()).with_wptv(false);
    let mut watchpoints: Vec<Watchpoint> = numbered.iter().map(|(_, own)| *own).collect();
    let touches = |own: &Watchpoint, access: &Access| {
        own.control.lsc().meets(access.kind)
            && own.lowest_watched(access.address, access.last()).is_some()
    };
    let is_plain = access.is_some_and(|access| watchpoints.iter().any(|own| touches(own, &access)));
    if !is_plain {
        let file = run.cpu.ensure(&mut vcpu, RegisterGroups::DEBUG)?;
        watchpoints.extend(DebugRegisters::read(file).watchpoints);
    }
    let hits = watch_hits(&watchpoints, far, syndrome, access.as_slice(), dczid);
    let has_rival = || {
        watchpoints
            .iter()
            .skip(numbered.len())
            .any(|own| own.control.e())
    };
    let addresses: Vec<(usize, Gva)> = if hits.is_empty() && !has_rival() {
        // Nobody else's, so it is of the nearest, whatever it is that led there.
        let nearest = numbered
            .iter()
            .min_by_key(|(_, own)| own.value.abs_diff(far.0));
        nearest
            .map(|(number, _)| (*number, far))
            .into_iter()
            .collect()
    } else {
        let own = hits.iter();
        own.filter_map(|hit| Some((numbered.get(hit.index)?.0, hit.address)))
            .collect()
    };
    Ok(Hit {
        slots: addresses
            .iter()
            .fold(0, |bits, (number, _)| bits | bit(*number)),
        addresses,
        ..Hit::default()
    })
}

/// Returns what the instruction at the pc accesses, if that is known.
fn access_at_pc(run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu) -> Result<Option<Access>, AccessError> {
    let pc = run.cpu.pc(&mut vcpu)?;
    let space = run.cpu.address_space(&mut vcpu)?;
    let mut code = [0; LEN_BYTES];
    let read = space.read(vcpu.memory(), &run.points, pc, &mut code);
    let file = run.cpu.ensure(&mut vcpu, CONTROL | RegisterGroups::MSR)?;
    let instruction = Instruction::from_bytes(code.get(..read).unwrap_or_default());
    Ok(instruction.and_then(|instruction| instruction.access(file)))
}

fn bit(number: usize) -> u32 {
    u32::try_from(number).map_or(0, |number| 1_u32.unbounded_shl(number))
}

/// A debug exception of the guest's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    BreakpointInstruction,
    Breakpoint,
    Watchpoint,
    Step,
}

impl Class {
    /// Returns the exception class for code at `level`.
    fn at(self, level: Option<ExceptionLevel>) -> ExceptionClass {
        let is_lower = level == Some(ExceptionLevel::El0);
        match (self, is_lower) {
            (Self::BreakpointInstruction, _) => ExceptionClass::BRK64,
            (Self::Breakpoint, true) => ExceptionClass::BREAKPOINT_LOWER,
            (Self::Breakpoint, false) => ExceptionClass::BREAKPOINT_SAME,
            (Self::Watchpoint, true) => ExceptionClass::WATCHPOINT_LOWER,
            (Self::Watchpoint, false) => ExceptionClass::WATCHPOINT_SAME,
            (Self::Step, true) => ExceptionClass::STEP_LOWER,
            (Self::Step, false) => ExceptionClass::STEP_SAME,
        }
    }
}

/// Delivers the exception of the BRK at the pc.
pub(super) fn deliver_breakpoint(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
) -> Result<(), AccessError> {
    let pc = run.cpu.pc(&mut vcpu)?;
    let space = run.cpu.address_space(&mut vcpu)?;
    let mut code = [0; LEN_BYTES];
    let read = space.read(vcpu.memory(), &run.points, pc, &mut code);
    let instruction = Instruction::from_bytes(code.get(..read).unwrap_or_default());
    let comment = match instruction.map(Instruction::step_class) {
        Some(StepClass::Breakpoint { comment }) => comment,
        _ => 0,
    };
    deliver(
        run,
        vcpu,
        Class::BreakpointInstruction,
        comment.into(),
        None,
    )
}

/// Delivers a debug exception that an exit has told of.
pub(super) fn deliver_exit(
    run: &mut VcpuRun,
    vcpu: &mut dyn Vcpu,
    exit: VmExit,
) -> Result<(), AccessError> {
    let status = u32::from(DEBUG_FAULT_STATUS);
    match exit {
        VmExit::HardwareBreakpoint => deliver(run, vcpu, Class::Breakpoint, status, None),
        VmExit::Watchpoint { address, syndrome } => {
            let iss = Esr::from_bits(syndrome).iss();
            deliver(run, vcpu, Class::Watchpoint, iss, Some(address))
        }
        VmExit::Debug { .. } => {
            let syndrome = StepSyndrome::new()
                .with_ifsc(DEBUG_FAULT_STATUS)
                .with_isv(true);
            deliver(run, vcpu, Class::Step, syndrome.into_bits(), None)
        }
        _ => Ok(()),
    }
}

fn deliver(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    class: Class,
    iss: u32,
    far: Option<Gva>,
) -> Result<(), AccessError> {
    let groups = CONTROL | RegisterGroups::MSR;
    let level = CpuMode::of(run.cpu.ensure(&mut vcpu, groups)?).level();
    let esr = Esr::new()
        .with_ec(class.at(level))
        .with_il(true)
        .with_iss(iss & 0x1ff_ffff);
    run.cpu.update(&mut vcpu, RegisterGroup::General, |file| {
        take_to_el1(file, esr, far);
        Ok::<_, AccessError>(())
    })?;
    run.cpu.update(&mut vcpu, RegisterGroup::System, |_| {
        Ok::<_, AccessError>(())
    })
}
