//! A client on a serial port.
//!
//! Nobody hangs up on a serial line. A session begins with the first packet and ends with the client's
//! detaching. A client that was killed leaves its session open; whoever comes next begins, as debuggers
//! do, with `qSupported` or `QStartNoAckMode`, and gets a session of its own: what the dead one has left
//! behind is removed first (rule R10).
//!
//! A new beginning is such a packet that the session has had already, or that comes when it is too late
//! for it. Where a client dies between the two, the next one's first packet is taken for the other of
//! them; debuggers send it again when no acknowledgement comes, and that is a new beginning.
//!
//! Bytes outside of packets begin no session: noise on the line, which may look like an interrupt
//! request, stops nobody's guest.

use alloc::vec::Vec;

use trapline_engine::{Access, Engine, Machine, SessionId, Time};

use crate::uart::{Registers, Uart};

/// What debuggers send first.
const FIRST_PACKETS: [&[u8]; 2] = [b"$qSupported", b"$QStartNoAckMode"];

/// A debugger sends both, in either order: the second one does not begin anew.
const PACKETS_OF_A_BEGINNING: u32 = 3;

/// The most bytes taken from the port before clients' requests are looked at.
const MAX_RECEIVED: usize = 4096;

/// A serial port with the session of whoever is at its other end.
#[derive(Debug)]
pub struct Link<R> {
    uart: Uart<R>,
    session: Option<SessionId>,
    /// How many packets have begun since the session did.
    packets: u32,
    /// Which of [`FIRST_PACKETS`] the session has had.
    had: [bool; FIRST_PACKETS.len()],
    /// What may be the beginning of a first packet.
    held: Vec<u8>,
}

impl<R: Registers> Link<R> {
    /// Takes a port, which is turned on.
    pub fn new(mut uart: Uart<R>) -> Self {
        uart.enable();
        Self {
            uart,
            session: None,
            packets: 0,
            had: [false; FIRST_PACKETS.len()],
            held: Vec::new(),
        }
    }

    /// Returns how many bytes were damaged or lost on the line.
    #[must_use]
    pub fn damaged(&self) -> u64 {
        self.uart.damaged()
    }

    /// Takes what the port has received to the engine.
    pub fn receive(&mut self, engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        if self
            .session
            .is_some_and(|session| !engine.wants_input(session))
        {
            return;
        }
        let mut bytes = core::mem::take(&mut self.held);
        let held = bytes.len();
        while bytes.len() < MAX_RECEIVED {
            let Some(byte) = self.uart.receive() else {
                break;
            };
            bytes.push(byte);
        }
        if bytes.len() > held {
            self.take(&bytes, engine, machine, now);
        } else {
            self.held = bytes;
        }
    }

    /// Splits input where a new client begins.
    fn take(&mut self, bytes: &[u8], engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        let mut from = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if *byte != b'$' {
                continue;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let before = bytes.get(from..at).unwrap_or_default();
            let mut firsts = FIRST_PACKETS.iter();
            if firsts.any(|first| first.len() > rest.len() && first.starts_with(rest)) {
                // It may become one with the next bytes.
                self.feed(before, engine, machine, now);
                self.held = rest.to_vec();
                return;
            }
            let first = FIRST_PACKETS
                .iter()
                .position(|first| rest.starts_with(first));
            if first.is_some_and(|first| self.begins_anew(first)) {
                self.feed(before, engine, machine, now);
                self.close(engine, machine, now);
                from = at;
            }
            if let Some(had) = first.and_then(|first| self.had.get_mut(first)) {
                *had = true;
            }
            self.packets = self.packets.saturating_add(1);
        }
        self.feed(bytes.get(from..).unwrap_or_default(), engine, machine, now);
    }

    fn feed(&mut self, bytes: &[u8], engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        let mut bytes = bytes;
        if self.session.is_none() {
            let Some(at) = bytes.iter().position(|byte| *byte == b'$') else {
                return;
            };
            bytes = bytes.get(at..).unwrap_or_default();
            self.session = engine.open_session(Access::Full).ok();
        }
        if let Some(session) = self.session {
            engine.handle_input(session, bytes, machine, now);
        }
    }

    fn close(&mut self, engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        if let Some(session) = self.session.take() {
            engine.close_session(session, machine, now);
        }
        self.begin();
    }

    fn begin(&mut self) {
        self.packets = 0;
        self.had = [false; FIRST_PACKETS.len()];
    }

    /// Takes note of a session that the engine no longer has.
    pub fn forget_lost(&mut self, engine: &Engine) {
        let is_open = |id| engine.sessions().any(|open| open == id);
        if self.session.is_some_and(|session| !is_open(session)) {
            self.session = None;
            self.begin();
        }
    }

    /// Returns whether a first packet is the next client's.
    fn begins_anew(&self, first: usize) -> bool {
        let has_had = self.had.get(first).is_some_and(|had| *had);
        has_had || self.packets >= PACKETS_OF_A_BEGINNING
    }

    /// Sends what the engine has for the client, as far as the port has room.
    pub fn send(&mut self, engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        let Some(session) = self.session else {
            return self.uart.hold_back(false);
        };
        loop {
            let sent = self.uart.send(engine.output(session));
            if sent == 0 {
                break;
            }
            engine.consume_output(session, sent, machine, now);
        }
        let is_sent = engine.output(session).is_empty();
        self.uart.want_room(!is_sent);
        self.uart.hold_back(!engine.wants_input(session));
        if is_sent && engine.is_finished(session) {
            self.close(engine, machine, now);
        }
    }
}
