//! Building packets in a buffer of the caller's.
//!
//! An [`Encoder`] writes `$`, then the body as it is built, and on [`Encoder::finish`] the `#` and
//! the checksum, all behind what the buffer already holds. So a session can put an
//! acknowledgement and several packets into one buffer and send them by one system call.
//!
//! The body has a limit. A write that would pass it is dropped as a whole and remembered, and
//! `finish` then reports it and takes the packet back; callers need not check each write.
//!
//! Source: GDB manual, "Overview" (of the protocol), "Stop Reply Packets".

use alloc::vec::Vec;
use core::fmt;

use crate::hex;
use crate::thread_id::ThreadSpec;

mod escape;
mod pairs;
mod run_length;

#[cfg(test)]
mod tests;

/// Whether a finished body is run-length encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunLength {
    /// Runs of four and more bytes are shortened. The body is gone over byte by byte for it, at a
    /// tenth of the speed of [`Encoder::hex_bytes`], so bulk replies are better sent without.
    On,
    /// The body stays as written. Microsoft's EXDI client needs this.
    Off,
}

/// Why no packet was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The body does not fit the limit, in bytes, given to the encoder.
    #[error("packet body is longer than {limit_bytes} bytes")]
    TooLong {
        /// The limit that was passed.
        limit_bytes: usize,
    },
}

/// Builds one packet or notification at the end of a buffer.
///
/// Dropped without [`Encoder::finish`], it leaves the buffer as it found it.
#[derive(Debug)]
#[must_use = "a packet is complete only after `finish`"]
pub struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    /// Where the `$` or `%` is.
    start: usize,
    limit_bytes: usize,
    overflowed: bool,
    finished: bool,
}

impl<'a> Encoder<'a> {
    /// Starts a packet whose body, as sent, takes at most `limit_bytes`
    /// (usually [`crate::PACKET_SIZE_BYTES`]).
    pub fn packet(out: &'a mut Vec<u8>, limit_bytes: usize) -> Self {
        Self::start(out, b'$', limit_bytes)
    }

    /// Starts a notification, `%name:`, to be followed by its event.
    pub fn notification(out: &'a mut Vec<u8>, name: &str, limit_bytes: usize) -> Self {
        let mut encoder = Self::start(out, b'%', limit_bytes);
        encoder.text(name).text(":");
        encoder
    }

    fn start(out: &'a mut Vec<u8>, mark: u8, limit_bytes: usize) -> Self {
        let start = out.len();
        out.push(mark);
        Self {
            out,
            start,
            limit_bytes,
            overflowed: false,
            finished: false,
        }
    }

    /// Returns how many more bytes of body, as sent, the limit allows.
    ///
    /// Half of it is what [`Self::hex_bytes`] can take.
    #[must_use]
    pub fn remaining_bytes(&self) -> usize {
        self.limit_bytes.saturating_sub(self.body_len_bytes())
    }

    /// Returns the length of the body so far, as sent.
    #[must_use]
    pub fn body_len_bytes(&self) -> usize {
        self.out.len().saturating_sub(self.body_start())
    }

    const fn body_start(&self) -> usize {
        self.start.saturating_add(1)
    }

    /// Tells whether `len_bytes` more may be written, and remembers if not. After one write was
    /// dropped all later ones are, for a body with a hole is worth nothing.
    fn has_room(&mut self, len_bytes: usize) -> bool {
        self.overflowed |= len_bytes > self.remaining_bytes();
        !self.overflowed
    }

    /// Writes each byte as two lower-case hex digits.
    pub fn hex_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if self.has_room(bytes.len().saturating_mul(2)) {
            hex::append(bytes, self.out);
        }
        self
    }

    /// Writes a number, most significant digit first, without leading zeros; zero is `0`.
    pub fn hex_u64(&mut self, value: u64) -> &mut Self {
        let undo_len = self.out.len();
        hex::append_u64(value, self.out);
        if self.body_len_bytes() > self.limit_bytes || self.overflowed {
            self.out.truncate(undo_len);
            self.overflowed = true;
        }
        self
    }

    /// Writes the low `size_bytes` (at most 8) of a number as a little-endian target's bytes.
    pub fn hex_u64_le(&mut self, value: u64, size_bytes: usize) -> &mut Self {
        let bytes = value.to_le_bytes();
        self.hex_bytes(bytes.get(..size_bytes).unwrap_or(&bytes))
    }

    /// Writes a text's UTF-8 bytes as hex digits, as `qRcmd` and `O` replies do.
    pub fn hex_text(&mut self, text: &str) -> &mut Self {
        self.hex_bytes(text.as_bytes())
    }

    /// Writes protocol text. Bytes that the frame reserves are escaped, so any text is safe to
    /// send; of GDB's text replies only the binary ones are un-escaped by the reader.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.binary(text.as_bytes())
    }

    /// Writes a thread id, with its process if it has one.
    pub fn thread(&mut self, thread: ThreadSpec) -> &mut Self {
        self.display(thread)
    }

    /// Writes a value's `Display` form as [`Self::text`] does.
    pub fn display(&mut self, value: impl fmt::Display) -> &mut Self {
        // The only error is the overflow that `has_room` has noted already.
        let _ = fmt::Write::write_fmt(self, format_args!("{value}"));
        self
    }

    /// Writes the reply to a request that was carried out.
    pub fn ok(&mut self) -> &mut Self {
        self.text("OK")
    }

    /// Writes the reply to a request that is not supported, which is an empty body: nothing.
    pub const fn unsupported(&mut self) -> &mut Self {
        self
    }

    /// Writes a refusal by number, `E` and two digits. GDB takes the numbers for no more than
    /// themselves, save in replies to `vFile`.
    pub fn error(&mut self, number: u8) -> &mut Self {
        self.text("E").hex_bytes(&[number])
    }

    /// Writes a refusal in words, `E.` and text, which GDB shows to its user.
    ///
    /// A client that offers `error-message+` takes it in every reply, any other GDB only in some.
    /// LLDB has a form of its own, see [`Self::error_lldb`]. GDB does not un-escape it, so a
    /// reserved byte becomes `?`.
    pub fn error_text(&mut self, text: &str) -> &mut Self {
        self.text("E.");
        for part in text.split_inclusive(escape::is_reserved_char) {
            match part.strip_suffix(escape::is_reserved_char) {
                Some(plain) => self.text(plain).text("?"),
                None => self.text(part),
            };
        }
        self
    }

    /// Writes a refusal as LLDB wants it after `QEnableErrorStrings`: `Exx;` and hex text.
    pub fn error_lldb(&mut self, number: u8, text: &str) -> &mut Self {
        self.error(number).text(";").hex_text(text)
    }

    /// Adds the end mark and checksum, and releases the buffer.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] if a write was dropped. The buffer is then as it was before the
    /// packet was started.
    pub fn finish(mut self, run_length: RunLength) -> Result<(), EncodeError> {
        if self.overflowed {
            return Err(EncodeError::TooLong {
                limit_bytes: self.limit_bytes,
            });
        }
        let body_start = self.body_start();
        if run_length == RunLength::On {
            run_length::shorten(self.out, body_start);
        }
        let body = self.out.get(body_start..).unwrap_or_default();
        let [high, low] = hex::pair(checksum(body));
        self.out.extend_from_slice(&[b'#', high, low]);
        self.finished = true;
        Ok(())
    }
}

impl Drop for Encoder<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}

impl fmt::Write for Encoder<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text(text);
        if self.overflowed {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// Returns the sum of a body's bytes, as sent, modulo 256.
#[must_use]
pub fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}
