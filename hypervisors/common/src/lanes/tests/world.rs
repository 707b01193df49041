//! A machine without hardware: memory of a page, a wire in place of a serial port, and a client.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::Mutex;

use trapline_arch::aarch64::registers::{CPSR, PC};
use trapline_arch::{Architecture, FeatureSet, Gpa, LayoutKind, PhysicalMemory, RegisterFile};
use trapline_engine::{
    Capabilities, Engine, GuestConfig, GuestEnd, GuestMemory, MemoryKind, MemoryRegion, Start,
    StepMethod, Time,
};

use crate::lanes::{Hub, Lanes, Platform};
use crate::link::Link;
use crate::uart::{Registers, Uart, UartKind};

/// Where the guest's code is: a loop of [`WORDS`] instructions.
pub(super) const CODE: u64 = 0x100;
pub(super) const WORDS: u64 = 16;
const NOP: u32 = 0xd503_201f;
const LEN_BYTES: usize = 0x1000;

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    host: "a model",
    step: StepMethod::SoftwareStep,
    holds_interrupts: true,
    software_breakpoints: true,
    hardware_breakpoints: 4,
    watchpoints: 4,
    slots_are_shared: false,
    hides_pauses: false,
};

#[derive(Clone)]
pub(super) struct Ram {
    bytes: Arc<Vec<AtomicU8>>,
    /// The next read does not come back.
    pub(super) fails: Arc<AtomicBool>,
}

impl Ram {
    fn new() -> Self {
        let ram = Self {
            bytes: Arc::new((0..LEN_BYTES).map(|_| AtomicU8::new(0)).collect()),
            fails: Arc::default(),
        };
        for word in 0..WORDS {
            ram.put(CODE + 4 * word, NOP);
        }
        // b CODE
        let back = 1 - i32::try_from(WORDS).unwrap();
        let branch = 0x1400_0000 | back.cast_unsigned() & 0x3ff_ffff;
        ram.put(CODE + 4 * (WORDS - 1), branch);
        ram
    }

    fn put(&self, address: u64, word: u32) {
        self.write_physical(Gpa(address), &word.to_le_bytes());
    }

    pub(super) fn word(&self, address: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read_physical(Gpa(address), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn from(&self, address: Gpa) -> &[AtomicU8] {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        self.bytes.get(start..).unwrap_or_default()
    }
}

impl PhysicalMemory for Ram {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        assert!(!self.fails.swap(false, Ordering::SeqCst), "as it should");
        let rest = self.from(address);
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = from.load(Ordering::SeqCst);
        }
        rest.len().min(buffer.len())
    }
}

impl GuestMemory for Ram {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let rest = self.from(address);
        for (to, from) in rest.iter().zip(bytes) {
            to.store(*from, Ordering::SeqCst);
        }
        rest.len().min(bytes.len())
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        alloc::vec![MemoryRegion {
            start: Gpa(0),
            len_bytes: LEN_BYTES as u64,
            kind: MemoryKind::Ram,
        }]
    }
}

/// The two directions of a serial line, as the registers of a PL011.
#[derive(Clone, Default)]
pub(super) struct Wire {
    to_port: Arc<Mutex<VecDeque<u8>>>,
    from_port: Arc<Mutex<Vec<u8>>>,
}

impl Registers for Wire {
    fn read(&self, offset: usize) -> u32 {
        let mut bytes = self.to_port.lock().unwrap();
        match offset {
            0x00 => bytes.pop_front().unwrap_or(0).into(),
            0x18 => u32::from(bytes.is_empty()) << 4,
            _ => 0,
        }
    }

    fn write(&mut self, offset: usize, value: u32) {
        if offset == 0 {
            let byte = u8::try_from(value).unwrap();
            self.from_port.lock().unwrap().push(byte);
        }
    }
}

impl Wire {
    /// Returns whether the port has received what nobody has looked at.
    pub(super) fn has_input(&self) -> bool {
        !self.to_port.lock().unwrap().is_empty()
    }

    pub(super) fn send(&self, bytes: &[u8]) {
        self.to_port.lock().unwrap().extend(bytes);
    }

    pub(super) fn send_packet(&self, payload: &str) {
        let sum = payload.bytes().fold(0_u8, u8::wrapping_add);
        self.send(format!("${payload}#{sum:02x}").as_bytes());
    }

    /// Takes the packets that have come, without acknowledgements.
    pub(super) fn packets(&self) -> Vec<String> {
        let mut bytes = self.from_port.lock().unwrap();
        let text = String::from_utf8(core::mem::take(&mut *bytes)).unwrap();
        let mut packets = Vec::new();
        let mut rest = text.as_str();
        while let Some((payload, after)) = first_packet(rest) {
            packets.push(payload.into());
            rest = after;
        }
        // What has come of the next one.
        bytes.extend(rest.bytes());
        packets
    }
}

/// Splits text behind its first packet, whose checksum is of two digits.
fn first_packet(text: &str) -> Option<(&str, &str)> {
    let (_, behind) = text.split_once('$')?;
    let (payload, after) = behind.split_once('#')?;
    Some((payload, after.get(2..)?))
}

/// The board, where nobody runs: kicks are only noted.
#[derive(Default)]
pub(super) struct Board {
    kicks: Mutex<Vec<usize>>,
    now: AtomicU64,
    pub(super) ended: Mutex<Vec<GuestEnd>>,
}

impl Platform for Board {
    fn kick(&self, processor: usize) {
        self.kicks.lock().unwrap().push(processor);
    }

    fn now(&self) -> Time {
        Time(self.now.fetch_add(1000, Ordering::SeqCst))
    }

    fn end(&self, end: GuestEnd) {
        self.ended.lock().unwrap().push(end);
    }

    fn log(&self) -> Option<String> {
        Some("the guest begins\n".into())
    }
}

pub(super) fn first_registers() -> RegisterFile {
    let mut file = Architecture::Aarch64.new_register_file();
    file.set_u64(PC, CODE);
    file.set_u64(CPSR, 0x3c5);
    file
}

pub(super) type ModelHub = Hub<Wire, Ram>;

pub(super) fn hub(count: usize) -> (ModelHub, &'static Lanes, Wire, Ram) {
    let config = GuestConfig {
        architecture: Architecture::Aarch64,
        vcpu_count: u32::try_from(count).unwrap(),
        features: FeatureSet::empty(),
        layout: LayoutKind::Aarch64,
        capabilities: CAPABILITIES,
    };
    let (wire, ram) = (Wire::default(), Ram::new());
    let lanes: &'static Lanes = Box::leak(Box::new(Lanes::new(count)));
    let link = Link::new(Uart::new(UartKind::Pl011, wire.clone()));
    let hub = Hub::new(
        Engine::new(config, None),
        alloc::vec![link],
        ram.clone(),
        CAPABILITIES,
        &first_registers(),
        lanes,
    );
    (hub, lanes, wire, ram)
}

/// A hub whose processors do what the test says.
pub(super) struct World {
    pub(super) hub: ModelHub,
    pub(super) lanes: &'static Lanes,
    pub(super) wire: Wire,
    pub(super) ram: Ram,
    pub(super) board: Board,
    count: usize,
}

impl World {
    /// A machine whose first `on` processors are on.
    pub(super) fn new(count: usize, on: usize, start: Start) -> Self {
        let (hub, lanes, wire, ram) = hub(count);
        let mut world = Self {
            hub,
            lanes,
            wire,
            ram,
            board: Board::default(),
            count,
        };
        world.hub.start(start, &world.board);
        for processor in 0..on {
            world.hub.turned_on(processor);
        }
        world
    }

    /// A running guest whose processors have all taken up what they are to do.
    pub(super) fn running(count: usize, on: usize) -> Self {
        let mut world = Self::new(count, on, Start::Running);
        world.go(0..on);
        world
    }

    /// A client of a guest that it has stopped.
    pub(super) fn stopped(count: usize, on: usize) -> Self {
        let mut world = Self::running(count, on);
        world.connect();
        world.say("?");
        for processor in 0..on {
            world.pause(processor);
        }
        let told = world.heard();
        assert!(
            matches!(told.as_slice(), [stop] if stop.starts_with('T')),
            "{told:?}"
        );
        world.kicks();
        world
    }

    /// Has processors take up what they are to do, which there must be.
    pub(super) fn go(&mut self, processors: impl IntoIterator<Item = usize>) {
        for processor in processors {
            assert!(
                self.lanes.has_request(processor),
                "{processor} has nothing to do"
            );
            let order = self.hub.take_request(processor);
            assert!(order.is_some(), "{processor} has nothing to do");
            assert!(!self.lanes.has_request(processor));
        }
    }

    /// Has a processor come out of the guest, as it was asked to.
    pub(super) fn pause(&mut self, processor: usize) {
        assert!(
            self.lanes.is_stop_asked(processor),
            "{processor} is to go on"
        );
        let reason = trapline_engine::StopReason::Paused;
        self.hub.stopped(processor, reason, |_| (), &self.board);
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.wire.send(bytes);
        self.hub.serve(&self.board);
    }

    /// Sends a packet.
    pub(super) fn say(&mut self, payload: &str) {
        self.wire.send_packet(payload);
        self.hub.serve(&self.board);
    }

    /// Takes what was answered.
    pub(super) fn heard(&self) -> Vec<String> {
        self.wire.packets()
    }

    /// Sends a packet and returns the one answer.
    #[track_caller]
    pub(super) fn ask(&mut self, payload: &str) -> String {
        self.say(payload);
        let mut answers = self.heard();
        assert_eq!(answers.len(), 1, "{payload}: {answers:?}");
        answers.remove(0)
    }

    /// Begins as GDB does.
    pub(super) fn connect(&mut self) {
        let features = self.ask("qSupported:swbreak+;hwbreak+;vContSupported+");
        assert!(features.contains("QStartNoAckMode+"), "{features}");
        self.receive(b"+");
        assert_eq!(self.ask("QStartNoAckMode"), "OK");
        self.receive(b"+");
    }

    /// Takes who was kicked since this was last asked, in order.
    pub(super) fn kicks(&self) -> Vec<usize> {
        let mut kicks = core::mem::take(&mut *self.board.kicks.lock().unwrap());
        kicks.sort_unstable();
        kicks
    }

    pub(super) fn asked_to_stop(&self) -> Vec<usize> {
        let all = 0..self.count;
        all.filter(|index| self.lanes.is_stop_asked(*index))
            .collect()
    }

    pub(super) fn to_take_up(&self) -> Vec<usize> {
        let all = 0..self.count;
        all.filter(|index| self.lanes.has_request(*index)).collect()
    }
}
