//! The protocol itself, for what no debugger sends.

use core::time::Duration;
use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use trapline_rsp::{
    AckMode, Deframer, Event, PACKET_SIZE_BYTES,
    client::{StopReply, encode_packet},
};

use crate::{
    LIMIT, Transcript,
    json::{bytes, digits},
};

/// How much of a packet the transcript shows, in bytes.
const SHOWN_BYTES: usize = 200;

/// A connection to a server's Unix socket.
#[derive(Debug)]
pub struct RawClient {
    stream: UnixStream,
    deframer: Deframer,
    ack_mode: AckMode,
    input: Vec<u8>,
    transcript: Transcript,
}

/// Something that the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A packet's body.
    Packet(Vec<u8>),
    /// `+`
    Ack,
    /// `-`
    Nack,
    /// The server closed the connection.
    Closed,
}

impl RawClient {
    /// Connects, and stays in the mode with acknowledgements.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn connect(socket: &Path, transcript: &Transcript) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        Ok(Self {
            stream,
            deframer: Deframer::for_replies(PACKET_SIZE_BYTES),
            ack_mode: AckMode::Ack,
            input: Vec::new(),
            transcript: transcript.clone(),
        })
    }

    /// Connects and turns acknowledgements off.
    ///
    /// # Errors
    /// When nothing listens there, and when the server does not agree.
    pub fn without_acks(socket: &Path, transcript: &Transcript) -> Result<Self> {
        let mut client = Self::connect(socket, transcript)?;
        let answer = client.ask("QStartNoAckMode")?;
        if answer != "OK" {
            bail!("QStartNoAckMode: {answer}");
        }
        client.send(b"+")?;
        client.deframer.set_ack_mode(AckMode::NoAck);
        client.ack_mode = AckMode::NoAck;
        Ok(client)
    }

    /// Connects like [`RawClient::without_acks`] where the last client may have left in the middle of something: what
    /// was for that one is passed over, and what gets lost is sent again.
    ///
    /// # Errors
    /// When nothing listens there, and when the server does not agree in time.
    pub fn take_over(socket: &Path, transcript: &Transcript) -> Result<Self> {
        let mut client = Self::connect(socket, transcript)?;
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            client.packet("QStartNoAckMode")?;
            while let Ok(answer) = client.receive(Duration::from_millis(300)) {
                if answer == Answer::Packet(b"OK".to_vec()) {
                    client.send(b"+")?;
                    client.deframer.set_ack_mode(AckMode::NoAck);
                    client.ack_mode = AckMode::NoAck;
                    client.settle()?;
                    return Ok(client);
                }
            }
        }
        bail!("the server does not answer who comes after a client that has left")
    }

    /// Passes over everything up to the answer of a question that nobody else asks.
    fn settle(&mut self) -> Result<()> {
        self.packet("qC")?;
        while !self.answer()?.starts_with("QC") {}
        Ok(())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.transcript.say("to raw", shown(bytes));
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a packet and does not wait.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn packet(&mut self, body: &str) -> Result<()> {
        let mut frame = Vec::new();
        encode_packet(body.as_bytes(), &mut frame);
        self.send(&frame)
    }

    /// Sends a packet and yields the body of the answer as text.
    ///
    /// # Errors
    /// When the connection is gone or no answer comes in time.
    pub fn ask(&mut self, body: &str) -> Result<String> {
        self.packet(body)?;
        self.answer()
    }

    /// Has the server carry out a command of its own and yields what it prints.
    ///
    /// # Errors
    /// As with [`RawClient::ask`]; also when the server refuses.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let mut answer = self.ask(&format!("qRcmd,{}", digits(command.as_bytes())))?;
        let mut text = Vec::new();
        while let Some(part) = answer.strip_prefix('O').filter(|part| *part != "K") {
            text.extend(bytes(part)?);
            answer = self.answer()?;
        }
        match answer.as_str() {
            "OK" => {}
            error if error.starts_with('E') => bail!("monitor {command}: {error}"),
            part => text.extend(bytes(part)?),
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Waits for a packet and yields its body as text. In the mode with acknowledgements it is
    /// acknowledged.
    ///
    /// # Errors
    /// When the connection is gone or no packet comes in time.
    pub fn answer(&mut self) -> Result<String> {
        loop {
            match self.receive(LIMIT)? {
                Answer::Packet(body) => {
                    if self.ack_mode == AckMode::Ack {
                        self.send(b"+")?;
                    }
                    return Ok(String::from_utf8_lossy(&body).into_owned());
                }
                Answer::Ack => {}
                other => bail!("expected a packet, not {other:?}"),
            }
        }
    }

    /// Sends a packet that resumes and waits for the stop.
    ///
    /// # Errors
    /// As with [`RawClient::ask`]; also when the answer is no stop reply.
    pub fn resume(&mut self, body: &str) -> Result<String> {
        self.packet(body)?;
        loop {
            let answer = self.answer()?;
            match StopReply::parse(answer.as_bytes()) {
                // Text for the user comes before a stop.
                Ok(StopReply::Output(_)) => {}
                Ok(_) => return Ok(answer),
                Err(error) => bail!("{body} was answered by {answer:?}: {error}"),
            }
        }
    }

    /// Waits for whatever comes next.
    ///
    /// # Errors
    /// When nothing comes within `limit`.
    pub fn receive(&mut self, limit: Duration) -> Result<Answer> {
        let end = Instant::now() + limit;
        loop {
            if let Some(answer) = self.next_answer() {
                match &answer {
                    Answer::Packet(body) => self.transcript.say("raw", shown(body)),
                    other => self.transcript.say("raw", format!("{other:?}")),
                }
                return Ok(answer);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the server says nothing in {limit:?}");
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 16384];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Answer::Closed),
                Ok(count) => self.input.extend(buffer.get(..count).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Ok(Answer::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the server closes the connection within `limit`, after whatever else it has to say.
    ///
    /// # Errors
    /// When it does not.
    pub fn expect_closed(&mut self, limit: Duration) -> Result<()> {
        while self.receive(limit)? != Answer::Closed {}
        Ok(())
    }

    fn next_answer(&mut self) -> Option<Answer> {
        loop {
            let mut rest = self.input.as_slice();
            let before = rest.len();
            let answer = match self.deframer.next(&mut rest)? {
                Event::Packet(body) => Some(Answer::Packet(body.to_vec())),
                Event::Ack => Some(Answer::Ack),
                Event::Nack => Some(Answer::Nack),
                _ => None,
            };
            let used = before - rest.len();
            self.input.drain(..used);
            if answer.is_some() {
                return answer;
            }
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    let start = bytes.get(..SHOWN_BYTES).unwrap_or(bytes);
    let more = if start.len() < bytes.len() { "…" } else { "" };
    format!("{}{more} ({} bytes)", start.escape_ascii(), bytes.len())
}
