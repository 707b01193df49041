//! Which vCPUs run, and when a stop is complete.
//!
//! Each vCPU has its own state; stopping all of them when one stops is a policy on top
//! ([`RunControl::handle_stopped`]), so that another policy needs no other states (rule R11).
//!
//! The machine as a whole is in one of these phases:
//!
//! ```text
//!   Stopped ──resume──▶ Running ──a hit, or an interrupt──▶ Stopping ──all stopped──▶ Stopped
//!                          │ ▲                                 ▲
//!        a client asks for  │ │ its requests are answered      │ a hit meanwhile
//!        a running vCPU     ▼ │                                │
//!                         Pausing ─────────────────────────────┘
//! ```

#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::Gva;

use crate::contract::{
    Command, GuestEnd, PassFirst, ResumeAction, ResumeRequest, StopReason, VcpuId,
};
use crate::points::PointSet;

/// What the machine as a whole does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All vCPUs are stopped, and clients know or will be told.
    Stopped,
    /// At least one vCPU runs.
    Running,
    /// A stop is to be reported as soon as all vCPUs are out of the guest (rule R1).
    Stopping,
    /// All vCPUs are being brought out for a moment, to answer a request about them.
    Pausing,
}

/// A stop as clients are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    /// The vCPU that stopped.
    pub(crate) vcpu: VcpuId,
    /// Why.
    pub(crate) reason: StopReason,
}

#[derive(Debug, Default)]
struct VcpuControl {
    /// Between `Command::Run` and its answer.
    is_out: bool,
    /// `Command::Stop` was given for this run.
    is_stop_asked: bool,
    /// The client's last resume was about this vCPU too, so its hits may be reported.
    is_resumed: bool,
    /// How it goes on after a pause; `None` if it stays where it is.
    action: Option<ResumeAction>,
    /// Why it stopped, as long as no client was told (rule R2).
    pending: Option<StopReason>,
    /// Where it stood when clients were told that it hit a breakpoint there.
    told_pc: Option<Gva>,
    /// It has not been run since.
    is_told_anew: bool,
}

/// The state of all vCPUs.
#[derive(Debug)]
pub(crate) struct RunControl {
    vcpus: Vec<VcpuControl>,
    phase: Phase,
    /// Hits in the order in which they came.
    arrivals: VecDeque<VcpuId>,
    interrupt: bool,
    last_stop: Stop,
    /// The last stop has been told to nobody: it is reported when somebody resumes.
    is_withheld: bool,
    /// A resume came after the machine was last settled.
    is_resumed_anew: bool,
    ended: Option<GuestEnd>,
    is_end_told: bool,
    commands: VecDeque<Command>,
}

/// What the machine has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to be done.
    None,
    /// All vCPUs are out of the guest: [`RunControl::settle`] decides what that means.
    AllStopped,
}

/// What a completed stop means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Tell clients of [`RunControl::last_stop`].
    Report,
    /// Answer the requests that waited, then let the vCPUs go on.
    Answer,
}

impl RunControl {
    pub(crate) fn new(vcpu_count: u32) -> Self {
        Self {
            vcpus: (0..vcpu_count).map(|_| VcpuControl::default()).collect(),
            phase: Phase::Stopped,
            arrivals: VecDeque::new(),
            interrupt: false,
            last_stop: Stop {
                vcpu: VcpuId(0),
                reason: StopReason::Paused,
            },
            is_withheld: false,
            is_resumed_anew: false,
            ended: None,
            is_end_told: false,
            commands: VecDeque::new(),
        }
    }

    pub(crate) fn vcpu_count(&self) -> u32 {
        u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn vcpu_ids(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (0..self.vcpu_count()).map(VcpuId)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns whether every vCPU is out of the guest, whatever that means for clients.
    pub(crate) fn all_out(&self) -> bool {
        self.vcpus.iter().all(|vcpu| !vcpu.is_out)
    }

    /// Returns the stop that clients were told of last.
    pub(crate) fn last_stop(&self) -> Stop {
        self.last_stop
    }

    /// Returns how the guest ended, if it has.
    pub(crate) fn ended(&self) -> Option<GuestEnd> {
        self.ended
    }

    /// Returns what a vCPU stopped for that no client was told of yet.
    pub(crate) fn pending(&self, vcpu: VcpuId) -> Option<StopReason> {
        self.vcpu(vcpu)?.pending
    }

    /// Returns whether clients have been told that the guest is at its end.
    pub(crate) fn is_end_told(&self) -> bool {
        self.is_end_told
    }

    pub(crate) fn told_pc(&self, vcpu: VcpuId) -> Option<Gva> {
        self.vcpu(vcpu)?.told_pc
    }

    /// Notes where a vCPU stands whose stop is being reported.
    pub(crate) fn set_told_pc(&mut self, vcpu: VcpuId, pc: Option<Gva>) {
        if let Some(control) = self.vcpu_mut(vcpu) {
            control.told_pc = pc;
            control.is_told_anew = true;
        }
    }

    /// Returns whether a vCPU that stands at `pc` is to execute the instruction there without
    /// looking for breakpoints, because clients were told of its hit there.
    pub(crate) fn pass_first(&self, vcpu: VcpuId, pc: Option<Gva>) -> PassFirst {
        match self.vcpu(vcpu) {
            Some(control) if pc.is_some() && control.told_pc == pc => {
                if control.is_told_anew {
                    PassFirst::Yes
                } else {
                    PassFirst::Still
                }
            }
            _ => PassFirst::No,
        }
    }

    /// Returns how a vCPU goes on after a pause.
    pub(crate) fn action(&self, vcpu: VcpuId) -> Option<ResumeAction> {
        self.vcpu(vcpu)?.action
    }

    /// Sets what each vCPU is to do by a client's resume; `None` leaves it where it is. Call it with
    /// all vCPUs out.
    ///
    /// The end of a step that an earlier resume asked for is not reported any more: the client has
    /// seen the vCPU since, and would take it for an end of this resume.
    pub(crate) fn set_actions(&mut self, action: impl Fn(VcpuId) -> Option<ResumeAction>) {
        for (id, control) in (0..).map(VcpuId).zip(&mut self.vcpus) {
            control.action = action(id);
            control.is_resumed = control.action.is_some();
            if control.pending.is_some_and(is_end_of_action) {
                control.pending = None;
            }
        }
        let vcpus = &self.vcpus;
        self.arrivals.retain(|vcpu| {
            let control = vcpus.get(vcpu.index());
            control.is_some_and(|control| control.pending.is_some())
        });
        self.is_resumed_anew = true;
        self.phase = Phase::Pausing;
    }

    /// Lets every vCPU run freely: the client is gone that had said how they are to run. An
    /// interrupt that it had asked for is forgotten if `forget_interrupt` says that nobody else
    /// waits for a stop.
    pub(crate) fn set_free(&mut self, forget_interrupt: bool) {
        if self.phase == Phase::Stopped {
            return;
        }
        let phase = self.phase;
        self.set_actions(|_| Some(ResumeAction::Continue));
        self.interrupt &= !forget_interrupt;
        self.begin(match phase {
            Phase::Stopping => Phase::Stopping,
            Phase::Stopped | Phase::Running | Phase::Pausing => Phase::Pausing,
        });
    }

    /// Returns whether a resume came after the machine was last settled, so that it must be again
    /// before any vCPU runs: a hit may be pending.
    pub(crate) fn is_resumed_anew(&self) -> bool {
        self.is_resumed_anew
    }

    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(crate) fn push_command(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// Lets a vCPU go on with its action, if it has one.
    pub(crate) fn run(&mut self, vcpu: VcpuId, pass_first: PassFirst, points: Arc<PointSet>) {
        let Some(control) = self.vcpus.get_mut(vcpu.index()) else {
            return;
        };
        let Some(action) = control.action.filter(|_| !control.is_out) else {
            return;
        };
        control.is_out = true;
        control.is_stop_asked = false;
        control.is_told_anew = false;
        if pass_first == PassFirst::No {
            control.told_pc = None;
        }
        self.phase = Phase::Running;
        let request = ResumeRequest {
            action,
            pass_first,
            points,
        };
        self.commands.push_back(Command::Run(vcpu, request));
    }

    /// A client that waits for a stop wants the machine stopped (rule R3).
    pub(crate) fn interrupt(&mut self) -> Progress {
        self.interrupt = true;
        self.begin(Phase::Stopping)
    }

    /// A client asked something that only stopped vCPUs can tell.
    pub(crate) fn pause(&mut self) -> Progress {
        if self.phase != Phase::Running {
            return Progress::None;
        }
        self.begin(Phase::Pausing)
    }

    /// Ends a pause after which no vCPU has anything to do.
    pub(crate) fn rest(&mut self) {
        self.phase = Phase::Stopped;
    }

    /// Takes the answer to a `Command::Run`.
    pub(crate) fn handle_stopped(&mut self, vcpu: VcpuId, reason: StopReason) -> Progress {
        let Some(control) = self
            .vcpus
            .get_mut(vcpu.index())
            .filter(|control| control.is_out)
        else {
            return Progress::None;
        };
        control.is_out = false;
        if reason != StopReason::Paused {
            control.pending = Some(reason);
            control.told_pc = None;
            self.arrivals.push_back(vcpu);
            if let StopReason::Ended(end) = reason {
                self.ended = Some(end);
            }
            return self.begin(Phase::Stopping);
        }
        // A pause that nobody waits for any more ends like one that somebody did: the vCPU is
        // taken up again when all are out.
        let phase = if self.phase == Phase::Running {
            Phase::Pausing
        } else {
            self.phase
        };
        self.begin(phase)
    }

    fn begin(&mut self, phase: Phase) -> Progress {
        self.phase = phase;
        if self.all_out() {
            return Progress::AllStopped;
        }
        for (id, control) in (0..).map(VcpuId).zip(&mut self.vcpus) {
            if control.is_out && !control.is_stop_asked {
                control.is_stop_asked = true;
                self.commands.push_back(Command::Stop(id));
            }
        }
        Progress::None
    }

    /// Decides what it means that all vCPUs are out: the oldest hit that `still_counts` is
    /// reported, others stay pending (rule R2).
    pub(crate) fn settle(
        &mut self,
        mut still_counts: impl FnMut(VcpuId, StopReason) -> bool,
    ) -> Settled {
        self.is_resumed_anew = false;
        let mut kept = VecDeque::new();
        let withheld = core::mem::take(&mut self.is_withheld).then_some(self.last_stop);
        let mut stop = withheld.filter(|stop| still_counts(stop.vcpu, stop.reason));
        while let Some(vcpu) = self.arrivals.pop_front() {
            let is_eligible = self.vcpu(vcpu).is_some_and(VcpuControl::may_be_reported);
            if stop.is_some() || !is_eligible {
                kept.push_back(vcpu);
                continue;
            }
            let taken = self
                .vcpu_mut(vcpu)
                .and_then(|control| control.pending.take());
            // A hit whose cause is gone is dropped: the vCPU goes on as it was told to.
            stop = taken
                .filter(|reason| still_counts(vcpu, *reason))
                .map(|reason| Stop { vcpu, reason });
        }
        self.arrivals = kept;
        match stop {
            Some(stop) => self.report(stop),
            None if self.interrupt => {
                let vcpu = self.interrupted_vcpu();
                self.report(Stop {
                    vcpu,
                    reason: StopReason::Paused,
                })
            }
            None => {
                self.phase = Phase::Pausing;
                Settled::Answer
            }
        }
    }

    /// Keeps the stop that has just been settled for the next resume: no client waits for one now.
    pub(crate) fn withhold(&mut self) {
        self.is_withheld = true;
        self.is_end_told = false;
    }

    /// Notes that a client asks for the last stop.
    pub(crate) fn tell_withheld(&mut self) {
        if core::mem::take(&mut self.is_withheld) {
            self.is_end_told |= matches!(self.last_stop.reason, StopReason::Ended(_));
        }
    }

    /// An interrupt is reported of the vCPU that the client looked at last, if that one ran.
    fn interrupted_vcpu(&self) -> VcpuId {
        let ran = |vcpu: &VcpuId| self.vcpu(*vcpu).is_some_and(|control| control.is_resumed);
        Some(self.last_stop.vcpu)
            .filter(ran)
            .or_else(|| self.vcpu_ids().find(ran))
            .unwrap_or(self.last_stop.vcpu)
    }

    fn report(&mut self, stop: Stop) -> Settled {
        self.interrupt = false;
        self.phase = Phase::Stopped;
        self.last_stop = stop;
        self.is_end_told |= matches!(stop.reason, StopReason::Ended(_));
        for control in &mut self.vcpus {
            control.action = None;
        }
        Settled::Report
    }

    fn vcpu(&self, vcpu: VcpuId) -> Option<&VcpuControl> {
        self.vcpus.get(vcpu.index())
    }

    fn vcpu_mut(&mut self, vcpu: VcpuId) -> Option<&mut VcpuControl> {
        self.vcpus.get_mut(vcpu.index())
    }
}

impl VcpuControl {
    /// A hit of a vCPU that the client has not set going stays pending. The guest's end is
    /// everybody's.
    fn may_be_reported(&self) -> bool {
        self.is_resumed || matches!(self.pending, Some(StopReason::Ended(_)))
    }
}

/// Whether a reason is no event of the guest but what a client's own resume came to.
fn is_end_of_action(reason: StopReason) -> bool {
    matches!(reason, StopReason::Step | StopReason::CannotStep)
}
