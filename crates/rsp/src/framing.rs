//! From a byte stream to packets.
//!
//! ```text
//! + $ m 1 0 0 0 , 4 # 8 e  03  % S t o p : … # c s
//! │ │ └─── body ──┘ │ └─┘  │   └ notification, same frame, never acknowledged
//! │ │               │  │   └ interrupt request, no frame at all
//! │ │               │  └ sum of the body's raw bytes modulo 256, two hex digits
//! │ └ start         └ end
//! └ acknowledgement of what the other side sent last (`-` asks for it again)
//!
//! in a body:   }  byte^20h           one byte that would be taken for framing
//!              byte * count+29       that byte again, `count` times more (3 to 97)
//! ```
//!
//! One [`Deframer`] stands at each end of a line. The server's reads requests, in which bytes may
//! be data only at the end of a few packets; elsewhere in a request an 03h is somebody's Ctrl-C.
//! The client's reads replies, which may be binary as a whole.
//!
//! Source: GDB manual, "Overview" (of the protocol), "Interrupts", "Notification Packets".

use alloc::vec::Vec;

use crate::hex;

mod body;

#[cfg(test)]
mod tests;

/// The byte that asks for a stop, outside of any packet.
pub const INTERRUPT: u8 = 0x03;

/// What a [`Deframer`] found in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole packet with a good checksum; its body with escapes and runs resolved.
    Packet(&'a [u8]),
    /// A notification with a good checksum; its body as above. Never to be acknowledged.
    Notification(&'a [u8]),
    /// The byte 03h outside of a binary body.
    Interrupt,
    /// A `+` between packets.
    Ack,
    /// A `-` between packets: the other side asks for our last packet again.
    Nack,
    /// A packet whose checksum is wrong. It is dropped; the answer is `-`.
    BadChecksum,
    /// A packet longer than the limit. It arrived well (so `+` is due) but its body is lost.
    Oversize,
}

/// Whether packets are acknowledged, and their checksums verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// Every packet is answered by `+` or `-`. Every connection starts so.
    #[default]
    Ack,
    /// After `QStartNoAckMode`: no acknowledgements, and checksums are not looked at.
    NoAck,
}

/// Which way the packets go that a deframer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Requests,
    Replies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Packet,
    Notification,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between packets.
    Idle,
    /// Within a body.
    Body,
    /// After a `}`.
    Escape,
    /// After a `*`.
    Run,
    /// After the `#`.
    Checksum,
    /// After the checksum's first digit, kept as it came.
    ChecksumLow(u8),
}

/// An event before it borrows the body.
enum Found {
    Packet,
    Notification,
    Interrupt,
    Ack,
    Nack,
    BadChecksum,
    Oversize,
}

/// Cuts a byte stream, in pieces of any size, into [`Event`]s.
///
/// It holds at most one body, of at most the limit given; memory is allocated as bodies need it
/// and at most doubles beyond the longest body seen.
#[derive(Debug)]
pub struct Deframer {
    body: Vec<u8>,
    max_packet_bytes: usize,
    direction: Direction,
    ack_mode: AckMode,
    state: State,
    kind: Kind,
    sum: u8,
    /// The last byte of the body as it came, the one that a run repeats.
    last_raw: Option<u8>,
    oversize: bool,
}

impl Deframer {
    /// Returns a server's deframer, for requests of at most `max_packet_bytes` of resolved body.
    #[must_use]
    pub const fn new(max_packet_bytes: usize) -> Self {
        Self::with_direction(max_packet_bytes, Direction::Requests)
    }

    /// Returns a client's deframer, for replies of at most `max_packet_bytes` of resolved body.
    #[must_use]
    pub const fn for_replies(max_packet_bytes: usize) -> Self {
        Self::with_direction(max_packet_bytes, Direction::Replies)
    }

    const fn with_direction(max_packet_bytes: usize, direction: Direction) -> Self {
        Self {
            body: Vec::new(),
            max_packet_bytes,
            direction,
            ack_mode: AckMode::Ack,
            state: State::Idle,
            kind: Kind::Packet,
            sum: 0,
            last_raw: None,
            oversize: false,
        }
    }

    /// Sets whether checksums are verified. It holds from the next checksum on.
    pub const fn set_ack_mode(&mut self, ack_mode: AckMode) {
        self.ack_mode = ack_mode;
    }

    /// Returns whether checksums are verified.
    #[must_use]
    pub const fn ack_mode(&self) -> AckMode {
        self.ack_mode
    }

    /// Takes bytes off the front of `input` up to the end of the next event, and returns that
    /// event. `None` means that all of `input` was taken and more is needed.
    ///
    /// The bytes of a packet may come over any number of calls. The event's body stays valid until
    /// the next call.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Event<'_>> {
        let found = loop {
            if let Some(found) = self.take(input)? {
                break found;
            }
        };
        Some(match found {
            Found::Packet => Event::Packet(&self.body),
            Found::Notification => Event::Notification(&self.body),
            Found::Interrupt => Event::Interrupt,
            Found::Ack => Event::Ack,
            Found::Nack => Event::Nack,
            Found::BadChecksum => Event::BadChecksum,
            Found::Oversize => Event::Oversize,
        })
    }

    /// Takes at least one byte; `None` when there is none.
    fn take(&mut self, input: &mut &[u8]) -> Option<Option<Found>> {
        if self.state == State::Body {
            self.take_plain(input);
        }
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        Some(match self.state {
            State::Idle => self.between_packets(byte),
            State::Body => self.in_body(byte),
            State::Escape => self.after_escape(byte),
            State::Run => self.after_star(byte),
            State::Checksum => self.first_digit(byte),
            State::ChecksumLow(high) => self.second_digit(high, byte),
        })
    }

    fn between_packets(&mut self, byte: u8) -> Option<Found> {
        match byte {
            b'$' => self.start(Kind::Packet),
            b'%' => self.start(Kind::Notification),
            b'+' => return Some(Found::Ack),
            b'-' => return Some(Found::Nack),
            INTERRUPT if self.direction == Direction::Requests => return Some(Found::Interrupt),
            _ => {}
        }
        None
    }

    fn start(&mut self, kind: Kind) {
        self.body.clear();
        self.state = State::Body;
        self.kind = kind;
        self.sum = 0;
        self.last_raw = None;
        self.oversize = false;
    }

    fn first_digit(&mut self, byte: u8) -> Option<Found> {
        match byte {
            // Nothing but a Ctrl-C can be in the middle of a checksum.
            INTERRUPT if self.direction == Direction::Requests => return Some(Found::Interrupt),
            b'$' => self.start(Kind::Packet),
            _ => self.state = State::ChecksumLow(byte),
        }
        None
    }

    fn second_digit(&mut self, high: u8, byte: u8) -> Option<Found> {
        match byte {
            INTERRUPT if self.direction == Direction::Requests => return Some(Found::Interrupt),
            b'$' => {
                self.start(Kind::Packet);
                return None;
            }
            _ => self.state = State::Idle,
        }
        let sent = hex::digit(high)
            .zip(hex::digit(byte))
            .map(|(high, low)| (high << 4) | low);
        let good = self.ack_mode == AckMode::NoAck || sent == Some(self.sum);
        match (self.kind, good, self.oversize) {
            // A notification is not acknowledged, so a damaged one is simply lost.
            (Kind::Notification, true, false) => Some(Found::Notification),
            (Kind::Notification, _, _) => None,
            (Kind::Packet, false, _) => Some(Found::BadChecksum),
            (Kind::Packet, true, true) => Some(Found::Oversize),
            (Kind::Packet, true, false) => Some(Found::Packet),
        }
    }
}
