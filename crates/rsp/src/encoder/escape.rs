//! Binary data in a body.
//!
//! ```text
//! #  →  } 03h      $  →  } 04h      }  →  } ]      *  →  } 0Ah      all others as they are
//! ```
//! Source: GDB manual, "Overview" (of the protocol), on binary data.

use alloc::vec::Vec;

use super::Encoder;

/// How much is compared at once. Most chunks, of random data too, have no reserved byte.
const CHUNK_BYTES: usize = 16;
/// How many reserved bytes are counted in a `u8` before it could wrap, and how much of a prefix is
/// held against the limit at once.
const BLOCK_BYTES: usize = 128;

/// Compares without a branch, so that a compiler compares a whole chunk by vector instructions.
const fn is_reserved(byte: u8) -> bool {
    (byte == b'#') | (byte == b'$') | (byte == b'}') | (byte == b'*')
}

pub(super) const fn is_reserved_char(character: char) -> bool {
    matches!(character, '#' | '$' | '}' | '*')
}

fn escaped_len_bytes(data: &[u8]) -> usize {
    data.chunks(BLOCK_BYTES).fold(data.len(), |len, chunk| {
        let count = |sum: u8, &byte: &u8| sum.wrapping_add(u8::from(is_reserved(byte)));
        len.saturating_add(usize::from(chunk.iter().fold(0, count)))
    })
}

impl Encoder<'_> {
    /// Writes binary data with the reserved bytes `#`, `$`, `}` and `*` escaped.
    pub fn binary(&mut self, data: &[u8]) -> &mut Self {
        // The exact length takes a look at each byte, so it is left for data that may not fit.
        let most_bytes = data.len().saturating_mul(2);
        let fits = !self.overflowed && most_bytes <= self.remaining_bytes();
        if fits || self.has_room(escaped_len_bytes(data)) {
            append(data, self.out);
        }
        self
    }

    /// Writes as much of `data` as the limit allows, escaped, and returns how many bytes of
    /// `data` that was. It never overflows: replies to `x`, `qXfer` and `vFile:pread` may be short.
    pub fn binary_prefix(&mut self, data: &[u8]) -> usize {
        let mut taken: usize = 0;
        for block in data.chunks(BLOCK_BYTES) {
            let fitting = if self.overflowed {
                &[]
            } else {
                fitting_prefix(block, self.remaining_bytes())
            };
            append(fitting, self.out);
            taken = taken.saturating_add(fitting.len());
            if fitting.len() < block.len() {
                break;
            }
        }
        taken
    }
}

/// Returns as much of `data` as takes at most `room` bytes when it is escaped.
fn fitting_prefix(data: &[u8], room: usize) -> &[u8] {
    if data.len().saturating_mul(2) <= room {
        return data;
    }
    let mut used: usize = 0;
    let fitting = data.iter().take_while(|&&byte| {
        used = used.saturating_add(if is_reserved(byte) { 2 } else { 1 });
        used <= room
    });
    data.get(..fitting.count()).unwrap_or_default()
}

/// Appends `data`, escaped, to `out`.
///
/// A chunk is copied whole and then cut at its first reserved byte, if it has one: copies of a
/// fixed length cost least.
fn append(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len().saturating_add(data.len() / CHUNK_BYTES));
    let mut rest = data;
    while let Some((chunk, behind)) = rest.split_first_chunk::<CHUNK_BYTES>() {
        out.extend_from_slice(chunk);
        let none = |found, &byte: &u8| found | is_reserved(byte);
        if !chunk.iter().fold(false, none) {
            rest = behind;
            continue;
        }
        let plain = first_reserved(chunk);
        out.truncate(out.len().saturating_sub(CHUNK_BYTES.saturating_sub(plain)));
        let (Some(&byte), Some(behind)) = (chunk.get(plain), rest.get(plain.saturating_add(1)..))
        else {
            return;
        };
        out.extend_from_slice(&[b'}', byte ^ 0x20]);
        rest = behind;
    }
    for &byte in rest {
        if is_reserved(byte) {
            out.extend_from_slice(&[b'}', byte ^ 0x20]);
        } else {
            out.push(byte);
        }
    }
}

/// Returns the index of the first reserved byte, or the length if there is none. All bytes are
/// compared at once: where the first one is cannot be foretold, and a loop's end would be mispredicted.
fn first_reserved(chunk: &[u8; CHUNK_BYTES]) -> usize {
    let word = u128::from_le_bytes(*chunk);
    let marks = [b'#', b'$', b'}', b'*'].map(|byte| marks_of(word, byte));
    let mark = marks.into_iter().fold(0, |all, marks| all | marks);
    usize::try_from(mark.trailing_zeros() / u8::BITS).unwrap_or(CHUNK_BYTES)
}

/// Sets the top bit of each byte of `word` that equals `byte`. Above the first of them there may be
/// more marks than that.
const fn marks_of(word: u128, byte: u8) -> u128 {
    const ONES: u128 = u128::MAX / 0xff;
    let zeroed = word ^ ONES.wrapping_mul(byte as u128);
    zeroed.wrapping_sub(ONES) & !zeroed & (ONES << 7)
}
