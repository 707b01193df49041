//! The engine with its clients, and the processors it sets going.
//!
//! Each processor of the machine is one vCPU, and has a lane. A [`Hub`] is behind one lock of the
//! hypervisor's; [`Lanes`] is what processors look at without it.
//!
//! ```text
//!             guest ──exit──▶ drive() ──StopReason──▶ Hub::stopped ──▶ parked
//!               ▲               │                                        │ Hub::take_request
//!               └────enter──────┘ ◀──────────────────────────────────────┘
//! ```
//!
//! - A request to stop is a flag of the lane, set before the processor is kicked. A processor looks at it
//!   after every exit and before every entry, so that no kick is lost.
//! - While a processor parks, its registers lie in the lane: whoever runs the engine reads and writes
//!   them there, and the processor takes them up when it goes on.
//! - A processor that is off has a lane as well. It is stopped and set going like any other; what it is
//!   to do waits until it is on (rule R4).

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use trapline_arch::{RegisterFile, RegisterGroup, RegisterGroups};
use trapline_engine::contract::AccessError;
use trapline_engine::{
    Capabilities, Command, Engine, Entry, GuestEnd, GuestMemory, Held, Machine, Next, PowerState,
    ResumeRequest, Start, StopReason, Time, Vcpu, VcpuId, VcpuRun, VmExit,
};

use crate::link::Link;
use crate::uart::Registers;

/// The most commands and answers taken in one go.
const MAX_COMMANDS: usize = 1024;

/// Nobody holds the others.
const NOBODY: usize = usize::MAX;

/// What the lanes need of the processors.
pub trait Platform {
    /// Brings a processor out of the guest, or out of waiting, soon.
    fn kick(&self, processor: usize);

    /// Returns the time.
    fn now(&self) -> Time;

    /// Carries out the guest's end: switches the machine off, or resets it.
    fn end(&self, end: GuestEnd);
}

/// A processor between two entries.
pub trait Processor: Vcpu {
    /// Enters the guest. `None` if it came out for something that is the hypervisor's alone, which was
    /// done; the entry is then made again.
    fn enter(&mut self, entry: &Entry) -> Option<VmExit>;
}

/// What processors look at without the hub's lock.
#[derive(Debug)]
pub struct Lanes {
    signals: Vec<Signals>,
    holder: AtomicUsize,
}

#[derive(Debug, Default)]
struct Signals {
    stop: AtomicBool,
    has_request: AtomicBool,
    is_in_guest: AtomicBool,
}

impl Lanes {
    /// Makes lanes for `count` processors.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            signals: (0..count).map(|_| Signals::default()).collect(),
            holder: AtomicUsize::new(NOBODY),
        }
    }

    /// Returns whether a processor is to come out of the guest.
    #[must_use]
    pub fn is_stop_asked(&self, processor: usize) -> bool {
        self.signal(processor, |signals| &signals.stop)
    }

    /// Returns whether there is something to do for a processor that parks.
    #[must_use]
    pub fn has_request(&self, processor: usize) -> bool {
        self.signal(processor, |signals| &signals.has_request)
    }

    /// Takes note that a processor is out of the guest and holds nobody: it is about to be turned off.
    pub fn leave(&self, processor: usize) {
        self.come_out(processor);
        self.release_others(processor);
    }

    fn signal(&self, processor: usize, which: impl Fn(&Signals) -> &AtomicBool) -> bool {
        let signals = self.signals.get(processor);
        signals.is_some_and(|signals| which(signals).load(Ordering::SeqCst))
    }

    fn set(&self, processor: usize, value: bool, which: impl Fn(&Signals) -> &AtomicBool) {
        if let Some(signals) = self.signals.get(processor) {
            which(signals).store(value, Ordering::SeqCst);
        }
    }

    /// Tries to go into the guest: not while another holds all others out.
    fn try_go_in(&self, processor: usize) -> bool {
        self.set(processor, true, |signals| &signals.is_in_guest);
        let holder = self.holder.load(Ordering::SeqCst);
        if holder == NOBODY || holder == processor {
            return true;
        }
        self.come_out(processor);
        false
    }

    fn come_out(&self, processor: usize) {
        self.set(processor, false, |signals| &signals.is_in_guest);
    }

    /// Holds all others out of the guest.
    fn hold_others(&self, processor: usize, platform: &dyn Platform) -> Held {
        loop {
            if self.is_stop_asked(processor) {
                return Held::Interrupted;
            }
            let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
            let taken = self
                .holder
                .compare_exchange(NOBODY, processor, success, failure);
            if taken.is_ok_and(|_| true) || taken == Err(processor) {
                break;
            }
            core::hint::spin_loop();
        }
        let others = || (0..self.signals.len()).filter(|other| *other != processor);
        let is_in = |other: &usize| self.signal(*other, |signals| &signals.is_in_guest);
        others()
            .filter(is_in)
            .for_each(|other| platform.kick(other));
        while others().any(|other| is_in(&other)) {
            core::hint::spin_loop();
        }
        Held::Held
    }

    fn release_others(&self, processor: usize) {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        // Only the holder's own is given up.
        let _ = self
            .holder
            .compare_exchange(processor, NOBODY, success, failure);
    }
}

/// Carries out a resume of a processor, on that processor, and returns why it has stopped.
pub fn drive(
    index: usize,
    run: &mut VcpuRun,
    processor: &mut dyn Processor,
    lanes: &Lanes,
    platform: &dyn Platform,
) -> StopReason {
    loop {
        match run.next(processor) {
            Next::Stop(reason) => {
                lanes.release_others(index);
                return reason;
            }
            Next::HoldOthers => run.others_held(lanes.hold_others(index, platform)),
            Next::Enter(entry) => {
                if !entry.alone {
                    lanes.release_others(index);
                }
                let exit = enter(index, &entry, processor, lanes);
                run.handle_exit(processor, exit);
            }
        }
    }
}

fn enter(index: usize, entry: &Entry, processor: &mut dyn Processor, lanes: &Lanes) -> VmExit {
    loop {
        if lanes.is_stop_asked(index) {
            return VmExit::Interrupted;
        }
        if !lanes.try_go_in(index) {
            core::hint::spin_loop();
            continue;
        }
        let exit = processor.enter(entry);
        lanes.come_out(index);
        if let Some(exit) = exit {
            return exit;
        }
    }
}

/// One processor as the engine has it.
#[derive(Debug)]
struct Lane {
    power: PowerState,
    /// The engine has set it going and was not answered yet.
    is_out: bool,
    /// What it is to do and has not taken up.
    request: Option<ResumeRequest>,
    /// What it does.
    current: Option<ResumeRequest>,
    file: RegisterFile,
    dirty: RegisterGroups,
}

/// What of the hub the engine sees as the machine.
struct Guest<'a> {
    lanes: &'a mut [Lane],
    memory: &'a dyn GuestMemory,
    capabilities: &'a Capabilities,
}

impl Machine for Guest<'_> {
    fn capabilities(&self) -> &Capabilities {
        self.capabilities
    }

    fn memory(&self) -> &dyn GuestMemory {
        self.memory
    }

    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        let lane = self
            .lanes
            .get(vcpu.index())
            .ok_or(AccessError::NoSuchVcpu)?;
        file.copy_groups(&lane.file, group.into());
        Ok(())
    }

    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        let lane = self.lanes.get_mut(vcpu.index());
        let lane = lane.ok_or(AccessError::NoSuchVcpu)?;
        lane.file.copy_groups(file, group.into());
        lane.dirty |= RegisterGroups::from(group);
        Ok(())
    }

    fn power_state(&mut self, vcpu: VcpuId) -> PowerState {
        let lane = self.lanes.get(vcpu.index());
        lane.map_or(PowerState::WaitingForStart, |lane| lane.power)
    }
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

    /// Takes note that a processor is on, or off. What one that goes off was doing it goes on with when
    /// it is on again.
    pub fn set_power(&mut self, processor: usize, power: PowerState) {
        let Some(lane) = self.lanes.get_mut(processor) else {
            return;
        };
        lane.power = power;
        if power == PowerState::WaitingForStart && lane.is_out && lane.request.is_none() {
            lane.request = lane.current.take();
            self.shared
                .set(processor, true, |signals| &signals.has_request);
        }
    }

    /// Returns whether a processor is on.
    #[must_use]
    pub fn power(&self, processor: usize) -> PowerState {
        let lane = self.lanes.get(processor);
        lane.map_or(PowerState::WaitingForStart, |lane| lane.power)
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

    /// Changes the registers that a processor has in its lane: those it will begin with.
    pub fn set_registers(&mut self, processor: usize, change: impl FnOnce(&mut RegisterFile)) {
        if let Some(lane) = self.lanes.get_mut(processor) {
            change(&mut lane.file);
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
        if let Some(lane) = self.lanes.get_mut(processor) {
            fill(&mut lane.file);
            lane.dirty = RegisterGroups::empty();
        }
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
        self.shared.set(processor, false, |signals| &signals.stop);
        self.shared
            .set(processor, false, |signals| &signals.has_request);
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
        self.shared
            .set(processor, false, |signals| &signals.has_request);
        let dirty = core::mem::replace(&mut lane.dirty, RegisterGroups::empty());
        Some(Order {
            request,
            file: &lane.file,
            dirty,
        })
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
        };
        act(&mut self.engine, &mut guest, platform.now());
    }

    /// Carries out the engine's commands, and sends what it has for clients: with the last of it a
    /// session may end, and that may set the guest going.
    fn carry_out(&mut self, platform: &dyn Platform) {
        for _ in 0..MAX_COMMANDS {
            let mut command = self.engine.poll_command();
            if command.is_none() {
                self.flush(platform.now());
                command = self.engine.poll_command();
            }
            let Some(command) = command else {
                return;
            };
            match command {
                Command::Run(vcpu, request) => self.run(vcpu.index(), request, platform),
                Command::Stop(vcpu) => self.stop(vcpu.index(), platform),
                Command::End(end) => {
                    self.flush(platform.now());
                    platform.end(end);
                }
            }
        }
        self.flush(platform.now());
    }

    fn flush(&mut self, now: Time) {
        let mut guest = Guest {
            lanes: &mut self.lanes,
            memory: &self.memory,
            capabilities: &self.capabilities,
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
        lane.request = Some(request);
        self.shared
            .set(processor, true, |signals| &signals.has_request);
        if lane.power != PowerState::WaitingForStart {
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
