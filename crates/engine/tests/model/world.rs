//! The machine, the engine, the backend between them and the clients.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use trapline_arch::{Architecture, FeatureSet};
use trapline_engine::{
    Access, Capabilities, Command, Engine, Entry, GuestConfig, GuestEnd, Held, Next, ResumeRequest,
    Start, StepMethod, StopReason, Time, VcpuId, VcpuRun, VmExit,
};
use trapline_rsp::client::encode_packet;

use super::cpu::{Cpu, Host, Notices};
use super::hypervisor::{Handle, Model};
use super::memory::{self, Ram};
use super::os::SlowOs;
use super::{Choices, Client};

/// How the model is set up.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    pub(crate) architecture: Architecture,
    pub(crate) vcpu_count: usize,
    pub(crate) step: StepMethod,
    pub(crate) holds_interrupts: bool,
    pub(crate) hardware_slots: u8,
    pub(crate) software_breakpoints: bool,
    pub(crate) start: Start,
    pub(crate) notices: Notices,
}

impl Config {
    pub(crate) const fn vcpus(vcpu_count: usize) -> Self {
        Self {
            architecture: Architecture::X86_64,
            vcpu_count,
            step: StepMethod::TrapFlag,
            holds_interrupts: true,
            hardware_slots: 4,
            software_breakpoints: true,
            start: Start::Held,
            notices: Notices::AtOnce,
        }
    }

    pub(crate) const fn arm(vcpu_count: usize) -> Self {
        Self {
            architecture: Architecture::Aarch64,
            step: StepMethod::SoftwareStep,
            ..Self::vcpus(vcpu_count)
        }
    }
}

/// One vCPU's thread.
struct Thread {
    run: VcpuRun,
    state: State,
    inbox: VecDeque<Order>,
    /// A stop request has arrived for the run under way.
    is_kicked: bool,
    answer: Option<StopReason>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each vCPU, in the guest most of the time"
)]
enum State {
    Idle,
    InGuest(Entry),
    WantsOthersHeld,
}

enum Order {
    Run(ResumeRequest),
    Stop,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A command reaches a vCPU's thread.
    Deliver(usize),
    /// A vCPU's thread does something: an instruction, an exit, a grant.
    Work(usize),
    /// A vCPU's answer reaches the engine.
    Answer(usize),
    /// The engine goes on with a request that takes several turns.
    Turn,
}

pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) engine: Engine,
    threads: Vec<Thread>,
    /// The vCPU that runs alone.
    gate: Option<usize>,
    pub(crate) clients: Vec<Client>,
    host: Host,
    pub(crate) end: Option<GuestEnd>,
    /// A client was told of a stop, and no request since may have set the guest going.
    is_told: bool,
    /// Every instruction executed: vCPU and pc.
    pub(crate) executed: Vec<(usize, u64)>,
    pub(crate) choices: Choices,
    now: u64,
}

impl World {
    pub(crate) fn new(config: Config, choices: Choices) -> Self {
        Self::with_os(config, choices, SlowOs::default())
    }

    /// Makes a world with an operating system that takes some turns to be found.
    pub(crate) fn with_os(config: Config, choices: Choices, os: SlowOs) -> Self {
        let capabilities = Capabilities {
            host: "a model",
            step: config.step,
            holds_interrupts: config.holds_interrupts,
            software_breakpoints: config.software_breakpoints,
            hardware_breakpoints: config.hardware_slots,
            watchpoints: config.hardware_slots,
            slots_are_shared: config.architecture == Architecture::X86_64,
            hides_pauses: false,
        };
        let count = config.vcpu_count;
        let guest = GuestConfig {
            architecture: config.architecture,
            vcpu_count: u32::try_from(count).unwrap(),
            features: FeatureSet::empty(),
            layout: config.architecture.native_layout(),
            capabilities,
        };
        let thread = |_| Thread {
            run: VcpuRun::new(config.architecture, &capabilities),
            state: State::Idle,
            inbox: VecDeque::new(),
            is_kicked: false,
            answer: None,
        };
        let mut world = Self {
            model: Model {
                ram: Ram::new(),
                cpus: (0..count)
                    .map(|vcpu| match config.architecture {
                        Architecture::X86_64 => Cpu::new(vcpu),
                        Architecture::Aarch64 => Cpu::new_arm(vcpu),
                    })
                    .collect(),
                is_out: vec![false; count],
                broken: Vec::new(),
                capabilities,
            },
            engine: Engine::new(guest, Some(Box::new(os))),
            threads: (0..count).map(thread).collect(),
            gate: None,
            clients: Vec::new(),
            host: Host {
                step: config.step,
                holds_interrupts: config.holds_interrupts,
                notices: config.notices,
                slots: config.hardware_slots,
            },
            end: None,
            is_told: false,
            executed: Vec::new(),
            choices,
            now: 0,
        };
        world.engine.start(config.start, &mut world.model, Time(0));
        world.collect(true);
        world
    }

    fn time(&mut self) -> Time {
        self.now += 1;
        Time(self.now)
    }

    /// Takes what the engine has to say.
    fn collect(&mut self, may_resume: bool) {
        let was_told = std::mem::take(&mut self.is_told);
        let mut ran = false;
        while let Some(command) = self.engine.poll_command() {
            let (vcpu, order) = match command {
                Command::Run(vcpu, request) => {
                    assert!(!self.model.is_out[vcpu.index()], "{vcpu} is run twice");
                    assert!(
                        may_resume || !was_told,
                        "{vcpu} is run without a client's resume"
                    );
                    self.model.is_out[vcpu.index()] = true;
                    ran = true;
                    (vcpu, Order::Run(request))
                }
                Command::Stop(vcpu) => (vcpu, Order::Stop),
                Command::End(end) => {
                    self.end = Some(end);
                    continue;
                }
            };
            self.threads[vcpu.index()].inbox.push_back(order);
        }
        self.is_told = was_told && !ran;
        for index in 0..self.clients.len() {
            let id = self.clients[index].id;
            let bytes = self.engine.output(id).to_vec();
            if bytes.is_empty() {
                continue;
            }
            if self.clients[index].receive(&bytes) {
                self.is_told = true;
            }
            self.engine
                .consume_output(id, bytes.len(), &mut self.model, Time(self.now));
        }
        // A client that sends requests ahead may have resumed the guest with the stop reply.
        self.is_told &= !ran;
        if self.is_told {
            self.assert_all_stopped();
        }
    }

    /// Rule R1: nobody is in the guest or on the way there.
    pub(crate) fn assert_all_stopped(&self) {
        for (vcpu, thread) in self.threads.iter().enumerate() {
            assert!(
                matches!(thread.state, State::Idle) && thread.answer.is_none(),
                "vCPU {vcpu} runs although clients were told of a stop"
            );
            assert!(!self.model.is_out[vcpu]);
        }
        assert_eq!(self.gate, None);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.model.is_out.iter().all(|out| !out)
    }

    // ---- what can happen ----

    /// Returns what can happen next, clients aside.
    pub(crate) fn events(&self) -> Vec<Event> {
        // When a run reaches its vCPU makes no difference to what may follow.
        let is_run = |thread: &Thread| matches!(thread.inbox.front(), Some(Order::Run(_)));
        if let Some(vcpu) = self.threads.iter().position(is_run) {
            return vec![Event::Deliver(vcpu)];
        }
        let mut events = Vec::new();
        for (vcpu, thread) in self.threads.iter().enumerate() {
            if !thread.inbox.is_empty() {
                events.push(Event::Deliver(vcpu));
            }
            if thread.answer.is_some() {
                events.push(Event::Answer(vcpu));
            }
            let is_held = self.gate.is_some_and(|holder| holder != vcpu);
            let works = match &thread.state {
                State::Idle => false,
                State::InGuest(entry) => {
                    thread.is_kicked || (!is_held && self.model.cpus[vcpu].has_work(entry))
                }
                State::WantsOthersHeld => thread.is_kicked || !is_held,
            };
            if works {
                events.push(Event::Work(vcpu));
            }
        }
        // What takes seconds does not happen by itself: a test lets them pass.
        let soon = Time(self.now).after(1_000_000_000);
        if self.engine.work_due().is_some_and(|due| due < soon) {
            events.push(Event::Turn);
        }
        events
    }

    pub(crate) fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(vcpu) => self.deliver(vcpu),
            Event::Work(vcpu) => self.work(vcpu),
            Event::Turn => {
                // Time passes when there is something to be waited for.
                self.now = self.now.max(self.engine.work_due().map_or(0, |due| due.0));
                let now = self.time();
                self.engine.work(&mut self.model, now);
                self.collect(false);
            }
            Event::Answer(vcpu) => {
                let reason = self.threads[vcpu].answer.take().unwrap();
                self.model.is_out[vcpu] = false;
                let now = self.time();
                let id = VcpuId(vcpu as u32);
                self.engine.handle_stopped(id, reason, &mut self.model, now);
                self.collect(false);
            }
        }
    }

    fn deliver(&mut self, vcpu: usize) {
        let thread = &mut self.threads[vcpu];
        match thread.inbox.pop_front().unwrap() {
            Order::Run(request) => {
                assert!(matches!(thread.state, State::Idle));
                assert!(thread.answer.is_none());
                thread.is_kicked = false;
                thread.run.begin(request);
                self.decide(vcpu);
            }
            Order::Stop => {
                if !matches!(thread.state, State::Idle) {
                    thread.is_kicked = true;
                }
            }
        }
    }

    fn work(&mut self, vcpu: usize) {
        let is_kicked = self.threads[vcpu].is_kicked;
        match self.threads[vcpu].state {
            State::Idle => unreachable!(),
            State::WantsOthersHeld => {
                if is_kicked {
                    self.threads[vcpu].run.others_held(Held::Interrupted);
                } else {
                    self.gate = Some(vcpu);
                    self.threads[vcpu].run.others_held(Held::Held);
                }
                self.decide(vcpu);
            }
            State::InGuest(_) if is_kicked => self.leave(vcpu, VmExit::Interrupted),
            State::InGuest(entry) => {
                assert!(self.gate.is_none_or(|holder| holder == vcpu));
                let Model { ram, cpus, .. } = &mut self.model;
                let (exit, executed) = cpus[vcpu].run(ram, &entry, &self.host);
                self.executed.extend(executed.map(|pc| (vcpu, pc)));
                if let Some(exit) = exit {
                    self.leave(vcpu, exit);
                }
            }
        }
    }

    fn leave(&mut self, vcpu: usize, exit: VmExit) {
        self.model.cpus[vcpu].leave();
        let mut handle = Handle {
            model: &mut self.model,
            vcpu,
        };
        self.threads[vcpu].run.handle_exit(&mut handle, exit);
        self.decide(vcpu);
    }

    fn decide(&mut self, vcpu: usize) {
        let mut handle = Handle {
            model: &mut self.model,
            vcpu,
        };
        let next = self.threads[vcpu].run.next(&mut handle);
        let is_alone = matches!(next, Next::Enter(entry) if entry.alone);
        assert!(
            !is_alone || self.gate == Some(vcpu),
            "alone without the others being held"
        );
        if self.gate == Some(vcpu) && !is_alone && next != Next::HoldOthers {
            self.gate = None;
        }
        let thread = &mut self.threads[vcpu];
        thread.state = match next {
            Next::Enter(entry) => {
                self.model.cpus[vcpu].enter(&entry, &self.host);
                State::InGuest(entry)
            }
            Next::HoldOthers => State::WantsOthersHeld,
            Next::Stop(reason) => {
                thread.answer = Some(reason);
                State::Idle
            }
        };
    }

    /// A number for everything that the future depends on.
    pub(crate) fn state(&self) -> u64 {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        write!(hasher, "{:?}", self.engine).unwrap();
        for (thread, cpu) in self.threads.iter().zip(&self.model.cpus) {
            write!(hasher, "{:?}{:?}", thread.run, thread.answer).unwrap();
            (cpu.important(), thread.is_kicked).hash(&mut hasher);
            for order in &thread.inbox {
                matches!(order, Order::Stop).hash(&mut hasher);
            }
        }
        self.gate.hash(&mut hasher);
        self.model.ram.hash_parts(&mut hasher);
        for client in &self.clients {
            (&client.inbox, &client.stops, client.awaits_stop).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Lets one thing happen, chosen from `events`. Returns false if there is none.
    pub(crate) fn tick(&mut self) -> bool {
        let events = self.events();
        if events.is_empty() {
            return false;
        }
        let event = events[self.choices.below(events.len())];
        self.happen(event);
        true
    }

    /// Lets at most `limit` things happen.
    pub(crate) fn ticks(&mut self, limit: usize) {
        for _ in 0..limit {
            if !self.tick() {
                return;
            }
        }
    }

    // ---- clients ----

    /// Opens a session that still acknowledges.
    pub(crate) fn open(&mut self, access: Access) -> usize {
        let id = self.engine.open_session(access).unwrap();
        self.clients.push(Client::new(id));
        self.clients.len() - 1
    }

    /// Opens a session of a client like GDB.
    pub(crate) fn connect(&mut self) -> usize {
        self.connect_as(Access::Full)
    }

    pub(crate) fn connect_as(&mut self, access: Access) -> usize {
        let client = self.open(access);
        self.send(client, "QStartNoAckMode");
        assert_eq!(self.clients[client].inbox.pop_front().unwrap(), "OK");
        self.send_raw(client, b"+");
        self.clients[client].stop_acknowledging();
        self.send(client, "qSupported:swbreak+;hwbreak+;error-message+");
        self.clients[client].inbox.pop_front().unwrap();
        client
    }

    pub(crate) fn send(&mut self, client: usize, payload: &str) {
        self.clients[client].expect(payload);
        let mut bytes = Vec::new();
        encode_packet(payload.as_bytes(), &mut bytes);
        let may_resume = super::client::is_resume(payload) || payload.starts_with('D');
        self.input(client, &bytes, may_resume);
    }

    /// Sends bytes that the model does not look at.
    pub(crate) fn send_raw(&mut self, client: usize, bytes: &[u8]) {
        self.input(client, bytes, true);
    }

    fn input(&mut self, client: usize, bytes: &[u8], may_resume: bool) {
        let now = self.time();
        let id = self.clients[client].id;
        self.engine.handle_input(id, bytes, &mut self.model, now);
        self.collect(may_resume);
    }

    pub(crate) fn interrupt(&mut self, client: usize) {
        self.input(client, &[3], false);
    }

    /// The connection is gone.
    pub(crate) fn close(&mut self, client: usize) {
        let now = self.time();
        let id = self.clients[client].id;
        self.clients[client].is_checked = false;
        self.engine.close_session(id, &mut self.model, now);
        self.collect(true);
    }

    /// Returns the next packet for a client, letting things happen until it comes.
    pub(crate) fn next(&mut self, client: usize) -> String {
        for _ in 0..20_000 {
            if let Some(packet) = self.clients[client].inbox.pop_front() {
                return packet;
            }
            if !self.tick() {
                break;
            }
        }
        self.clients[client]
            .inbox
            .pop_front()
            .expect("the client is not answered")
    }

    /// Sends a request and returns its reply.
    pub(crate) fn ask(&mut self, client: usize, payload: &str) -> String {
        self.send(client, payload);
        self.next(client)
    }

    /// Sends a request whose reply must be `OK`.
    pub(crate) fn ok(&mut self, client: usize, payload: &str) {
        assert_eq!(self.ask(client, payload), "OK", "to {payload}");
    }

    /// The pc that a client sees for its selected vCPU.
    pub(crate) fn pc(&mut self, client: usize) -> u64 {
        let packet = match self.model.cpus[0].architecture {
            Architecture::X86_64 => "p10",
            Architecture::Aarch64 => "p20",
        };
        let reply = self.ask(client, packet);
        u64::from_str_radix(&reply, 16)
            .map(u64::swap_bytes)
            .unwrap_or_else(|_| panic!("no pc: {reply}"))
    }

    /// Puts code at `address`.
    pub(crate) fn program(&self, address: u64, code: memory::Code) {
        self.model.ram.put(address, &code.0);
    }

    /// How often a vCPU has executed the instruction at `pc`.
    pub(crate) fn times(&self, vcpu: usize, pc: u64) -> usize {
        self.executed
            .iter()
            .filter(|one| **one == (vcpu, pc))
            .count()
    }

    /// No trace of the debugger is left: memory is as it was and no trap flag is set.
    pub(crate) fn assert_clean(&self, before: &[u8]) {
        let now = self.model.ram.copy();
        let code = memory::HANDLERS as usize..memory::DATA as usize;
        for address in code {
            assert_eq!(
                now[address], before[address],
                "memory at {address:#x} differs"
            );
        }
        for (vcpu, cpu) in self.model.cpus.iter().enumerate() {
            assert_eq!(
                cpu.file.u64(trapline_arch::x86_64::registers::RFLAGS) >> 8 & 1,
                0,
                "TF of vCPU {vcpu}"
            );
        }
    }

    /// Without clients: memory is as it was, and a guest that has run runs, with nothing of the
    /// debugger's in its registers.
    pub(crate) fn assert_undisturbed(&self, before: &[u8], has_run: bool) {
        let now = self.model.ram.copy();
        let code = memory::HANDLERS as usize..memory::DATA as usize;
        assert_eq!(now[code.clone()], before[code], "memory differs");
        for (vcpu, thread) in self.threads.iter().enumerate() {
            assert!(
                self.model.is_out[vcpu] || !has_run,
                "vCPU {vcpu} stays stopped"
            );
            if let State::InGuest(entry) = thread.state {
                assert!(!entry.step && !entry.alone && entry.hardware.is_empty());
            }
        }
    }

    /// Whether a vCPU is in the guest with debug registers of the debugger's.
    pub(crate) fn uses_slots(&self, vcpu: usize) -> bool {
        matches!(&self.threads[vcpu].state, State::InGuest(entry) if !entry.hardware.is_empty())
    }
}

/// FNV-1a, which can be written to.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

impl std::fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
