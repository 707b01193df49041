//! Threads as processors, in whatever order the computer has them run.
//!
//! A kick is an interrupt that stays pending until it is taken; it is all that brings a processor out of
//! the guest, or wakes one that parks. So a kick that is lost is a test that does not end in time.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use trapline_arch::aarch64::registers::PC;
use trapline_arch::{Architecture, Gpa, PhysicalMemory, RegisterFile, RegisterGroup};
use trapline_engine::contract::AccessError;
use trapline_engine::{Entry, GuestEnd, GuestMemory, Start, Time, Vcpu, VcpuRun, VmExit};

use super::world::{self, CAPABILITIES, CODE, ModelHub, Ram, WORDS, Wire, first_registers};
use crate::lanes::{Lanes, NOBODY, Platform, Processor, drive};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const PROCESSORS: usize = 3;

/// The processor that the serial port interrupts.
const SERVER: usize = 0;

/// The processor that goes off from time to time.
const HOTPLUGGED: usize = 2;

std::thread_local! {
    static HERE: Cell<usize> = const { Cell::new(NOBODY) };
}

/// A machine whose processors are threads.
struct Threads {
    hub: Mutex<ModelHub>,
    lanes: &'static Lanes,
    wire: Wire,
    ram: Ram,
    /// An interrupt is pending, by processor.
    is_called: Vec<AtomicBool>,
    is_in_guest: Vec<AtomicBool>,
    /// Who is in the guest and must be alone there.
    alone: AtomicUsize,
    instructions: Vec<AtomicU64>,
    is_over: AtomicBool,
    failure: Mutex<Option<String>>,
    now: AtomicU64,
    end: Instant,
}

impl Platform for Threads {
    fn kick(&self, processor: usize) {
        // As at EL2, nobody calls itself.
        if HERE.get() != processor {
            self.is_called[processor].store(true, Ordering::SeqCst);
            // It comes out before the caller goes on.
            thread::yield_now();
        }
    }

    fn now(&self) -> Time {
        Time(self.now.fetch_add(1000, Ordering::SeqCst))
    }

    fn end(&self, end: GuestEnd) {
        self.fail(format!("{end}"));
    }
}

impl Threads {
    fn new() -> Self {
        let (hub, lanes, wire, ram) = world::hub(PROCESSORS);
        let flags = || (0..PROCESSORS).map(|_| AtomicBool::new(false)).collect();
        Self {
            hub: Mutex::new(hub),
            lanes,
            wire,
            ram,
            is_called: flags(),
            is_in_guest: flags(),
            alone: AtomicUsize::new(NOBODY),
            instructions: (0..PROCESSORS).map(|_| AtomicU64::new(0)).collect(),
            is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
            now: AtomicU64::new(0),
            end: Instant::now() + PATIENCE,
        }
    }

    fn fail(&self, text: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(text);
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// Returns whether the test is over, or should be.
    fn is_over(&self) -> bool {
        if Instant::now() > self.end {
            self.fail("a processor was waited for in vain".into());
        }
        self.is_over.load(Ordering::SeqCst)
    }

    fn hub(&self) -> MutexGuard<'_, ModelHub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an interrupt, if one is pending.
    fn take_interrupt(&self, processor: usize) -> bool {
        let is_called = self.is_called[processor].swap(false, Ordering::SeqCst);
        if is_called && processor == SERVER {
            self.hub().serve(self);
        }
        is_called
    }

    /// Finds two in the guest of whom one must be alone, whichever comes second.
    fn go_in(&self, processor: usize, entry: &Entry) {
        self.is_in_guest[processor].store(true, Ordering::SeqCst);
        if entry.alone {
            self.alone.store(processor, Ordering::SeqCst);
            let mut others = (0..PROCESSORS).filter(|other| *other != processor);
            if others.any(|other| self.is_in_guest[other].load(Ordering::SeqCst)) {
                self.fail(format!("{processor} is not alone"));
            }
        }
        let alone = self.alone.load(Ordering::SeqCst);
        if alone != NOBODY && alone != processor {
            self.fail(format!(
                "{processor} is in the guest while {alone} has to be alone"
            ));
        }
    }

    fn come_out(&self, processor: usize) {
        let _ = self
            .alone
            .compare_exchange(processor, NOBODY, Ordering::SeqCst, Ordering::SeqCst);
        self.is_in_guest[processor].store(false, Ordering::SeqCst);
    }
}

/// A thread's processor.
struct Cpu<'a> {
    index: usize,
    threads: &'a Threads,
    file: RegisterFile,
    chance: Chance,
    has_gone_off: bool,
}

/// Numbers as if by chance: Marsaglia's xorshift.
struct Chance(u64);

impl Chance {
    fn one_in(&mut self, count: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.is_multiple_of(count)
    }
}

impl Vcpu for Cpu<'_> {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        file.copy_groups(&self.file, group.into());
        Ok(())
    }

    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.file.copy_groups(file, group.into());
        Ok(())
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.threads.ram
    }

    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError> {
        Ok(None)
    }

    fn inject_breakpoint(&mut self) -> Result<(), AccessError> {
        Err(AccessError::Unsupported)
    }

    fn inject_debug(&mut self, _: u64) -> Result<(), AccessError> {
        Err(AccessError::Unsupported)
    }
}

impl Processor for Cpu<'_> {
    fn enter(&mut self, entry: &Entry) -> Option<VmExit> {
        self.threads.go_in(self.index, entry);
        let exit = self.run(entry);
        self.threads.come_out(self.index);
        if exit.is_none() {
            self.threads.take_interrupt(self.index);
        }
        exit
    }
}

impl Cpu<'_> {
    fn run(&mut self, entry: &Entry) -> Option<VmExit> {
        let threads = self.threads;
        loop {
            if threads.is_over() {
                // Whatever brings it out.
                return Some(VmExit::Interrupted);
            }
            // Taken outside of the guest.
            if threads.is_called[self.index].load(Ordering::SeqCst) {
                return None;
            }
            let pc = self.file.u64(PC);
            if threads.ram.word(pc) & 0xffe0_001f == 0xd420_0000 {
                return Some(VmExit::BreakpointInstruction);
            }
            let next = if pc == CODE + 4 * (WORDS - 1) {
                CODE
            } else {
                pc + 4
            };
            self.file.set_u64(PC, next);
            threads.instructions[self.index].fetch_add(1, Ordering::SeqCst);
            if entry.step {
                return Some(VmExit::Debug {
                    step: true,
                    slots: 0,
                    data_address: None,
                });
            }
            if self.index == HOTPLUGGED && self.chance.one_in(500) {
                self.go_off();
                return Some(VmExit::Interrupted);
            }
            if self.chance.one_in(8) {
                thread::yield_now();
            }
        }
    }

    /// `CPU_OFF`, from which firmware does not come back; or does, now and then.
    fn go_off(&mut self) {
        self.threads.come_out(self.index);
        self.threads.lanes.leave(self.index);
        let file = &self.file;
        let show = |shown: &mut RegisterFile| *shown = file.clone();
        self.threads.hub().turn_off(self.index, show, self.threads);
        if self.chance.one_in(3) {
            thread::yield_now();
            self.threads.hub().stays_on(self.index);
        } else {
            self.has_gone_off = true;
        }
    }

    /// What `run_loop` does at EL2.
    fn live(&mut self) {
        let threads = self.threads;
        HERE.set(self.index);
        while !threads.is_over() {
            let mut run = VcpuRun::new(Architecture::Aarch64, &CAPABILITIES);
            threads.hub().turned_on(self.index);
            self.has_gone_off = false;
            while !self.has_gone_off && self.wait_for_request(&mut run) {
                let reason = drive(self.index, &mut run, self, threads.lanes, threads);
                if self.has_gone_off {
                    break;
                }
                let file = &self.file;
                let show = |shown: &mut RegisterFile| *shown = file.clone();
                threads.hub().stopped(self.index, reason, show, threads);
            }
            thread::yield_now();
            // CPU_ON, by another processor.
            self.file = first_registers();
            let file = &self.file;
            let begin = |shown: &mut RegisterFile| *shown = file.clone();
            threads.hub().set_registers(self.index, begin);
        }
    }

    /// Returns whether there is something to do.
    fn wait_for_request(&mut self, run: &mut VcpuRun) -> bool {
        let threads = self.threads;
        while !threads.is_over() {
            if let Some(order) = threads.hub().take_request(self.index) {
                self.file.copy_groups(order.file, order.dirty);
                run.begin(order.request);
                return true;
            }
            while !threads.lanes.has_request(self.index) {
                // WFI
                while !threads.take_interrupt(self.index) {
                    if threads.is_over() {
                        return false;
                    }
                    thread::yield_now();
                }
            }
        }
        false
    }
}

/// A client at the other end of the wire.
struct Client<'a>(&'a Threads);

impl Client<'_> {
    fn call(&self) {
        self.0.is_called[SERVER].store(true, Ordering::SeqCst);
    }

    fn send(&self, bytes: &[u8]) {
        self.0.wire.send(bytes);
        self.call();
    }

    fn say(&self, payload: &str) {
        self.0.wire.send_packet(payload);
        self.call();
    }

    /// Waits for a packet. `None` if the test is over.
    fn hear(&self) -> Option<String> {
        loop {
            let mut packets = self.0.wire.packets();
            if packets.len() > 1 {
                self.0.fail(format!("told at once: {packets:?}"));
            }
            if let Some(packet) = packets.pop() {
                return Some(packet);
            }
            if self.0.is_over() {
                return None;
            }
            // The timer.
            if self.0.hub().deadline().is_some() {
                self.call();
            }
            thread::yield_now();
        }
    }

    fn ask(&self, payload: &str) -> Option<String> {
        self.say(payload);
        self.hear()
    }

    /// Waits for the stop that a request leads to, and looks whether all are out.
    fn hear_stop(&self) -> Option<()> {
        let stop = self.hear()?;
        let threads = self.0;
        let mut is_in_guest = threads.is_in_guest.iter();
        if !stop.starts_with('T') {
            threads.fail(format!("{stop} is no stop"));
        } else if is_in_guest.any(|is_in| is_in.load(Ordering::SeqCst)) {
            threads.fail("a processor is in the guest when a stop is told of".into());
        }
        Some(())
    }

    fn session(&self, rounds: u64, chance: &mut Chance) -> Option<()> {
        self.ask("qSupported:swbreak+;vContSupported+")?;
        self.send(b"+");
        self.ask("QStartNoAckMode")?;
        self.send(b"+");
        self.say("?");
        self.hear_stop()?;
        for round in 0..rounds {
            let address = CODE + 4 * (round % WORDS);
            let has_breakpoint = chance.one_in(2);
            // A condition that never holds: everybody passes it, each alone.
            let condition = if has_breakpoint { "" } else { ";X3,220027" };
            self.ask(&format!("Z0,{address:x},4{condition}"))?;
            if chance.one_in(3) {
                for _ in 0..4 {
                    self.say(&format!("vCont;s:{}", 1 + round % PROCESSORS as u64));
                    self.hear_stop()?;
                }
            }
            self.say("vCont;c");
            if !has_breakpoint {
                self.let_run()?;
                self.send(b"\x03");
            }
            self.hear_stop()?;
            self.ask(&format!("z0,{address:x},4"))?;
        }
        Some(())
    }

    /// Waits until each processor that stays on has executed something.
    fn let_run(&self) -> Option<()> {
        let count = |index: usize| self.0.instructions[index].load(Ordering::SeqCst);
        for index in [SERVER, 1] {
            let before = count(index);
            while count(index) == before {
                if self.0.is_over() {
                    return None;
                }
                thread::yield_now();
            }
        }
        Some(())
    }
}

fn play(seed: u64, rounds: u64) {
    let threads = Threads::new();
    threads.hub().start(Start::Running, &threads);
    thread::scope(|scope| {
        for index in 0..PROCESSORS {
            let threads = &threads;
            let mut cpu = Cpu {
                index,
                threads,
                file: first_registers(),
                chance: Chance((seed << 8) + index as u64 + 1),
                has_gone_off: false,
            };
            scope.spawn(move || cpu.live());
        }
        let client = Client(&threads);
        let played = client.session(rounds, &mut Chance(seed));
        // A guest that is let go goes on.
        if played.is_some() && client.ask("D").is_some() {
            client.let_run();
        }
        assert!(!threads.wire.has_input() || threads.is_over());
        threads.is_over.store(true, Ordering::SeqCst);
    });
    let failure = threads
        .failure
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    assert_eq!(failure, None, "seed {seed}");
    let mut code = [0; 4];
    for word in 0..WORDS {
        threads.ram.read_physical(Gpa(CODE + 4 * word), &mut code);
        assert_ne!(
            u32::from_le_bytes(code) >> 16,
            0xd420,
            "a breakpoint is left, seed {seed}"
        );
    }
}

#[test]
fn no_kick_is_lost_and_who_must_be_alone_is() {
    for seed in 1..=4 {
        play(seed, 20);
    }
}
