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

use crate::contract::{Command, GuestEnd, ResumeAction, ResumeRequest, StopReason, VcpuId};
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
    /// Where it stood when clients were last told of a stop: resumed from there it does not stop
    /// at the same breakpoint again.
    told_pc: Option<Gva>,
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
    ended: Option<GuestEnd>,
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
            ended: None,
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

    pub(crate) fn told_pc(&self, vcpu: VcpuId) -> Option<Gva> {
        self.vcpu(vcpu)?.told_pc
    }

    pub(crate) fn set_told_pc(&mut self, vcpu: VcpuId, pc: Option<Gva>) {
        if let Some(control) = self.vcpu_mut(vcpu) {
            control.told_pc = pc;
        }
    }

    /// Returns how a vCPU goes on after a pause.
    pub(crate) fn action(&self, vcpu: VcpuId) -> Option<ResumeAction> {
        self.vcpu(vcpu)?.action
    }

    /// Sets what each vCPU is to do by a client's resume; `None` leaves it where it is. Call it with
    /// all vCPUs out.
    pub(crate) fn set_actions(&mut self, action: impl Fn(VcpuId) -> Option<ResumeAction>) {
        for (id, control) in (0..).map(VcpuId).zip(&mut self.vcpus) {
            control.action = action(id);
            control.is_resumed = control.action.is_some();
        }
        self.phase = Phase::Pausing;
    }

    pub(crate) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    pub(crate) fn push_command(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    /// Lets a vCPU go on with its action, if it has one.
    pub(crate) fn run(&mut self, vcpu: VcpuId, pass_first: bool, points: Arc<PointSet>) {
        let Some(control) = self.vcpus.get_mut(vcpu.index()) else {
            return;
        };
        let Some(action) = control.action.filter(|_| !control.is_out) else {
            return;
        };
        control.is_out = true;
        control.is_stop_asked = false;
        self.phase = Phase::Running;
        let request = ResumeRequest {
            action,
            pass_first,
            points,
        };
        self.commands.push_back(Command::Run(vcpu, request));
    }

    /// A client wants the machine stopped (rule R3).
    pub(crate) fn interrupt(&mut self) -> Progress {
        if self.phase == Phase::Stopped {
            return Progress::None;
        }
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
        let mut kept = VecDeque::new();
        let mut stop = None;
        while let Some(vcpu) = self.arrivals.pop_front() {
            let is_eligible = self.vcpu(vcpu).is_some_and(|control| control.is_resumed);
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
            None => Settled::Answer,
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
