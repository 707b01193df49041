//! Binary data in a body.
//!
//! ```text
//! #  →  } 03h      $  →  } 04h      }  →  } ]      *  →  } 0Ah      all others as they are
//! ```
//! Source: GDB manual, "Overview" (of the protocol), on binary data.

use super::Encoder;

/// How much is compared at once. Most chunks, of random data too, have no reserved byte.
const CHUNK_BYTES: usize = 16;
/// How many reserved bytes are counted in a `u8` before it could wrap.
const COUNT_BYTES: usize = 128;

/// Compares without a branch, so that a compiler compares a whole chunk by vector instructions.
const fn is_reserved(byte: u8) -> bool {
    (byte == b'#') | (byte == b'$') | (byte == b'}') | (byte == b'*')
}

pub(super) const fn is_reserved_char(character: char) -> bool {
    matches!(character, '#' | '$' | '}' | '*')
}

fn escaped_len_bytes(data: &[u8]) -> usize {
    data.chunks(COUNT_BYTES).fold(data.len(), |len, chunk| {
        let count = |sum: u8, &byte: &u8| sum.wrapping_add(u8::from(is_reserved(byte)));
        len.saturating_add(usize::from(chunk.iter().fold(0, count)))
    })
}

impl Encoder<'_> {
    /// Writes binary data with the reserved bytes `#`, `$`, `}` and `*` escaped.
    pub fn binary(&mut self, data: &[u8]) -> &mut Self {
        let len_bytes = escaped_len_bytes(data);
        if self.has_room(len_bytes) {
            let start = self.out.len();
            self.out.resize(start.saturating_add(len_bytes), 0);
            escape(data, self.out.get_mut(start..).unwrap_or_default());
        }
        self
    }

    /// Writes as much of `data` as the limit allows, escaped, and returns how many bytes of
    /// `data` that was. It never overflows: replies to `x`, `qXfer` and `vFile:pread` may be short.
    pub fn binary_prefix(&mut self, data: &[u8]) -> usize {
        let room = self.remaining_bytes();
        let mut fitting = data.get(..room).unwrap_or(data);
        if escaped_len_bytes(fitting) > room {
            let mut used: usize = 0;
            let count = fitting.iter().take_while(|&&byte| {
                used = used.saturating_add(if is_reserved(byte) { 2 } else { 1 });
                used <= room
            });
            let count = count.count();
            fitting = fitting.get(..count).unwrap_or_default();
        }
        self.binary(fitting);
        fitting.len()
    }
}

/// Writes `data`, escaped, to `to`, which is as long as [`escaped_len_bytes`] says.
fn escape(data: &[u8], mut to: &mut [u8]) {
    let (chunks, rest) = data.as_chunks::<CHUNK_BYTES>();
    for chunk in chunks {
        if chunk
            .iter()
            .fold(false, |found, &byte| found | is_reserved(byte))
        {
            to = escape_bytewise(chunk, to);
        } else if let Some((head, tail)) = to.split_first_chunk_mut() {
            *head = *chunk;
            to = tail;
        } else {
            return;
        }
    }
    escape_bytewise(rest, to);
}

/// Writes `data`, escaped, to the front of `to` and returns what is left of it.
fn escape_bytewise<'to>(data: &[u8], mut to: &'to mut [u8]) -> &'to mut [u8] {
    for &byte in data {
        if is_reserved(byte) {
            let Some((head, tail)) = core::mem::take(&mut to).split_first_chunk_mut() else {
                break;
            };
            *head = [b'}', byte ^ 0x20];
            to = tail;
        } else {
            let Some((head, tail)) = core::mem::take(&mut to).split_first_mut() else {
                break;
            };
            *head = byte;
            to = tail;
        }
    }
    to
}
