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
    /// Requests that are not answered yet, in order; a resume that is accepted stays among them
    /// until a later one is answered.
    open: VecDeque<Open>,
    /// It may only look.
    pub(crate) is_read_only: bool,
    /// Whether what comes is checked against what was asked.
    pub(crate) is_checked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Request,
    Resume,
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
            open: VecDeque::new(),
            is_read_only: false,
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
            self.open.push_back(Open::Resume);
        } else if payload != "k" {
            self.open.push_back(Open::Request);
        }
    }

    /// Returns whether a request other than a resume is not answered yet.
    pub(crate) fn is_busy(&self) -> bool {
        self.open.contains(&Open::Request)
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
            self.open.retain(|open| *open != Open::Resume);
            self.stops.push(text.clone());
            self.inbox.push_back(text);
            return true;
        }
        if text.starts_with('O') && text != "OK" {
            assert!(self.awaits_stop || !self.is_checked, "output while stopped");
            return false;
        }
        let is_error = text.starts_with('E');
        let answered = loop {
            match self.open.pop_front() {
                Some(Open::Resume) if !is_error => {}
                other => break other,
            }
        };
        match answered {
            Some(Open::Resume) => self.awaits_stop = false,
            Some(Open::Request) => {}
            None => assert!(!self.is_checked, "{:?} was told {text} unasked", self.id),
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
