//! A client on a serial port.
//!
//! Nobody hangs up on a serial line. A session begins with the first byte and ends with the client's
//! detaching. A client that was killed leaves its session open; whoever comes next begins, as debuggers
//! do, with `qSupported` or `QStartNoAckMode`, and gets a session of its own: what the dead one has left
//! behind is removed first (rule R10).

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
            let is_late = self.packets >= PACKETS_OF_A_BEGINNING;
            if is_late && FIRST_PACKETS.iter().any(|first| rest.starts_with(first)) {
                self.feed(
                    bytes.get(from..at).unwrap_or_default(),
                    engine,
                    machine,
                    now,
                );
                self.close(engine, machine, now);
                from = at;
            } else if is_late && FIRST_PACKETS.iter().any(|first| first.starts_with(rest)) {
                // It may become one with the next bytes.
                self.feed(
                    bytes.get(from..at).unwrap_or_default(),
                    engine,
                    machine,
                    now,
                );
                self.held = rest.to_vec();
                return;
            }
            self.packets = self.packets.saturating_add(1);
        }
        self.feed(bytes.get(from..).unwrap_or_default(), engine, machine, now);
    }

    fn feed(&mut self, bytes: &[u8], engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        if bytes.is_empty() {
            return;
        }
        if self.session.is_none() {
            self.session = engine.open_session(Access::Full).ok();
            self.packets = 0;
        }
        if let Some(session) = self.session {
            engine.handle_input(session, bytes, machine, now);
        }
    }

    fn close(&mut self, engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        if let Some(session) = self.session.take() {
            engine.close_session(session, machine, now);
        }
        self.packets = 0;
    }

    /// Sends what the engine has for the client, as far as the port has room.
    pub fn send(&mut self, engine: &mut Engine, machine: &mut dyn Machine, now: Time) {
        let Some(session) = self.session else {
            return;
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
        if is_sent && engine.is_finished(session) {
            self.close(engine, machine, now);
        }
    }
}
