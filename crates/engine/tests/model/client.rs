//! A client of the model: raw bytes out, packets in, and what it may expect.

use std::collections::VecDeque;

use trapline_engine::SessionId;
use trapline_rsp::{AckMode, Deframer, Event, PACKET_SIZE_BYTES};

pub(crate) struct Client {
    pub(crate) id: SessionId,
    deframer: Deframer,
    /// Packets that came and were not looked at.
    pub(crate) inbox: VecDeque<String>,
    /// Stop replies that came for resumes, in order.
    pub(crate) stops: Vec<String>,
    /// Acknowledgements that came, `+` and `-`.
    pub(crate) acks: String,
    /// All bytes that came.
    pub(crate) raw: Vec<u8>,
    /// A resume (or an attach to a running guest) is not answered yet.
    pub(crate) awaits_stop: bool,
    /// Requests other than resumes that are not answered yet.
    pub(crate) open_requests: usize,
    /// Whether what comes is checked against what was asked.
    pub(crate) is_checked: bool,
}

impl Client {
    pub(crate) fn new(id: SessionId) -> Self {
        Self {
            id,
            deframer: Deframer::for_replies(PACKET_SIZE_BYTES),
            inbox: VecDeque::new(),
            stops: Vec::new(),
            acks: String::new(),
            raw: Vec::new(),
            awaits_stop: false,
            open_requests: 0,
            is_checked: true,
        }
    }

    pub(crate) fn stop_acknowledging(&mut self) {
        self.deframer.set_ack_mode(AckMode::NoAck);
    }

    /// Notes a request about to be sent.
    pub(crate) fn expect(&mut self, payload: &str) {
        if is_resume(payload) {
            self.awaits_stop = true;
        } else if payload != "k" {
            self.open_requests += 1;
        }
    }

    /// Takes bytes from the server. Returns whether there was a stop reply to a resume.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> bool {
        self.raw.extend_from_slice(bytes);
        let mut rest = bytes;
        let mut stopped = false;
        while let Some(event) = self.deframer.next(&mut rest) {
            let text = match event {
                Event::Packet(body) => String::from_utf8_lossy(body).into_owned(),
                Event::Ack => {
                    self.acks.push('+');
                    continue;
                }
                Event::Nack => {
                    self.acks.push('-');
                    continue;
                }
                other => panic!("the server sent {other:?}"),
            };
            stopped |= self.take(text);
        }
        stopped
    }

    fn take(&mut self, text: String) -> bool {
        let is_stop = matches!(text.as_bytes().first(), Some(b'T' | b'S' | b'W' | b'X'));
        if is_stop && self.is_checked {
            assert!(
                self.awaits_stop,
                "{:?} was told {text} without a resume",
                self.id
            );
        }
        if is_stop && self.awaits_stop {
            self.awaits_stop = false;
            self.stops.push(text.clone());
            self.inbox.push_back(text);
            return true;
        }
        if text.starts_with('O') && text != "OK" {
            assert!(self.awaits_stop || !self.is_checked, "output while stopped");
            return false;
        }
        if self.open_requests > 0 {
            self.open_requests -= 1;
        } else if self.awaits_stop && text.starts_with('E') {
            self.awaits_stop = false;
        } else if self.is_checked {
            panic!("{:?} was told {text} unasked", self.id);
        }
        self.inbox.push_back(text);
        false
    }
}

/// Whether a packet is answered by a stop reply.
pub(crate) fn is_resume(payload: &str) -> bool {
    payload == "?"
        || payload.starts_with("vCont;")
        || matches!(payload.as_bytes().first(), Some(b'c' | b's' | b'C' | b'S'))
}
