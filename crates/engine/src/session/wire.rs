//! The bytes of one connection: what came in and is not answered yet, what is ready to go out.

use alloc::vec::Vec;

use trapline_rsp::framing::INTERRUPT;
use trapline_rsp::{AckMode, Deframer, Event, PACKET_SIZE_BYTES};

/// Output beyond which no more requests of the client are answered until it has read some: a
/// reply's size and some more.
const OUTPUT_HIGH_BYTES: usize = 2 * PACKET_SIZE_BYTES;

/// Input beyond which no more is read from the client.
const INPUT_HIGH_BYTES: usize = 2 * PACKET_SIZE_BYTES;

/// The answer to a packet that was too long to keep: `E16`.
const OVERSIZE_REPLY: &[u8] = b"$E16#ac";

/// One connection's bytes.
pub(crate) struct Wire {
    deframer: Deframer,
    input: Vec<u8>,
    /// How much of `input` has been taken: the memory is moved up only now and then, so that a flood
    /// of tiny packets takes linear time (rule S3).
    taken_bytes: usize,
    output: Vec<u8>,
    /// The last packet sent, for a client that asks for it again. Empty in no-ack mode.
    last_reply: Vec<u8>,
    /// The client has not acknowledged that packet yet. Always false in no-ack mode.
    is_unacknowledged: bool,
    /// The body of a request that waits, and what for.
    waiting: Option<(Vec<u8>, Until)>,
    spare: Vec<u8>,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// A pause of the machine.
    Paused,
    /// Its next turn: there is more to be done for it than fits one (rule S3).
    Turn,
    /// Nothing: its turn has come.
    Now,
}

/// One thing taken from the input.
pub(super) enum Taken {
    /// Nothing that needs an answer.
    Nothing,
    /// A request to stop.
    Interrupt,
    /// A packet's body.
    Packet(Vec<u8>),
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            deframer: Deframer::new(PACKET_SIZE_BYTES),
            input: Vec::new(),
            taken_bytes: 0,
            output: Vec::new(),
            last_reply: Vec::new(),
            is_unacknowledged: false,
            waiting: None,
            spare: Vec::new(),
        }
    }

    /// Takes bytes from the connection.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Returns the bytes to send.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Takes bytes as sent. Returns whether there is input that waited for room.
    pub(crate) fn consume(&mut self, len_bytes: usize) -> bool {
        self.output.drain(..len_bytes.min(self.output.len()));
        let has_input = !self.untaken().is_empty();
        has_input && self.output.len() < OUTPUT_HIGH_BYTES && self.waiting.is_none()
    }

    /// Returns whether more bytes should be read from the connection.
    pub(crate) fn has_room(&self) -> bool {
        self.untaken().len() < INPUT_HIGH_BYTES
    }

    fn untaken(&self) -> &[u8] {
        self.input.get(self.taken_bytes..).unwrap_or_default()
    }

    /// Takes bytes out of the input.
    fn advance(&mut self, len_bytes: usize) {
        self.taken_bytes = self.taken_bytes.saturating_add(len_bytes);
        if self.taken_bytes >= self.untaken().len() {
            self.input.drain(..self.taken_bytes.min(self.input.len()));
            self.taken_bytes = 0;
        }
    }

    /// Returns whether the client has still to acknowledge the last packet.
    pub(crate) fn awaits_ack(&self) -> bool {
        self.is_unacknowledged
    }

    /// Gives up a client that takes no output or acknowledges none: there is nothing more for it.
    pub(crate) fn give_up(&mut self) {
        self.output.clear();
        self.is_unacknowledged = false;
    }

    /// Returns what a request waits for, if there is one that does.
    pub(crate) fn waits_for(&self) -> Option<Until> {
        self.waiting.as_ref().map(|(_, until)| *until)
    }

    /// Keeps a request until it can be answered, or worked on.
    pub(super) fn wait(&mut self, packet: &[u8], until: Until) {
        self.waiting = Some((packet.to_vec(), until));
    }

    /// Gives a request that waits for its turn the turn.
    pub(crate) fn give_turn(&mut self) {
        if let Some((_, until @ Until::Turn)) = &mut self.waiting {
            *until = Until::Now;
        }
    }

    /// Takes the next thing from the input, or `None` if there is none or it has to wait.
    pub(super) fn take(&mut self, is_stopped: bool) -> Option<Taken> {
        match self.waits_for() {
            None => {}
            Some(Until::Turn) => return self.take_interrupt(),
            Some(Until::Paused) if !is_stopped => return None,
            Some(Until::Paused | Until::Now) => {
                return self.waiting.take().map(|(packet, _)| Taken::Packet(packet));
            }
        }
        if self.output.len() >= OUTPUT_HIGH_BYTES {
            return None;
        }
        let input = core::mem::take(&mut self.input);
        let untaken = input.get(self.taken_bytes..).unwrap_or_default();
        let mut rest = untaken;
        let taken = self.take_event(&mut rest);
        let used = untaken.len().saturating_sub(rest.len());
        self.input = input;
        self.advance(used);
        taken
    }

    /// Takes a request to stop that came behind a request under way. All else waits for the answer.
    fn take_interrupt(&mut self) -> Option<Taken> {
        while let Some(first @ (INTERRUPT | b'+')) = self.untaken().first().copied() {
            self.advance(1);
            if let Some(taken) = self.take_event(&mut [first].as_slice()) {
                return Some(taken);
            }
        }
        None
    }

    fn take_event(&mut self, rest: &mut &[u8]) -> Option<Taken> {
        let acknowledges = self.deframer.ack_mode() == AckMode::Ack;
        let taken = match self.deframer.next(rest)? {
            Event::Packet(body) => {
                let mut packet = core::mem::take(&mut self.spare);
                packet.clear();
                packet.extend_from_slice(body);
                self.acknowledge(acknowledges);
                Taken::Packet(packet)
            }
            Event::Interrupt => Taken::Interrupt,
            Event::Nack => {
                self.output.extend_from_slice(&self.last_reply);
                Taken::Nothing
            }
            Event::BadChecksum => {
                self.output.push(b'-');
                Taken::Nothing
            }
            Event::Oversize => {
                self.acknowledge(acknowledges);
                self.reply(|out| out.extend_from_slice(OVERSIZE_REPLY));
                Taken::Nothing
            }
            Event::Ack => {
                self.is_unacknowledged = false;
                Taken::Nothing
            }
            Event::Notification(_) => Taken::Nothing,
        };
        Some(taken)
    }

    fn acknowledge(&mut self, is_wanted: bool) {
        if is_wanted {
            self.output.push(b'+');
        }
    }

    /// Keeps a packet's memory for the next one.
    pub(super) fn give_back(&mut self, packet: Vec<u8>) {
        self.spare = packet;
    }

    /// Appends a reply to the output and keeps it for a resend.
    pub(crate) fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.output.len();
        write(&mut self.output);
        let written = self.output.get(start..).unwrap_or_default();
        if self.deframer.ack_mode() == AckMode::Ack && !written.is_empty() {
            self.last_reply.clear();
            self.last_reply.extend_from_slice(written);
            self.is_unacknowledged = true;
        }
    }

    /// Appends a notification, which is never acknowledged nor resent.
    pub(crate) fn notify(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.output);
    }

    /// Ends acknowledgements for this connection.
    pub(super) fn stop_acknowledging(&mut self) {
        self.deframer.set_ack_mode(AckMode::NoAck);
        self.last_reply = Vec::new();
        self.is_unacknowledged = false;
    }
}
