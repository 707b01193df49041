//! One vCPU's place in the pool: its mailbox, and the loop that carries commands out.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use trapline_arch::Architecture;
use trapline_engine::contract::AccessError;
use trapline_engine::{Capabilities, ResumeRequest, StopReason, VcpuId};
use trapline_engine::{Next, VcpuRun};

use super::lookout::Lookout;
use crate::bus::{DeviceBus, StopListener};
use crate::gate::Gate;
use crate::host::KvmVcpu;
use crate::run::{Entered, Surroundings};

/// A pause longer than this is one that a guest's watchdog could notice, some hundred of them.
const NOTABLE_PAUSE: Duration = Duration::from_millis(10);

/// What a vCPU's thread is to do.
#[derive(Debug)]
pub(super) enum Work {
    /// Take up a resume.
    Begin(ResumeRequest),
    /// Go on with one that another thread has begun.
    Continue,
    /// End.
    End,
}

/// A vCPU and its part of the debugger.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) vcpu: KvmVcpu,
    run: VcpuRun,
    stopped_at: Instant,
}

/// One vCPU's place.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) runner: Mutex<Runner>,
    mailbox: Mutex<Option<Work>>,
    mail: Condvar,
}

impl Lane {
    pub(super) fn new(
        vcpu: KvmVcpu,
        architecture: Architecture,
        capabilities: &Capabilities,
    ) -> Self {
        let run = VcpuRun::new(architecture, capabilities);
        Self {
            runner: Mutex::new(Runner {
                vcpu,
                run,
                stopped_at: Instant::now(),
            }),
            mailbox: Mutex::new(None),
            mail: Condvar::new(),
        }
    }

    fn post(&self, work: Work) {
        *self.mailbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        self.mail.notify_one();
    }

    fn take(&self) -> Work {
        let mut mailbox = self.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(work) = mailbox.take() {
                return work;
            }
            mailbox = self
                .mail
                .wait(mailbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Runner> {
        self.runner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time during which no vCPU runs.
#[derive(Clone, Copy, Debug)]
struct Pause {
    since: Instant,
    /// What the guest's counter was then, where it has one that can be set.
    counter: u64,
}

/// What all threads of a pool share.
pub(crate) struct Shared {
    pub(super) gate: Gate,
    lanes: Box<[Lane]>,
    bus: Arc<dyn DeviceBus>,
    listener: Arc<dyn StopListener>,
    /// Who has vCPUs look at the guest's debug registers.
    pub(super) lookout: Lookout,
    /// How many resumes are under way. It changes with `pause` locked.
    pub(super) running: AtomicUsize,
    /// Since when none is.
    pause: Mutex<Option<Pause>>,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared")
            .field("lanes", &self.lanes)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        gate: Gate,
        lanes: Vec<Lane>,
        bus: Arc<dyn DeviceBus>,
        listener: Arc<dyn StopListener>,
    ) -> Self {
        let lanes = lanes.into_boxed_slice();
        Self {
            gate,
            lookout: Lookout::new(lanes.len()),
            lanes,
            bus,
            listener,
            running: AtomicUsize::new(0),
            pause: Mutex::new(None),
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (0..u32::try_from(self.lanes.len()).unwrap_or(u32::MAX)).map(VcpuId)
    }

    pub(super) fn lane(&self, vcpu: VcpuId) -> Option<&Lane> {
        self.lanes.get(vcpu.index())
    }

    /// Calls `use_it` with a vCPU that is stopped.
    pub(crate) fn with_stopped<T>(
        &self,
        vcpu: VcpuId,
        use_it: impl FnOnce(&mut KvmVcpu) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        let lane = self.lane(vcpu).ok_or(AccessError::NoSuchVcpu)?;
        match lane.runner.try_lock() {
            Ok(mut runner) => use_it(&mut runner.vcpu),
            Err(TryLockError::Poisoned(runner)) => use_it(&mut runner.into_inner().vcpu),
            Err(TryLockError::WouldBlock) => Err(AccessError::Running),
        }
    }

    /// Gives a vCPU's thread something to do.
    pub(super) fn begin(&self, vcpu: VcpuId, work: Work) {
        if let (Some(lane), Some(control)) = (self.lane(vcpu), self.gate.control(vcpu)) {
            // A stop request from now on is about this resume.
            control.clear_stop();
            self.take_up(lane);
            lane.post(work);
        }
    }

    /// Carries a resume out on the calling thread until `deadline`; then the vCPU's thread goes on
    /// with it and `None` is returned.
    pub(super) fn begin_here(
        &self,
        vcpu: VcpuId,
        request: ResumeRequest,
        deadline: Instant,
    ) -> Option<StopReason> {
        let (lane, control) = (self.lane(vcpu)?, self.gate.control(vcpu)?);
        control.clear_stop();
        self.take_up(lane);
        let reason = self.carry_out(vcpu, lane, Some(request), Some(deadline));
        if reason.is_some() {
            self.lay_down(lane);
        } else {
            lane.post(Work::Continue);
        }
        reason
    }

    /// Counts a resume that begins. If it is the first after a notable pause, the guest's counter goes
    /// on where it stood.
    fn take_up(&self, lane: &Lane) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if self.running.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(pause) = pause.take()
            && pause.since.elapsed() >= NOTABLE_PAUSE
        {
            lane.lock().vcpu.set_counter(pause.counter);
        }
    }

    /// Counts a resume that has ended. If it was the last, a pause begins.
    ///
    /// The counter is read when all have stopped: were it read before, it would go back for those that
    /// ran on.
    fn lay_down(&self, lane: &Lane) {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            let counter = lane.lock().vcpu.counter();
            let since = Instant::now();
            *pause = counter.map(|counter| Pause { since, counter });
        }
    }

    /// The life of a vCPU's thread.
    pub(super) fn work(&self, vcpu: VcpuId) {
        let Some(lane) = self.lane(vcpu) else { return };
        loop {
            let request = match lane.take() {
                Work::Begin(request) => Some(request),
                Work::Continue => None,
                Work::End => return,
            };
            if let Some(reason) = self.carry_out(vcpu, lane, request, None) {
                self.lay_down(lane);
                self.listener.vcpu_stopped(vcpu, reason);
            }
        }
    }

    /// Brings a vCPU out of the guest for a look at what it is asked to do.
    pub(super) fn kick(&self, vcpu: VcpuId) {
        if let Some(control) = self.gate.control(vcpu) {
            control.kick();
        }
    }

    /// Stops all vCPUs and ends the threads.
    pub(super) fn end(&self) {
        self.lookout.end();
        for (vcpu, lane) in self.ids().zip(&self.lanes) {
            self.gate.request_stop(vcpu);
            lane.post(Work::End);
        }
    }

    /// Carries a resume out, or goes on with one. `None` if the deadline has passed before its end.
    fn carry_out(
        &self,
        vcpu: VcpuId,
        lane: &Lane,
        request: Option<ResumeRequest>,
        deadline: Option<Instant>,
    ) -> Option<StopReason> {
        let around = Surroundings {
            gate: &self.gate,
            bus: &*self.bus,
            deadline,
        };
        let mut runner = lane.lock();
        let Runner {
            vcpu: this,
            run,
            stopped_at,
        } = &mut *runner;
        if let Some(control) = self.gate.control(vcpu) {
            control.adopt();
        }
        if let Some(request) = request {
            run.begin(request);
            if stopped_at.elapsed() >= NOTABLE_PAUSE {
                this.tell_clock();
            }
        }
        loop {
            match run.next(this) {
                Next::HoldOthers => run.others_held(self.gate.hold(vcpu)),
                Next::Enter(entry) => {
                    if !entry.alone {
                        self.gate.release(vcpu);
                    }
                    if this.must_look_out(&entry) {
                        self.lookout.start(vcpu);
                    }
                    match this.enter(&entry, &around) {
                        Entered::Exit(exit) => run.handle_exit(this, exit),
                        Entered::Expired => return None,
                    }
                }
                Next::Stop(reason) => {
                    self.gate.release(vcpu);
                    self.lookout.stop(vcpu);
                    *stopped_at = Instant::now();
                    return Some(reason);
                }
            }
        }
    }
}
