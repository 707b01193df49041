//! Exactly one instruction by way of RFLAGS.TF, without the guest ever seeing it (rules R5, R8).
//!
//! Setting TF behind the guest's back shows wherever the processor stores the flags or loads them.
//! What an instruction will do is known before it runs, so each step has a plan:
//!
//! | instruction | plan |
//! |---|---|
//! | most | trap flag |
//! | `PUSHF` | trap flag, then clear TF in the pushed image |
//! | `POPF`, `IRET` | trap flag; the guest's own TF is then what the image held |
//! | `INT n`, `INT3`, `INTO`, `INT1`, `SYSCALL`, `SYSENTER`, `SYSRET`, `SYSEXIT` | no trap flag: run to the one place it leads to |
//! | `MOV SS`, `POP SS` | no trap flag, which would trap one instruction late: run to a breakpoint behind it |
//! | `WRMSR` | trap flag, and a breakpoint behind the instruction |
//! | any that may fault | a hardware breakpoint at each handler that it may lead to; then clear TF in the frame |
//!
//! Of the handlers the likeliest have breakpoints where slots run out. An exception that leads to
//! another shows TF in its frame, and the step ends behind the handler's return.
//!
//! Source: SDM vol. 3B, "Single-Step Exception Condition"; APM vol. 2, "Single Stepping".

mod faults;
mod next;

use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::x86_64::control::Rflags;
use trapline_arch::x86_64::debug::{DebugRegisters, Dr7, SlotKind};
use trapline_arch::x86_64::instruction::{Faults, StepClass};
use trapline_arch::x86_64::mode::{self, CpuMode};
use trapline_arch::x86_64::{interrupts, registers};
use trapline_arch::{Architecture, Gva, RegisterGroup, RegisterGroups};

use super::VcpuRun;
use super::hits::Hit;
use super::plan::Outcome;
use super::slots::{Role, SlotPlan};
use crate::contract::{
    AccessError, GuestMemory, HardwarePoint, HardwarePoints, PointAccess, StepMethod, Vcpu,
};
use crate::cpu::{CONTROL, Cpu};
use crate::points::Patch;

use next::{Lead, NextInstruction};

/// `int3`.
const BREAKPOINT: &[u8] = &[0xcc];

/// TF is bit 8 of every image of the flags, so bit 0 of its second byte.
const TF_IN_SECOND_BYTE: u8 = 1;

/// DR6.BS: the debug exception is a single-step trap (SDM vol. 3B, "Debug Registers").
const SINGLE_STEP: u64 = 1 << 14;

/// DR6.BD: a debug register was accessed while DR7.GD was set.
const GENERAL_DETECT: u64 = 1 << 13;

/// The vector of #DB.
const DEBUG_VECTOR: u8 = 1;

/// The vector of #BP.
const BREAKPOINT_VECTOR: u8 = 3;

/// What stays the same while one vCPU is stepped on and on.
#[derive(Debug, Default)]
pub(super) struct GuardCache {
    /// The interrupt table that the handlers are from: its base and limit.
    table: (u64, u64),
    handlers: Vec<(u8, Option<Gva>)>,
    guest_points: Option<HardwarePoints>,
}

/// How one instruction is stepped.
#[derive(Debug)]
pub(super) struct StepPlan {
    uses_trap: bool,
    guest_tf: bool,
    after: After,
    patch: PlanPatch,
}

/// What is left to do when the instruction has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Nothing,
    /// An image of the flags was pushed.
    ClearPushed,
    /// An image of the flags was loaded that had TF so.
    LoadTf(bool),
}

/// A breakpoint instruction behind the one that is stepped.
#[derive(Debug)]
enum PlanPatch {
    None,
    Wanted(trapline_arch::Gpa),
    Planted(Arc<Patch>),
}

/// Returns the breakpoints that the guest has set in its own debug registers.
pub(super) fn guest_points(
    cpu: &mut Cpu,
    mut vcpu: &mut dyn Vcpu,
) -> Result<HardwarePoints, AccessError> {
    let file = cpu.ensure(&mut vcpu, RegisterGroups::DEBUG)?;
    let mut points = HardwarePoints::default();
    for (number, slot) in DebugRegisters::read(file).slots().into_iter().enumerate() {
        let access = |kind| match kind {
            SlotKind::Execute => Some(PointAccess::Execute),
            SlotKind::Write => Some(PointAccess::Write),
            SlotKind::ReadWrite => Some(PointAccess::ReadWrite),
            _ => None,
        };
        let point = slot.and_then(|slot| {
            Some(HardwarePoint {
                address: slot.address,
                len_bytes: slot.length.bytes(),
                access: access(slot.kind)?,
            })
        });
        points.set(number, point);
    }
    Ok(points)
}

/// Plans the step over the next instruction and adds the traps that the plan needs to `slots`.
pub(super) fn plan(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    slots: &mut SlotPlan,
) -> Result<StepPlan, AccessError> {
    if run.capabilities.step != StepMethod::TrapFlag {
        if !slots.is_empty() {
            slots.add_guest_points(&run.guest_points(vcpu)?, &run.capabilities);
        }
        return Ok(StepPlan::by_trap(false, After::Nothing));
    }
    run.cpu.ensure(&mut vcpu, CONTROL)?;
    let next = NextInstruction::read(run, vcpu)?;
    if next.class == Some(StepClass::MoveDebugRegister) {
        run.guards.guest_points = None;
    }
    let lead = match pending_vector(run, vcpu, &next)? {
        Some(vector) => Lead::Vector(vector),
        None => next.lead(run.cpu.file()),
    };
    let guest_tf = Rflags::read(run.cpu.file()).tf();
    let faults = match lead {
        // What its delivery may raise; the instruction comes later.
        Lead::Vector(_) => Faults::SEGMENT,
        _ => next.faults(run, vcpu)?,
    };
    let after = match lead {
        Lead::Next => next.after(run, vcpu)?,
        _ => After::Nothing,
    };
    let is_lost = next.class == Some(StepClass::WriteMsr);
    if lead == Lead::Next && slots.is_empty() && faults.is_empty() && !is_lost {
        // The guest's own debug registers stay in force, and nothing has to be set.
        return Ok(StepPlan::by_trap(guest_tf, after));
    }
    let own = run.guest_points(vcpu)?;
    let plan = match lead {
        Lead::Next => {
            if is_lost {
                // Older KVMs emulate writes to some MSRs in a hurry, and go on with the next
                // instruction though a step has ended ("KVM: x86: Exit to userspace if fastpath
                // triggers one on instruction skip" mends that in Linux).
                let behind = next.pc.wrapping_add(next.len_bytes);
                slots.insert(execute_at(behind), Role::Target, &run.capabilities);
            }
            StepPlan::by_trap(guest_tf, after)
        }
        Lead::Behind => {
            let behind = next.pc.wrapping_add(next.len_bytes);
            // Processors hold hardware breakpoints off behind MOV SS too. Where breakpoint
            // instructions are not intercepted there is no processor but an emulator, and none
            // that was met does.
            if !run.capabilities.software_breakpoints {
                slots.insert_by_force(execute_at(behind), Role::Target, &run.capabilities);
            }
            let gpa = run.cpu.address_space(&mut vcpu)?.gpa(vcpu.memory(), behind);
            let wants_patch = run.capabilities.software_breakpoints;
            let patch = gpa.filter(|_| wants_patch);
            StepPlan {
                patch: patch.map_or(PlanPatch::None, PlanPatch::Wanted),
                ..StepPlan::free()
            }
        }
        Lead::Vector(_) | Lead::Register(_) => {
            if let Some(target) = target(run, vcpu, lead)? {
                slots.insert_by_force(execute_at(target), Role::Target, &run.capabilities);
                StepPlan::free()
            } else {
                StepPlan::by_trap(guest_tf, After::Nothing)
            }
        }
    };
    slots.add_guest_points(&own, &run.capabilities);
    guard(run, vcpu, slots, faults, next.pc)?;
    Ok(plan)
}

/// Sets breakpoints at the handlers of `faults`, the likeliest first, as far as slots are free.
fn guard(
    run: &mut VcpuRun,
    vcpu: &mut dyn Vcpu,
    slots: &mut SlotPlan,
    faults: Faults,
    pc: Gva,
) -> Result<(), AccessError> {
    for (vector, pushes_error) in faults.vectors() {
        let role = Role::Exception { pushes_error };
        // The handler's own first instruction would meet its guard instead of running.
        let handler = run.handler(vcpu, vector)?.filter(|handler| *handler != pc);
        let point = handler.map(execute_at);
        if let Some(point) = point.filter(|point| !slots.has(*point, role)) {
            slots.insert(point, role, &run.capabilities);
        }
    }
    Ok(())
}

/// Returns the vector of the event that comes before the next instruction, if there is one.
///
/// An access to debug registers that the guest itself has guarded raises #DB. That would be lost
/// where the debugger's DR7 is in force, so it is delivered here.
fn pending_vector(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    next: &NextInstruction,
) -> Result<Option<u8>, AccessError> {
    let pending = vcpu.pending_vector()?;
    if pending.is_some() || next.class != Some(StepClass::MoveDebugRegister) {
        return Ok(pending);
    }
    let file = run.cpu.ensure(&mut vcpu, CONTROL | RegisterGroups::DEBUG)?;
    if mode::cpl(file) != 0 || !Dr7::read(file).gd() {
        return Ok(None);
    }
    vcpu.inject_debug(GENERAL_DETECT)?;
    Ok(Some(DEBUG_VECTOR))
}

fn execute_at(address: Gva) -> HardwarePoint {
    HardwarePoint::execute_at(Architecture::X86_64, address)
}

fn target(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    lead: Lead,
) -> Result<Option<Gva>, AccessError> {
    match lead {
        Lead::Vector(vector) => Ok(handler(run, vcpu, vector)?),
        Lead::Register(id) => {
            let group = run.cpu.file().register(id).map(|register| register.group);
            let file = run
                .cpu
                .ensure(&mut vcpu, group.map_or(CONTROL, RegisterGroups::from))?;
            Ok(Some(Gva(file.u64(id))))
        }
        Lead::Next | Lead::Behind => Ok(None),
    }
}

fn handler(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    vector: u8,
) -> Result<Option<Gva>, AccessError> {
    let space = run.cpu.address_space(&mut vcpu)?;
    let memory = vcpu.memory();
    let mut read = |address: Gva, buffer: &mut [u8]| {
        space.read(memory, &run.points, address, buffer) == buffer.len()
    };
    Ok(interrupts::gate(run.cpu.file(), vector, &mut read)
        .ok()
        .map(|gate| gate.handler))
}

/// Injects the part of a debug exception that is the guest's own.
pub(super) fn give_hits(
    run: &mut VcpuRun,
    vcpu: &mut dyn Vcpu,
    slots: &SlotPlan,
    hit: u32,
    guest_step: bool,
) -> Result<(), AccessError> {
    let mut cause = if guest_step { SINGLE_STEP } else { 0 };
    if slots.is_empty() {
        // The guest's own registers were in force, so every hit is the guest's.
        cause |= u64::from(hit);
    } else if slots.hits_guest(hit) {
        // What the slots hold may be what the guest has meanwhile switched off.
        let own = guest_points(&mut run.cpu, vcpu)?;
        cause |= slots.guest_cause(hit, &own);
    }
    if cause == 0 {
        Ok(())
    } else {
        vcpu.inject_debug(cause)
    }
}

impl VcpuRun {
    fn guest_points(&mut self, vcpu: &mut dyn Vcpu) -> Result<HardwarePoints, AccessError> {
        if let Some(points) = self.guards.guest_points {
            return Ok(points);
        }
        let points = guest_points(&mut self.cpu, vcpu)?;
        self.guards.guest_points = Some(points);
        Ok(points)
    }

    /// Returns where an exception leads.
    fn handler(&mut self, mut vcpu: &mut dyn Vcpu, vector: u8) -> Result<Option<Gva>, AccessError> {
        let file = self.cpu.ensure(&mut vcpu, CONTROL)?;
        let table = (
            file.u64(registers::IDTR_BASE),
            file.u64(registers::IDTR_LIMIT),
        );
        if table != self.guards.table {
            self.guards.handlers.clear();
            self.guards.table = table;
        }
        let mut known = self.guards.handlers.iter();
        if let Some((_, found)) = known.find(|(known, _)| *known == vector) {
            return Ok(*found);
        }
        let found = handler(self, vcpu, vector)?;
        self.guards.handlers.push((vector, found));
        Ok(found)
    }
}

impl StepPlan {
    fn by_trap(guest_tf: bool, after: After) -> Self {
        Self {
            uses_trap: true,
            guest_tf,
            after,
            patch: PlanPatch::None,
        }
    }

    fn free() -> Self {
        Self {
            uses_trap: false,
            guest_tf: false,
            after: After::Nothing,
            patch: PlanPatch::None,
        }
    }

    /// Returns whether the trap flag makes the step.
    pub(super) fn uses_trap(&self) -> bool {
        self.uses_trap
    }

    /// Returns whether a breakpoint instruction must stand in memory for this step, which no other
    /// vCPU may meet.
    pub(super) fn needs_patch(&self) -> bool {
        !matches!(self.patch, PlanPatch::None)
    }

    /// Puts the breakpoint instruction in place.
    pub(super) fn plant(mut self, memory: &dyn GuestMemory) -> Self {
        if let PlanPatch::Wanted(gpa) = self.patch {
            self.patch = match Patch::plant(memory, gpa, BREAKPOINT) {
                Some(patch) => PlanPatch::Planted(patch),
                None => PlanPatch::None,
            };
        }
        self
    }

    /// Takes the breakpoint instruction away.
    pub(super) fn lift(&self, memory: &dyn GuestMemory) {
        if let PlanPatch::Planted(patch) = &self.patch {
            patch.lift(memory);
        }
    }

    /// Returns whether the breakpoint instruction that was met is the plan's own.
    pub(super) fn is_patch_hit(
        &self,
        run: &mut VcpuRun,
        mut vcpu: &mut dyn Vcpu,
    ) -> Result<bool, AccessError> {
        let PlanPatch::Planted(patch) = &self.patch else {
            return Ok(false);
        };
        let pc = run.cpu.pc(&mut vcpu)?;
        let gpa = run.cpu.address_space(&mut vcpu)?.gpa(vcpu.memory(), pc);
        Ok(gpa == Some(patch.gpa()))
    }

    /// Hides the trap flag from the guest after the step, and gives the guest the trap of its own
    /// trap flag.
    pub(super) fn finish(
        &self,
        run: &mut VcpuRun,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        hit: &Hit,
    ) -> Result<Outcome, AccessError> {
        let is_step = hit.is_step;
        let roles = || slots.hit_roles(hit.slots).map(|(_, role)| role);
        let exception = roles().find_map(|role| match role {
            Role::Exception { pushes_error } => Some(pushes_error),
            Role::Free | Role::Debugger | Role::Guest | Role::Target => None,
        });
        if let Some(pushes_error) = exception {
            if self.uses_trap && !self.guest_tf {
                clear_tf_in_frame(run, vcpu, pushes_error)?;
            }
            return Ok(Outcome::Stepped);
        }
        let is_step = is_step || self.uses_trap && roles().any(|role| role == Role::Target);
        if !is_step {
            let has_run = roles().any(|role| matches!(role, Role::Target | Role::Debugger));
            return Ok(if has_run {
                Outcome::Stepped
            } else {
                Outcome::NotYet
            });
        }
        self.settle_flags(run, vcpu)?;
        if self.guest_tf {
            vcpu.inject_debug(SINGLE_STEP)?;
        }
        Ok(Outcome::Stepped)
    }

    fn settle_flags(&self, run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu) -> Result<(), AccessError> {
        match self.after {
            After::Nothing => Ok(()),
            After::ClearPushed if self.guest_tf => Ok(()),
            After::ClearPushed => {
                run.cpu.ensure(&mut vcpu, CONTROL)?;
                let image = mode::linear_sp(run.cpu.file());
                clear_tf(run, vcpu, image)
            }
            After::LoadTf(tf) if tf == self.guest_tf => Ok(()),
            After::LoadTf(tf) => run.cpu.update(&mut vcpu, RegisterGroup::General, |file| {
                Rflags::read(file).with_tf(tf).write(file);
                Ok(())
            }),
        }
    }
}

/// Clears TF in the flags that the processor pushed on the way to the handler where the vCPU stands.
fn clear_tf_in_frame(
    run: &mut VcpuRun,
    mut vcpu: &mut dyn Vcpu,
    pushes_error: bool,
) -> Result<(), AccessError> {
    let file = run.cpu.ensure(&mut vcpu, CONTROL)?;
    let size_bytes = u64::from(CpuMode::of(file).code_bits() / 8);
    let is_real = CpuMode::of(file).is_real_like();
    let flags_index: u64 = if pushes_error && !is_real { 3 } else { 2 };
    let image = mode::linear_sp(file).wrapping_add(size_bytes.wrapping_mul(flags_index));
    clear_tf(run, vcpu, image)
}

fn clear_tf(run: &mut VcpuRun, mut vcpu: &mut dyn Vcpu, image: Gva) -> Result<(), AccessError> {
    let space = run.cpu.address_space(&mut vcpu)?;
    let memory = vcpu.memory();
    let second = image.wrapping_add(1);
    let mut byte = [0];
    if let Some(gpa) = space.gpa(memory, second)
        && memory.read_physical(gpa, &mut byte) == 1
    {
        memory.write_physical(gpa, &[byte[0] & !TF_IN_SECOND_BYTE]);
    }
    Ok(())
}
