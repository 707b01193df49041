//! The engine with its clients, behind the hypervisor's one lock.

use alloc::vec::Vec;

use trapline_arch::{RegisterFile, RegisterGroups};
use trapline_engine::contract::AccessError;
use trapline_engine::{
    Capabilities, Command, Engine, GuestMemory, Machine, PassFirst, PowerState, ResumeAction,
    ResumeRequest, Start, StopReason, Time, VcpuId,
};

use super::machine::Guest;
use super::{Lanes, Platform};
use crate::link::Link;
use crate::uart::Registers;

/// The most commands and answers taken in one go.
const MAX_COMMANDS: usize = 1024;

/// One processor as the engine has it.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) power: PowerState,
    /// The engine has set it going and was not answered yet.
    is_out: bool,
    /// What it is to do and has not taken up.
    request: Option<ResumeRequest>,
    /// What it does.
    current: Option<ResumeRequest>,
    pub(super) file: RegisterFile,
    pub(super) dirty: RegisterGroups,
    /// The hypervisor has failed on it: it does nothing any more.
    failure: Option<Failure>,
    /// What it does is no longer what the engine knows of: it comes out without an answer.
    must_park: bool,
}

/// What clients know of a processor's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Untold,
    Told,
}

/// What a processor is to do when it goes on.
#[derive(Debug)]
pub struct Order<'a> {
    /// How far to run.
    pub request: ResumeRequest,
    /// Its registers, of which the `dirty` groups were changed.
    pub file: &'a RegisterFile,
    /// What was changed.
    pub dirty: RegisterGroups,
}

/// The engine with its clients. It belongs behind a lock.
pub struct Hub<R: 'static, M: 'static> {
    engine: Engine,
    links: Vec<Link<R>>,
    lanes: Vec<Lane>,
    memory: M,
    capabilities: Capabilities,
    shared: &'static Lanes,
}

impl<R, M> core::fmt::Debug for Hub<R, M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl<R: Registers, M: GuestMemory> Hub<R, M> {
    /// Puts the parts together. `file` is what the registers of a processor are before its first
    /// instruction; all processors are off.
    pub fn new(
        engine: Engine,
        links: Vec<Link<R>>,
        memory: M,
        capabilities: Capabilities,
        file: &RegisterFile,
        shared: &'static Lanes,
    ) -> Self {
        let lane = || Lane {
            power: PowerState::WaitingForStart,
            is_out: false,
            request: None,
            current: None,
            file: file.clone(),
            dirty: RegisterGroups::empty(),
            failure: None,
            must_park: false,
        };
        Self {
            engine,
            links,
            lanes: shared.signals.iter().map(|_| lane()).collect(),
            memory,
            capabilities,
            shared,
        }
    }

    /// Lets the guest begin.
    pub fn start(&mut self, start: Start, platform: &dyn Platform) {
        self.with_engine(platform, |engine, guest, now| {
            engine.start(start, guest, now)
        });
    }

    /// Looks at the serial ports, and goes on with what takes longer.
    pub fn serve(&mut self, platform: &dyn Platform) {
        let now = platform.now();
        let mut guest = Guest {
            lanes: &mut self.lanes,
            memory: &self.memory,
            capabilities: &self.capabilities,
            platform,
        };
        for link in &mut self.links {
            link.receive(&mut self.engine, &mut guest, now);
        }
        if self.engine.work_due().is_some_and(|due| due <= now) {
            self.engine.work(&mut guest, now);
        }
        self.carry_out(platform);
    }

    /// Returns when [`serve`](Self::serve) is to be called if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.engine.work_due()
    }

    /// Takes note that a processor is on: it is about to take up what there is to do.
    pub fn turned_on(&mut self, processor: usize) {
        if let Some(lane) = self.lanes.get_mut(processor) {
            lane.power = PowerState::On;
        }
    }

    /// Takes note that a processor is about to go off by its own doing; `fill` shows its registers.
    ///
    /// If it was stepped, that was the step; if it was just asked to stop, it has stopped. What else
    /// it was doing it goes on with when it is on again.
    pub fn turn_off(
        &mut self,
        processor: usize,
        fill: impl FnOnce(&mut RegisterFile),
        platform: &dyn Platform,
    ) {
        let is_stop_asked = self.shared.is_stop_asked(processor);
        let Some(lane) = self.lanes.get_mut(processor) else {
            return;
        };
        lane.power = PowerState::WaitingForStart;
        let Some(current) = lane.current.take() else {
            return;
        };
        fill(&mut lane.file);
        lane.dirty = RegisterGroups::empty();
        let is_step = current.action != ResumeAction::Continue;
        if is_step || is_stop_asked {
            let reason = if is_step {
                StopReason::Step
            } else {
                StopReason::Paused
            };
            self.answer(processor, reason, platform);
            return self.carry_out(platform);
        }
        lane.request = Some(ResumeRequest {
            // It begins elsewhere.
            pass_first: PassFirst::No,
            ..current
        });
        self.set_has_request(processor, true);
    }

    /// Takes note that a processor that has called [`turn_off`](Self::turn_off) is still on, for
    /// firmware has refused. It is brought out and takes up what there is to do by then.
    pub fn stays_on(&mut self, processor: usize) {
        if let Some(lane) = self.lanes.get_mut(processor) {
            lane.power = PowerState::On;
            lane.must_park = true;
            self.shared.set(processor, true, |signals| &signals.stop);
        }
    }

    /// Returns whether a processor is on.
    #[must_use]
    pub fn power(&self, processor: usize) -> PowerState {
        let lane = self.lanes.get(processor);
        lane.map_or(PowerState::WaitingForStart, |lane| lane.power)
    }

    /// Returns whether a processor is on, and the hypervisor has not failed on it.
    #[must_use]
    pub fn is_able(&self, processor: usize) -> bool {
        let lane = self.lanes.get(processor);
        lane.is_some_and(|lane| lane.power == PowerState::On && lane.failure.is_none())
    }

    /// Takes note that the hypervisor has failed on a processor, which does nothing any more; `fill`
    /// shows its registers.
    ///
    /// Clients are told of it as a stop. After that it can be looked at, and set going like one that
    /// is off, which it is as good as; it does not step.
    pub fn fail(
        &mut self,
        processor: usize,
        fill: impl FnOnce(&mut RegisterFile),
        platform: &dyn Platform,
    ) {
        let Some(lane) = self.lanes.get_mut(processor) else {
            return;
        };
        if lane.current.is_some() {
            fill(&mut lane.file);
        }
        lane.failure = Some(Failure::Untold);
        lane.must_park = false;
        if lane.is_out {
            self.tell_failure(processor, platform);
        }
        self.carry_out(platform);
    }

    fn tell_failure(&mut self, processor: usize, platform: &dyn Platform) {
        if let Some(lane) = self.lanes.get_mut(processor) {
            lane.failure = Some(Failure::Told);
        }
        let reason = StopReason::Failed(AccessError::HypervisorFailed);
        self.answer(processor, reason, platform);
    }

    /// Takes note that a processor has failed in the midst of a call: what the engine was doing is given
    /// up, with the client that it did it for. Clients on other serial ports stay.
    pub fn abandoned(&mut self, platform: &dyn Platform) {
        self.with_engine_only(platform, |engine, guest, now| {
            engine.handle_failure(guest, now);
        });
        for link in &mut self.links {
            link.forget_lost(&self.engine);
        }
        self.carry_out(platform);
    }

    /// Returns the guest's memory.
    #[must_use]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the registers that a processor has in its lane.
    #[must_use]
    pub fn registers(&self, processor: usize) -> Option<&RegisterFile> {
        self.lanes.get(processor).map(|lane| &lane.file)
    }

    /// Changes the registers that a processor has in its lane: those it will begin with, whatever was
    /// written to them while it was off.
    pub fn set_registers(&mut self, processor: usize, change: impl FnOnce(&mut RegisterFile)) {
        if let Some(lane) = self.lanes.get_mut(processor) {
            change(&mut lane.file);
            lane.dirty = RegisterGroups::empty();
            if let Some(request) = &mut lane.request {
                request.pass_first = PassFirst::No;
            }
        }
    }

    /// Takes a processor's answer: why it has stopped, with all its registers.
    pub fn stopped(
        &mut self,
        processor: usize,
        reason: StopReason,
        fill: impl FnOnce(&mut RegisterFile),
        platform: &dyn Platform,
    ) {
        let Some(lane) = self.lanes.get_mut(processor) else {
            return;
        };
        if core::mem::take(&mut lane.must_park) {
            // The run has been answered when it was about to go off, or is still to be taken up.
            let changed = lane.file.clone();
            fill(&mut lane.file);
            lane.file.copy_groups(&changed, lane.dirty);
            self.shared.set(processor, false, |signals| &signals.stop);
            return;
        }
        fill(&mut lane.file);
        lane.dirty = RegisterGroups::empty();
        self.answer(processor, reason, platform);
        self.carry_out(platform);
    }

    fn answer(&mut self, processor: usize, reason: StopReason, platform: &dyn Platform) {
        let Some(lane) = self.lanes.get_mut(processor) else {
            return;
        };
        lane.is_out = false;
        lane.request = None;
        lane.current = None;
        let must_park = lane.must_park;
        self.shared
            .set(processor, must_park, |signals| &signals.stop);
        self.set_has_request(processor, false);
        let vcpu = vcpu_id(processor);
        self.with_engine_only(platform, |engine, guest, now| {
            engine.handle_stopped(vcpu, reason, guest, now);
        });
    }

    /// Returns what a processor is to do now, if there is anything.
    pub fn take_request(&mut self, processor: usize) -> Option<Order<'_>> {
        let lane = self.lanes.get_mut(processor)?;
        let request = lane.request.take()?;
        lane.current = Some(request.clone());
        let dirty = core::mem::replace(&mut lane.dirty, RegisterGroups::empty());
        self.shared
            .set(processor, false, |signals| &signals.has_request);
        Some(Order {
            request,
            file: &lane.file,
            dirty,
        })
    }

    fn set_has_request(&self, processor: usize, value: bool) {
        self.shared
            .set(processor, value, |signals| &signals.has_request);
    }

    fn with_engine(
        &mut self,
        platform: &dyn Platform,
        act: impl FnOnce(&mut Engine, &mut dyn Machine, Time),
    ) {
        self.with_engine_only(platform, act);
        self.carry_out(platform);
    }

    fn with_engine_only(
        &mut self,
        platform: &dyn Platform,
        act: impl FnOnce(&mut Engine, &mut dyn Machine, Time),
    ) {
        let mut guest = Guest {
            lanes: &mut self.lanes,
            memory: &self.memory,
            capabilities: &self.capabilities,
            platform,
        };
        act(&mut self.engine, &mut guest, platform.now());
    }

    /// Carries out the engine's commands, and sends what it has for clients: with the last of it a
    /// session may end, and that may set the guest going.
    fn carry_out(&mut self, platform: &dyn Platform) {
        for _ in 0..MAX_COMMANDS {
            let mut command = self.engine.poll_command();
            if command.is_none() {
                self.flush(platform);
                command = self.engine.poll_command();
            }
            let Some(command) = command else {
                return;
            };
            match command {
                Command::Run(vcpu, request) => self.run(vcpu.index(), request, platform),
                Command::Stop(vcpu) => self.stop(vcpu.index(), platform),
                Command::End(end) => {
                    self.flush(platform);
                    platform.end(end);
                }
            }
        }
        self.flush(platform);
    }

    fn flush(&mut self, platform: &dyn Platform) {
        let now = platform.now();
        let mut guest = Guest {
            lanes: &mut self.lanes,
            memory: &self.memory,
            capabilities: &self.capabilities,
            platform,
        };
        for link in &mut self.links {
            link.send(&mut self.engine, &mut guest, now);
        }
    }

    fn run(&mut self, processor: usize, request: ResumeRequest, platform: &dyn Platform) {
        let Some(lane) = self.lanes.get_mut(processor) else {
            return;
        };
        lane.is_out = true;
        let is_step = request.action != ResumeAction::Continue;
        lane.request = Some(request);
        match lane.failure {
            Some(Failure::Told) if !is_step => return,
            Some(_) => return self.tell_failure(processor, platform),
            None => (),
        }
        let is_on = lane.power != PowerState::WaitingForStart;
        self.set_has_request(processor, true);
        if is_on {
            platform.kick(processor);
        }
    }

    fn stop(&mut self, processor: usize, platform: &dyn Platform) {
        let Some(lane) = self.lanes.get(processor) else {
            return;
        };
        if !lane.is_out {
            return;
        }
        // One that is off, or has not begun yet, has nothing to be brought out of.
        if lane.power == PowerState::WaitingForStart || lane.request.is_some() {
            self.answer(processor, StopReason::Paused, platform);
        } else {
            self.shared.set(processor, true, |signals| &signals.stop);
            platform.kick(processor);
        }
    }
}

fn vcpu_id(processor: usize) -> VcpuId {
    VcpuId(u32::try_from(processor).unwrap_or(u32::MAX))
}
