//! Binary data in a body.
//!
//! ```text
//! #  →  } 03h      $  →  } 04h      }  →  } ]      *  →  } 0Ah      all others as they are
//! ```
//! Source: GDB manual, "Overview" (of the protocol), on binary data.

use super::Encoder;

/// How much is looked at at once. Random data has a reserved byte in one chunk of eight.
const CHUNK_BYTES: usize = 8;

const fn is_reserved(byte: u8) -> bool {
    matches!(byte, b'#' | b'$' | b'}' | b'*')
}

pub(super) const fn is_reserved_char(character: char) -> bool {
    matches!(character, '#' | '$' | '}' | '*')
}

fn escaped_len_bytes(data: &[u8]) -> usize {
    let reserved = data.iter().filter(|&&byte| is_reserved(byte)).count();
    data.len().saturating_add(reserved)
}

impl Encoder<'_> {
    /// Writes binary data with the reserved bytes `#`, `$`, `}` and `*` escaped.
    pub fn binary(&mut self, data: &[u8]) -> &mut Self {
        let len_bytes = escaped_len_bytes(data);
        if self.has_room(len_bytes) {
            self.out.reserve(len_bytes);
            self.append_escaped(data);
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

    fn append_escaped(&mut self, data: &[u8]) {
        let (chunks, rest) = data.as_chunks::<CHUNK_BYTES>();
        for chunk in chunks {
            // Without a branch per byte, so that the whole chunk is compared at once.
            if chunk
                .iter()
                .fold(false, |found, &byte| found | is_reserved(byte))
            {
                self.append_bytewise(chunk);
            } else {
                self.out.extend_from_slice(chunk);
            }
        }
        self.append_bytewise(rest);
    }

    fn append_bytewise(&mut self, data: &[u8]) {
        for &byte in data {
            if is_reserved(byte) {
                self.out.extend_from_slice(&[b'}', byte ^ 0x20]);
            } else {
                self.out.push(byte);
            }
        }
    }
}
