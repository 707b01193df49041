//! The thread that reads from the connection, and the handshake before it.

use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use trapline_rsp::client::{decode_hex, encode_packet};
use trapline_rsp::{AckMode, Deframer, Event, PACKET_SIZE_BYTES};
use trapline_server::ListenAddress;

use super::error::ClientError;
use super::stream::Stream;

/// How long a server may take for the first answers. It may be looking for a kernel in the guest's
/// memory, on a machine with more to do.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// How many packets may lie unread before the reading thread waits.
const BACKLOG: usize = 256;

/// What the client says it understands: errors with a text.
const SUPPORTED: &[u8] = b"qSupported:error-message+";

/// What the server says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Something happened to the guest, in words.
    Event(String),
    /// The connection has ended.
    Gone,
}

/// What the reading thread hands over.
#[derive(Debug)]
pub(super) enum Incoming {
    Packet(Vec<u8>),
    Gone,
}

type OnNotice = Box<dyn FnMut(Notice) + Send>;

/// Shakes hands with the server and starts the thread.
pub(super) fn start(
    stream: &Stream,
    address: &ListenAddress,
    on_notice: OnNotice,
) -> Result<Receiver<Incoming>, ClientError> {
    let failed = |source| ClientError::Connect {
        address: address.clone(),
        source,
    };
    let stream = stream.try_clone().map_err(failed)?;
    let mut reader = Reader {
        stream,
        deframer: Deframer::for_replies(PACKET_SIZE_BYTES),
        input: Vec::new(),
        has_heard: false,
    };
    reader
        .shake_hands()
        .map_err(|error| reader.explain(&error, address.clone()))?;
    let (sender, receiver) = sync_channel(BACKLOG);
    thread::Builder::new()
        .name("server".into())
        .spawn(move || reader.run(&sender, on_notice))
        .map_err(failed)?;
    Ok(receiver)
}

struct Reader {
    stream: Stream,
    deframer: Deframer,
    /// What has come in and was not looked at.
    input: Vec<u8>,
    /// Anything has come in at all.
    has_heard: bool,
}

/// One thing the server sent.
enum Sent {
    Packet(Vec<u8>),
    Notification(Vec<u8>),
}

impl Reader {
    /// Ends acknowledgements, so that a reply costs no second exchange.
    fn shake_hands(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        self.stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        self.ask(SUPPORTED, deadline)?;
        if self.ask(b"QStartNoAckMode", deadline)? != b"OK" {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.deframer.set_ack_mode(AckMode::NoAck);
        self.stream.set_read_timeout(None)
    }

    /// Returns what it means that the handshake failed.
    fn explain(&self, error: &io::Error, address: ListenAddress) -> ClientError {
        match error.kind() {
            _ if self.has_heard => ClientError::NotAServer { address },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent {
                address,
                seconds: HANDSHAKE_TIMEOUT.as_secs(),
            },
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => ClientError::NotLetIn { address },
            _ => ClientError::NotAServer { address },
        }
    }

    fn ask(&mut self, payload: &[u8], deadline: Instant) -> io::Result<Vec<u8>> {
        let mut packet = Vec::new();
        encode_packet(payload, &mut packet);
        self.stream.write_all(&packet)?;
        while Instant::now() < deadline {
            if let Sent::Packet(body) = self.next()? {
                self.stream.write_all(b"+")?;
                return Ok(body);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Hands over what comes until the connection ends.
    fn run(mut self, sender: &SyncSender<Incoming>, mut on_notice: OnNotice) {
        loop {
            let has_taker = match self.next() {
                Ok(Sent::Packet(body)) => sender.send(Incoming::Packet(body)).is_ok(),
                Ok(Sent::Notification(body)) => {
                    if let Some(text) = event_text(&body) {
                        on_notice(Notice::Event(text));
                    }
                    true
                }
                Err(_) => {
                    // The client may be going away itself, with nobody left to tell.
                    let _ = sender.send(Incoming::Gone);
                    on_notice(Notice::Gone);
                    false
                }
            };
            if !has_taker {
                return;
            }
        }
    }

    /// Waits for a packet or a notification.
    fn next(&mut self) -> io::Result<Sent> {
        loop {
            let mut rest = self.input.as_slice();
            let sent = match self.deframer.next(&mut rest) {
                None => None,
                Some(Event::Packet(body)) => Some(Sent::Packet(body.to_vec())),
                Some(Event::Notification(body)) => Some(Sent::Notification(body.to_vec())),
                Some(_) => {
                    self.keep(rest.len());
                    continue;
                }
            };
            let rest_len = rest.len();
            self.keep(rest_len);
            match sent {
                Some(sent) => return Ok(sent),
                None => self.fill()?,
            }
        }
    }

    /// Drops all input but the last `len_bytes`.
    fn keep(&mut self, len_bytes: usize) {
        self.input
            .drain(..self.input.len().saturating_sub(len_bytes));
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.has_heard = true;
                    self.input
                        .extend_from_slice(buffer.get(..len).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns the text of a notification of ours, `Trapline:` and hexadecimal digits.
fn event_text(body: &[u8]) -> Option<String> {
    let text = decode_hex(body.strip_prefix(b"Trapline:")?).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}
