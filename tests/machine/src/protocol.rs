//! What the host and the agent inside a machine say to each other.
//!
//! Every request has a TCP connection of its own, so requests run side by side, a slow one holds up no
//! other, and closing the connection ends what it started. On a connection both sides send frames:
//!
//! ```text
//! 0        1                    5                5 + length
//! +--------+--------------------+----------------+
//! | kind   | length, 32-bit LE  | payload        |
//! +--------+--------------------+----------------+
//! ```
//!
//! The host opens with [`Kind::Hello`], whose payload is the machine's token, and one request. After an
//! accepted [`Kind::Connect`] the connection carries the forwarded bytes as they are.

use std::io::{self, Read, Write};

/// The TCP port on which the agent listens inside the machine.
pub const AGENT_PORT: u16 = 7001;
/// What the agent prints on the console once it listens.
pub const READY: &str = "trapline-machine: ready";
/// The file in the machine that holds the token.
pub const TOKEN_FILE: &str = "/trapline/token";
/// The longest payload, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 16;

/// The kinds of frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Host: the machine's token, first on each connection.
    Hello = b'h',
    /// Host: the machine lives as long as this connection.
    Lease = b'l',
    /// Host: run the payload with `/bin/sh -c`.
    Run = b'r',
    /// Host: write the file named by the payload, octal permission bits and a space before its path.
    Put = b'p',
    /// Host: read the file named by the payload.
    Get = b'g',
    /// Host: connect to `tcp:PORT` on the machine's loopback, or to `unix:PATH`.
    Connect = b'c',
    /// Both: a piece of a file, or of a program's standard input.
    Data = b'd',
    /// Both: the end of that file or input.
    End = b'e',
    /// Host: send the signal of that name to the program and its children.
    Signal = b's',
    /// Agent: a piece of standard output.
    Stdout = b'o',
    /// Agent: a piece of standard error.
    Stderr = b'O',
    /// Agent: the exit status in decimal; 128 + N after signal N.
    Exit = b'x',
    /// Agent: the request was accepted or is complete.
    Accepted = b'k',
    /// Agent: the request failed; the payload says why.
    Refused = b'!',
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::Hello,
        Self::Lease,
        Self::Run,
        Self::Put,
        Self::Get,
        Self::Connect,
        Self::Data,
        Self::End,
        Self::Signal,
        Self::Stdout,
        Self::Stderr,
        Self::Exit,
        Self::Accepted,
        Self::Refused,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// What it carries, at most [`MAX_PAYLOAD_BYTES`].
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as text, with replacement characters where it is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// Sends one frame in one write.
///
/// # Errors
/// Those of the connection, and [`io::ErrorKind::InvalidInput`] for a payload over the limit.
pub fn send(mut connection: impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > MAX_PAYLOAD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "payload over the limit",
        ));
    }
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind as u8);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    connection.write_all(&frame)
}

/// Receives one frame; `None` at the end of the connection between two frames.
///
/// # Errors
/// Those of the connection, [`io::ErrorKind::UnexpectedEof`] inside a frame, and
/// [`io::ErrorKind::InvalidData`] for an unknown kind or a payload over the limit.
pub fn receive(mut connection: impl Read) -> io::Result<Option<Frame>> {
    let mut kind = [0];
    loop {
        match connection.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let kind = Kind::from_byte(kind[0])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown kind of frame"))?;
    let mut length = [0; 4];
    connection.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "payload over the limit",
        ));
    }
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

/// Sends everything `source` yields as [`Kind::Data`] or another kind of piece, without an end mark.
///
/// # Errors
/// Those of the source and of the connection.
pub fn send_all(mut source: impl Read, mut connection: impl Write, kind: Kind) -> io::Result<()> {
    let mut buffer = vec![0; MAX_PAYLOAD_BYTES];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        send(
            &mut connection,
            kind,
            buffer.get(..count).unwrap_or_default(),
        )?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_survives_a_round_trip() {
        for kind in Kind::ALL {
            let mut bytes = Vec::new();
            send(&mut bytes, kind, b"payload").unwrap();
            let frame = receive(bytes.as_slice()).unwrap().unwrap();
            assert_eq!(
                frame,
                Frame {
                    kind,
                    payload: b"payload".to_vec()
                }
            );
        }
    }

    #[test]
    fn truncation_at_every_length_is_an_error_but_the_first() {
        let mut bytes = Vec::new();
        send(&mut bytes, Kind::Run, b"true").unwrap();
        assert_eq!(receive(&bytes[..0]).unwrap(), None);
        for length in 1..bytes.len() {
            let error = receive(&bytes[..length]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_refused_both_ways() {
        let error = send(Vec::new(), Kind::Data, &vec![0; MAX_PAYLOAD_BYTES + 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = receive([b'd', 1, 0, 1, 0].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let error = receive([0, 0, 0, 0, 0].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
