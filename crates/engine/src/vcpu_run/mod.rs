//! One resume of one vCPU, decided where the vCPU runs.
//!
//! [`VcpuRun`] stands between the engine, which says how far to go, and the hypervisor, which
//! enters the guest. It steps over breakpoints that are to be passed, evaluates conditions, carries
//! range steps on and hands the guest what is the guest's, all without a word to another thread
//! (rule B6).
//!
//! ```text
//!            begin(request)
//!                  ▼
//!    ┌──────▶  next() ──HoldOthers──▶ others_held() ──┐
//!    │             │◀─────────────────────────────────┘
//!    │          Enter(entry)                    Stop(reason)
//!    │             ▼                                 ▲
//!    └────── handle_exit(exit) ──────────────────────┘ by the next call of next()
//! ```

mod aarch64;
mod hits;
mod plan;
mod slots;
mod x86_64;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use trapline_arch::{Architecture, Gva};

use crate::contract::{
    AccessError, Capabilities, Entry, PassFirst, ResumeAction, ResumeRequest, StepMethod,
    StopReason, Vcpu, VmExit,
};
use crate::cpu::Cpu;
use crate::points::{Patch, PointSet};

use hits::Hit;
use plan::{Outcome, StepPlan};
use slots::SlotPlan;

/// What the hypervisor is to do next.
#[expect(
    clippy::large_enum_variant,
    reason = "it is made on the stack, once for each VM entry"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Bring all other vCPUs out of the guest and hold them, then call
    /// [`VcpuRun::others_held`] and [`VcpuRun::next`]. They stay held until `next` answers with an
    /// entry whose [`alone`](Entry::alone) is false, or with [`Stop`](Self::Stop).
    HoldOthers,
    /// Enter the guest and call [`VcpuRun::handle_exit`] with what came of it.
    Enter(Entry),
    /// Report this to the engine; the vCPU is stopped now.
    Stop(StopReason),
}

/// Whether the other vCPUs could be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// They are out of the guest and stay out.
    Held,
    /// A stop request came first.
    Interrupted,
}

/// One vCPU's part of the debugger. It is kept between resumes.
#[derive(Debug)]
pub struct VcpuRun {
    capabilities: Capabilities,
    cpu: Cpu,
    action: ResumeAction,
    points: Arc<PointSet>,
    state: State,
    others_are_held: bool,
    /// The instruction that this resume, or the one it takes up, was to pass is not executed yet.
    owes_pass: bool,
    /// The data slots whose watchpoint the next instruction has met, bit n for slot n, where
    /// watchpoints stop a vCPU before the access: they are off while it is executed.
    met_watchpoints: u32,
    guards: x86_64::GuardCache,
}

#[derive(Debug)]
enum State {
    /// About to enter.
    Ready { first: First },
    /// Waiting for the others to be held, for a step that only one vCPU may make.
    Holding { purpose: Purpose },
    /// In the guest, running freely.
    Running { entry: Entry, slots: SlotPlan },
    /// In the guest for one instruction.
    Stepping {
        entry: Entry,
        slots: SlotPlan,
        step: Step,
    },
    /// Done.
    Stopped(StopReason),
}

/// How the next instruction is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// A breakpoint on it is met.
    Meet,
    /// A breakpoint on it is passed.
    Pass,
    /// It is stepped, whether there is a breakpoint or not.
    Step,
}

impl First {
    /// Returns how an instruction is executed that is owed, or that is not.
    fn owed(owes_pass: bool) -> Self {
        if owes_pass { Self::Pass } else { Self::Meet }
    }
}

/// Why an instruction is stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// The client asked for it.
    Requested,
    /// To get past a breakpoint on the way.
    Pass,
}

/// What made an exit from a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// The breakpoint instruction that the plan has set.
    Plan,
    /// A breakpoint instruction of a client's, elsewhere.
    Point,
    /// A breakpoint instruction of the guest's own.
    GuestBreakpoint,
    /// A debug exception that neither a slot nor a step explains: INT1.
    GuestDebug,
    /// What is not in doubt.
    Other,
}

/// When the guest gets an exception of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// With the next entry, before any instruction.
    AtEntry,
    /// It has it: the vCPU stands at the handler.
    Done,
}

#[derive(Debug)]
struct Step {
    purpose: Purpose,
    lifted: Option<Arc<Patch>>,
    plan: StepPlan,
}

impl VcpuRun {
    /// Creates the part for one vCPU of a guest.
    #[must_use]
    pub fn new(architecture: Architecture, capabilities: &Capabilities) -> Self {
        Self {
            capabilities: *capabilities,
            cpu: Cpu::new(architecture),
            action: ResumeAction::Continue,
            points: Arc::default(),
            state: State::Stopped(StopReason::Paused),
            others_are_held: false,
            owes_pass: false,
            met_watchpoints: 0,
            guards: x86_64::GuardCache::default(),
        }
    }

    /// Takes up a resume. The vCPU is stopped, and its registers may have changed since it did.
    pub fn begin(&mut self, request: ResumeRequest) {
        self.action = request.action;
        let former = core::mem::replace(&mut self.points, request.points);
        self.cpu.invalidate();
        self.guards = x86_64::GuardCache::default();
        self.others_are_held = false;
        self.owes_pass = match request.pass_first {
            PassFirst::No => false,
            PassFirst::Yes => true,
            PassFirst::Still => self.owes_pass,
        };
        if !self.owes_pass {
            self.met_watchpoints = 0;
        }
        self.forget_replaced_watchpoints(&former);
        self.state = State::Ready {
            first: First::owed(self.owes_pass),
        };
    }

    /// Takes slots from those that the next instruction has met that hold something else by now.
    fn forget_replaced_watchpoints(&mut self, former: &PointSet) {
        if self.met_watchpoints == 0 {
            return;
        }
        let point = |set: &PointSet, slot| set.hardware_points().slot(slot);
        let unchanged = |slot| point(former, slot) == point(&self.points, slot);
        self.met_watchpoints &= (0..u32::BITS)
            .zip(0..)
            .filter(|(_, slot)| unchanged(*slot))
            .fold(0, |kept, (bit, _)| kept | 1_u32.unbounded_shl(bit));
    }

    /// Says what to do next.
    pub fn next(&mut self, vcpu: &mut dyn Vcpu) -> Next {
        let proceeded = match self.state {
            State::Ready { first } => self.proceed(vcpu, first),
            State::Holding { purpose } if self.others_are_held => self.step(vcpu, purpose),
            State::Holding { .. } => Ok(Next::HoldOthers),
            State::Running { entry, .. } | State::Stepping { entry, .. } => Ok(Next::Enter(entry)),
            State::Stopped(reason) => Ok(Next::Stop(reason)),
        };
        proceeded.unwrap_or_else(|error| {
            self.state = State::Stopped(StopReason::Failed(error));
            Next::Stop(StopReason::Failed(error))
        })
    }

    /// Takes the answer to [`Next::HoldOthers`].
    pub fn others_held(&mut self, held: Held) {
        match held {
            Held::Held => self.others_are_held = true,
            Held::Interrupted => self.state = State::Stopped(StopReason::Paused),
        }
    }

    /// Takes what came of an entry.
    pub fn handle_exit(&mut self, vcpu: &mut dyn Vcpu, exit: VmExit) {
        self.cpu.invalidate();
        let state = core::mem::replace(&mut self.state, State::Stopped(StopReason::Paused));
        let handled = match state {
            State::Running { slots, .. } => self.leave_running(vcpu, slots, exit),
            State::Stepping { entry, slots, step } => {
                self.leave_step(vcpu, entry, slots, step, exit)
            }
            not_entered => Ok(not_entered),
        };
        self.state = handled.unwrap_or_else(|error| State::Stopped(StopReason::Failed(error)));
    }

    fn proceed(&mut self, vcpu: &mut dyn Vcpu, first: First) -> Result<Next, AccessError> {
        match (self.action, first) {
            (ResumeAction::Step | ResumeAction::RangeStep { .. }, _) => {
                self.step(vcpu, Purpose::Requested)
            }
            (ResumeAction::Continue, First::Step) => self.step(vcpu, Purpose::Pass),
            (ResumeAction::Continue, First::Pass) => {
                if self.met_watchpoints != 0 || self.patch_at_pc(vcpu)?.is_some() {
                    return self.step(vcpu, Purpose::Pass);
                }
                let pc = self.pc(vcpu)?;
                if self.points.execute_slots_at(pc).next().is_none() {
                    return self.run_freely(vcpu, false);
                }
                if self.capabilities.step == StepMethod::None {
                    return self.run_freely(vcpu, true);
                }
                // A run could do it too, but a pause would leave unknown whether it has.
                self.step(vcpu, Purpose::Pass)
            }
            (ResumeAction::Continue, First::Meet) => self.run_freely(vcpu, false),
        }
    }

    fn run_freely(&mut self, vcpu: &mut dyn Vcpu, pass_first: bool) -> Result<Next, AccessError> {
        self.others_are_held = false;
        self.guards = x86_64::GuardCache::default();
        self.owes_pass &= pass_first;
        self.met_watchpoints = 0;
        let mut slots = SlotPlan::new(self.points.hardware_points());
        self.add_guest_points(vcpu, &mut slots)?;
        let entry = Entry {
            pass_first,
            has_patches: !self.points.patches().is_empty(),
            hardware: slots.points(),
            ..Entry::default()
        };
        self.state = State::Running { entry, slots };
        Ok(Next::Enter(entry))
    }

    fn step(&mut self, vcpu: &mut dyn Vcpu, purpose: Purpose) -> Result<Next, AccessError> {
        if self.capabilities.step == StepMethod::None {
            self.state = State::Stopped(StopReason::CannotStep);
            return Ok(Next::Stop(StopReason::CannotStep));
        }
        let lifted = self.patch_at_pc(vcpu)?;
        let mut slots = SlotPlan::new(self.points.watch_points(self.met_watchpoints));
        let plan = StepPlan::new(self, vcpu, &mut slots)?;
        if (lifted.is_some() || plan.needs_patch()) && !self.others_are_held {
            self.state = State::Holding { purpose };
            return Ok(Next::HoldOthers);
        }
        if let Some(patch) = &lifted {
            patch.lift(vcpu.memory());
        }
        let plan = plan.plant(vcpu.memory());
        let entry = Entry {
            step: plan.uses_trap(),
            hold_interrupts: true,
            pass_first: false,
            alone: lifted.is_some() || plan.needs_patch(),
            has_patches: !self.points.patches().is_empty() || plan.needs_patch(),
            hardware: slots.points(),
        };
        self.others_are_held = entry.alone;
        self.state = State::Stepping {
            entry,
            slots,
            step: Step {
                purpose,
                lifted,
                plan,
            },
        };
        Ok(Next::Enter(entry))
    }

    fn leave_running(
        &mut self,
        vcpu: &mut dyn Vcpu,
        slots: SlotPlan,
        exit: VmExit,
    ) -> Result<State, AccessError> {
        self.owes_pass &= matches!(
            exit,
            VmExit::Interrupted | VmExit::DebugRegisterAccess | VmExit::DebugRegistersChanged
        );
        match exit {
            VmExit::Interrupted => Ok(State::Stopped(StopReason::Paused)),
            VmExit::DebugRegisterAccess => Ok(State::Ready { first: First::Step }),
            VmExit::DebugRegistersChanged => Ok(State::Ready {
                first: First::owed(self.owes_pass),
            }),
            VmExit::Ended(end) => Ok(State::Stopped(StopReason::Ended(end))),
            VmExit::BreakpointInstruction => self.breakpoint_instruction(vcpu),
            VmExit::HardwareBreakpoint | VmExit::Watchpoint { .. } | VmExit::Debug { .. } => {
                let hit = self.hit_of(vcpu, &slots, exit)?;
                if self.is_guests_alone(&slots, &hit) {
                    self.give_guest_the_exception(vcpu, exit)?;
                    return Ok(State::Ready { first: First::Meet });
                }
                self.give_guest_its_hits(vcpu, &slots, hit.slots, hit.is_step)?;
                Ok(match self.slot_hit(vcpu, &slots, &hit)? {
                    hits::SlotHit::Stop(reason) => State::Stopped(reason),
                    hits::SlotHit::Pass => State::Ready { first: First::Pass },
                    hits::SlotHit::None => State::Ready { first: First::Meet },
                })
            }
        }
    }

    fn leave_step(
        &mut self,
        vcpu: &mut dyn Vcpu,
        entry: Entry,
        slots: SlotPlan,
        step: Step,
        exit: VmExit,
    ) -> Result<State, AccessError> {
        let met = self.met_in_step(vcpu, &slots, &step, exit);
        // The guest's own breakpoint instruction, or INT1, was what was stepped: its exception is
        // delivered. Where that happens at the next entry, the step ends at the handler, where the
        // plan has set its trap.
        let delivered = match met {
            Ok(Met::GuestBreakpoint) => Some(self.give_guest_its_breakpoint(vcpu)),
            Ok(Met::GuestDebug) => Some(self.give_guest_the_exception(vcpu, exit)),
            Ok(Met::Plan | Met::Point | Met::Other) | Err(_) => None,
        };
        if delivered == Some(Ok(Delivery::AtEntry)) {
            return Ok(State::Stepping { entry, slots, step });
        }
        if let Some(patch) = &step.lifted {
            patch.lower(vcpu.memory());
        }
        step.plan.lift(vcpu.memory());
        let is_delivered = delivered.transpose()? == Some(Delivery::Done);
        if met? == Met::Point {
            return self.breakpoint_instruction(vcpu);
        }
        let hit = match exit {
            VmExit::Interrupted => return Ok(State::Stopped(StopReason::Paused)),
            VmExit::Ended(end) => return Ok(State::Stopped(StopReason::Ended(end))),
            VmExit::DebugRegisterAccess | VmExit::DebugRegistersChanged => Hit::default(),
            VmExit::BreakpointInstruction => Hit {
                is_step: true,
                ..Hit::default()
            },
            _ if is_delivered => Hit::default(),
            VmExit::HardwareBreakpoint | VmExit::Watchpoint { .. } | VmExit::Debug { .. } => {
                self.hit_of(vcpu, &slots, exit)?
            }
        };
        let outcome = if is_delivered {
            Outcome::Stepped
        } else {
            step.plan.finish(self, vcpu, &slots, &hit)?
        };
        if outcome == Outcome::Stepped {
            self.owes_pass = false;
            self.met_watchpoints = 0;
        }
        self.give_guest_its_hits(vcpu, &slots, hit.slots, false)?;
        if let hits::SlotHit::Stop(reason) = self.slot_hit(vcpu, &slots, &hit)? {
            return Ok(State::Stopped(reason));
        }
        match (outcome, step.purpose) {
            (Outcome::NotYet, _) => Ok(State::Ready { first: First::Pass }),
            (Outcome::Stepped, Purpose::Pass) => Ok(State::Ready { first: First::Meet }),
            (Outcome::Stepped, Purpose::Requested) => self.step_done(vcpu),
        }
    }

    /// Returns what made an exit from a step that may be the guest's own doing.
    fn met_in_step(
        &mut self,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        step: &Step,
        exit: VmExit,
    ) -> Result<Met, AccessError> {
        match exit {
            VmExit::Debug {
                step: false,
                slots: hit,
                ..
            } if !slots.has_role(hit) => Ok(Met::GuestDebug),
            VmExit::HardwareBreakpoint | VmExit::Watchpoint { .. } => {
                let hit = self.hit_of(vcpu, slots, exit)?;
                Ok(if slots.has_role(hit.slots) {
                    Met::Other
                } else {
                    Met::GuestDebug
                })
            }
            VmExit::BreakpointInstruction => {
                if step.plan.is_patch_hit(self, vcpu)? {
                    return Ok(Met::Plan);
                }
                // An interrupt that could not be held off may have led to a breakpoint. One that is
                // lifted for the step did not stop it: the guest's own instruction there did.
                let patch = self.patch_at_pc(vcpu)?;
                let is_lifted = match (&patch, &step.lifted) {
                    (Some(patch), Some(lifted)) => Arc::ptr_eq(patch, lifted),
                    _ => false,
                };
                Ok(if patch.is_some() && !is_lifted {
                    Met::Point
                } else {
                    Met::GuestBreakpoint
                })
            }
            _ => Ok(Met::Other),
        }
    }

    /// Decides after a step that a client asked for.
    fn step_done(&mut self, vcpu: &mut dyn Vcpu) -> Result<State, AccessError> {
        if let Some(reason) = self.point_at_pc(vcpu)? {
            return Ok(State::Stopped(reason));
        }
        let ResumeAction::RangeStep { start, end } = self.action else {
            return Ok(State::Stopped(StopReason::Step));
        };
        let pc = self.pc(vcpu)?;
        Ok(if (start..end).contains(&pc) {
            State::Ready { first: First::Pass }
        } else {
            State::Stopped(StopReason::Step)
        })
    }

    fn pc(&mut self, mut vcpu: &mut dyn Vcpu) -> Result<Gva, AccessError> {
        self.cpu.pc(&mut vcpu)
    }

    /// Returns the patch that stands where the pc points.
    fn patch_at_pc(&mut self, mut vcpu: &mut dyn Vcpu) -> Result<Option<Arc<Patch>>, AccessError> {
        if self.points.patches().is_empty() {
            return Ok(None);
        }
        let pc = self.cpu.pc(&mut vcpu)?;
        let space = self.cpu.address_space(&mut vcpu)?;
        let gpa = space.gpa(vcpu.memory(), pc);
        Ok(gpa.and_then(|gpa| self.points.patch_at(gpa)).cloned())
    }
}
