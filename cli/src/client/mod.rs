//! A client of debug servers: one request at a time, and what the server says by itself.
//!
//! A thread reads from the connection all the time. Replies go to whoever waits in
//! [`Client::request`]; notices go to the function that [`Client::connect`] was given, so that a
//! stop of the guest is seen while nobody waits for anything. Packets are not acknowledged: both
//! kinds of connection lose nothing (GDB manual, "Packet Acknowledgment").

mod address;
mod error;
mod files;
mod reader;
mod stream;

#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use trapline_rsp::client::{decode_hex, encode_packet};
use trapline_rsp::framing::INTERRUPT;
use trapline_rsp::hex;
use trapline_server::ListenAddress;

pub(crate) use address::{gdb_target, lldb_command, parse_address};
pub(crate) use error::ClientError;
pub(crate) use reader::Notice;

use reader::Incoming;
use stream::Stream;

/// How often a wait for a reply looks whether the user has given up on it.
const WAIT_TICK: Duration = Duration::from_millis(50);

/// A connection to a debug server. Dropping it ends the connection.
#[derive(Debug)]
pub(crate) struct Client {
    address: ListenAddress,
    stream: Stream,
    incoming: Receiver<Incoming>,
    /// Set from outside when the user does not want to wait for a reply any more.
    give_up: Arc<AtomicBool>,
    /// How long to wait for a reply.
    patience: Option<Duration>,
    /// Replies to requests that were given up, which will still come.
    owed: usize,
}

/// What a command in words had to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) text: String,
}

/// How the last line of an answer begins if the command was not carried out: GDB shows the text of
/// an answer but only the number of a refusal, so the server answers with a text.
const FAILURE: &str = "error: ";

impl Outcome {
    /// Returns what the command said before it failed, and why it failed, if it did.
    pub(crate) fn failure(&self) -> Option<(&str, &str)> {
        let text = self.text.trim_end_matches('\n');
        let start = text.rfind('\n').map_or(0, |end| end.saturating_add(1));
        let (output, last) = text.split_at_checked(start)?;
        last.starts_with(FAILURE).then_some((output, last))
    }
}

/// The wait for one reply.
struct Waiting {
    deadline: Option<Instant>,
    asked_to_stop: bool,
}

impl Client {
    /// Connects to a server. `on_notice` is called from another thread.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub(crate) fn connect(
        address: &ListenAddress,
        on_notice: impl FnMut(Notice) + Send + 'static,
    ) -> Result<Self, ClientError> {
        let stream = Stream::connect(address)?;
        let incoming = reader::start(&stream, address, Box::new(on_notice))?;
        Ok(Self {
            address: address.clone(),
            stream,
            incoming,
            give_up: Arc::default(),
            patience: None,
            owed: 0,
        })
    }

    /// Returns the address that it is connected to.
    pub(crate) fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Returns the flag by which another thread, or a signal, ends the wait for a reply: the first
    /// time the guest is asked to stop, in case that is what the reply waits for, and the second
    /// time the reply is not waited for. Set before a request, it counts for that request.
    pub(crate) fn give_up_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.give_up)
    }

    /// Limits how long replies are waited for, or not any more.
    pub(crate) fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// Sends a request and waits for the reply. Text that the server sends before it, meant for the
    /// user, goes to `console`.
    ///
    /// # Errors
    /// [`ClientError::Gone`] and [`ClientError::Interrupted`].
    pub(crate) fn request(
        &mut self,
        payload: &[u8],
        console: &mut dyn FnMut(&str),
    ) -> Result<Vec<u8>, ClientError> {
        let mut packet = Vec::with_capacity(payload.len().saturating_add(4));
        encode_packet(payload, &mut packet);
        self.stream
            .write_all(&packet)
            .map_err(|_| self.error_gone())?;
        let patience = self.patience;
        let mut waiting = Waiting {
            deadline: patience.and_then(|patience| Instant::now().checked_add(patience)),
            asked_to_stop: false,
        };
        loop {
            let body = self.wait(&mut waiting)?;
            if let Some(text) = console_text(&body) {
                console(&text);
            } else if self.owed > 0 {
                self.owed -= 1;
            } else {
                return Ok(body);
            }
        }
    }

    /// Waits for a packet.
    fn wait(&mut self, waiting: &mut Waiting) -> Result<Vec<u8>, ClientError> {
        loop {
            match self.incoming.recv_timeout(WAIT_TICK) {
                Ok(Incoming::Packet(body)) => return Ok(body),
                Ok(Incoming::Gone) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.error_gone());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let is_given_up = self.give_up.swap(false, Ordering::Relaxed);
            if is_given_up && !core::mem::replace(&mut waiting.asked_to_stop, true) {
                self.stream
                    .write_all(&[INTERRUPT])
                    .map_err(|_| self.error_gone())?;
            } else if is_given_up || waiting.deadline.is_some_and(|end| Instant::now() >= end) {
                self.owed = self.owed.saturating_add(1);
                return Err(ClientError::Interrupted);
            }
        }
    }

    /// Has the server carry out a command in words, as GDB's `monitor` does.
    ///
    /// # Errors
    /// As [`ClientError`] says. A command that the server could not carry out is no error here.
    pub(crate) fn command(&mut self, line: &str) -> Result<Outcome, ClientError> {
        const REQUEST: &str = "qRcmd";
        let mut payload = format!("{REQUEST},").into_bytes();
        hex::append(line.as_bytes(), &mut payload);
        let mut text = String::new();
        let reply = self.request(&payload, &mut |part| text.push_str(part))?;
        if reply.is_empty() {
            return Err(ClientError::Unsupported {
                address: self.address.clone(),
                request: REQUEST,
            });
        }
        if let Some(refusal) = refusal(&reply) {
            text.push_str(&format!("{FAILURE}{refusal}\n"));
        } else if reply != b"OK" {
            let bytes = decode_hex(&reply).map_err(|_| ClientError::malformed(REQUEST, &reply))?;
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        Ok(Outcome { text })
    }

    /// Waits until all notices have arrived that earlier requests caused. What a server sends stays
    /// in order, so that is when it answers another request.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    pub(crate) fn settle(&mut self) -> Result<(), ClientError> {
        self.request(b"qC", &mut |_| {}).map(drop)
    }

    fn error_gone(&self) -> ClientError {
        ClientError::Gone {
            address: self.address.clone(),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stream.shutdown();
    }
}

/// Returns the text of an `O` packet; `OK` is none.
fn console_text(body: &[u8]) -> Option<String> {
    let digits = body.strip_prefix(b"O")?;
    let bytes = decode_hex(digits).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns what a refusal says: `E.text`, LLDB's `Exx;hex`, or `Exx` alone.
fn refusal(reply: &[u8]) -> Option<String> {
    let rest = reply.strip_prefix(b"E")?;
    if let Some(text) = rest.strip_prefix(b".") {
        return Some(String::from_utf8_lossy(text).into_owned());
    }
    let (number, text) = rest.split_at_checked(2)?;
    if !number.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    match text.strip_prefix(b";").map(decode_hex) {
        Some(Ok(text)) => Some(String::from_utf8_lossy(&text).into_owned()),
        _ if text.is_empty() => Some(format!(
            "the server refused it (error {})",
            number.escape_ascii()
        )),
        _ => None,
    }
}
