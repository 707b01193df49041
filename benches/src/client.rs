//! A client with as little of its own as possible: one system call for a request, and as few as the
//! kernel allows for the reply.

use core::time::Duration;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use trapline_rsp::client::{decode_hex, encode_packet};
use trapline_rsp::framing::INTERRUPT;

/// Enough for a packet of either server.
const BUFFER_BYTES: usize = 512 * 1024;
/// How long any reply may take. It is far more than any does.
const PATIENCE: Duration = Duration::from_secs(60);
/// `#` and two digits.
const END_BYTES: usize = 3;

/// A connection to a debug server.
pub(crate) struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    filled: usize,
    acknowledges: bool,
    /// Where the last reply's body is in the buffer.
    body: core::ops::Range<usize>,
}

/// A request, framed once and sent as often as needed.
#[derive(Clone, Debug)]
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    /// Frames a request's body.
    pub(crate) fn new(body: &str) -> Self {
        let mut bytes = Vec::new();
        encode_packet(body.as_bytes(), &mut bytes);
        Self(bytes)
    }
}

impl Client {
    /// Connects to a server as soon as it listens, and turns acknowledgements off if it can.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let stream = connect_soon(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self {
            stream,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0,
            acknowledges: true,
            body: 0..0,
        };
        let features = client.ask("qSupported:swbreak+;hwbreak+;vContSupported+")?;
        if features.contains("QStartNoAckMode+") {
            ensure!(client.ask("QStartNoAckMode")? == "OK");
            client.acknowledges = false;
        }
        Ok(client)
    }

    /// Sends a request and takes its reply as text.
    pub(crate) fn ask(&mut self, body: &str) -> Result<String> {
        let reply = self.request(&Packet::new(body))?;
        Ok(String::from_utf8_lossy(reply).into_owned())
    }

    /// Sends a request and returns its reply's body as it came.
    pub(crate) fn request(&mut self, packet: &Packet) -> Result<&[u8]> {
        self.send(packet)?;
        self.reply()
    }

    /// Sends a request whose reply is taken later. The acknowledgement of the reply before it goes
    /// along, so that every client pays for one system call.
    pub(crate) fn send(&mut self, packet: &Packet) -> Result<()> {
        if self.acknowledges && !self.body.is_empty() {
            let mut bytes = Vec::with_capacity(packet.0.len() + 1);
            bytes.push(b'+');
            bytes.extend_from_slice(&packet.0);
            self.stream.write_all(&bytes)?;
        } else {
            self.stream.write_all(&packet.0)?;
        }
        self.filled = 0;
        Ok(())
    }

    /// Asks for a stop.
    pub(crate) fn interrupt(&mut self) -> Result<()> {
        Ok(self.stream.write_all(&[INTERRUPT])?)
    }

    /// Waits for a reply and returns its body as it came.
    pub(crate) fn reply(&mut self) -> Result<&[u8]> {
        loop {
            if let Some(body) = self.find_reply() {
                self.body = body;
                return Ok(self.buffer.get(self.body.clone()).unwrap_or_default());
            }
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let read = self.stream.read(room);
            let read = read.with_context(|| {
                let filled = self.buffer.get(..self.filled).unwrap_or_default();
                let filled = String::from_utf8_lossy(filled);
                format!("the debug server does not answer; so far it said {filled:?}")
            })?;
            ensure!(read > 0, "the debug server has closed the connection");
            self.filled += read;
        }
    }

    /// A `#` stands nowhere but before the checksum, so the end of a reply need not be searched for.
    fn find_reply(&self) -> Option<core::ops::Range<usize>> {
        let end = self.filled.checked_sub(END_BYTES)?;
        if self.buffer.get(end) != Some(&b'#') {
            return None;
        }
        let received = self.buffer.get(..end)?;
        let start = received.iter().take(8).position(|byte| *byte == b'$')?;
        Some(start + 1..end)
    }

    /// Sets the guest going.
    pub(crate) fn go(&mut self) -> Result<()> {
        self.send(&Packet::new("vCont;c"))
    }

    /// Stops the guest that [`go`](Self::go) has set going.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.interrupt()?;
        let reply = self.reply()?;
        ensure!(
            matches!(reply.first(), Some(b'T' | b'S')),
            "no stop reply but {}",
            String::from_utf8_lossy(reply)
        );
        Ok(())
    }

    /// Reads a 64-bit variable of the guest.
    pub(crate) fn read_u64(&mut self, address: u64) -> Result<u64> {
        let reply = self.request(&Packet::new(&format!("m{address:x},8")))?;
        let bytes = decode_hex(reply).ok();
        match bytes.and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => Ok(u64::from_le_bytes(bytes)),
            None => bail!("the guest's memory at {address:#x} cannot be read"),
        }
    }
}

/// Connects to a Unix socket whose server may still be starting.
pub(crate) fn connect_soon(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{}", path.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
