//! Binary data in a body.
//!
//! ```text
//! #  →  } 03h      $  →  } 04h      }  →  } ]      *  →  } 0Ah      all others as they are
//! ```
//! Source: GDB manual, "Overview" (of the protocol), on binary data.

use alloc::vec::Vec;

use super::Encoder;

/// How much is looked at at once: a bit of a word for each byte.
const BLOCK_BYTES: usize = 64;
/// How much room is made, and held against the limit, at once.
const PIECE_BYTES: usize = 2048;
/// How many reserved bytes are counted in a `u8` before it could wrap.
const COUNT_BYTES: usize = 128;

/// A one in the lowest bit of each byte.
const ONES: u64 = u64::MAX / 0xff;

/// Compares without a branch, so that a compiler compares many by vector instructions.
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
        // The exact length takes a look at each byte, so it is left for data that may not fit.
        let most_bytes = data.len().saturating_mul(2);
        let fits = !self.overflowed && most_bytes <= self.remaining_bytes();
        if fits || self.has_room(escaped_len_bytes(data)) {
            data.chunks(PIECE_BYTES)
                .for_each(|piece| append(piece, self.out));
        }
        self
    }

    /// Writes as much of `data` as the limit allows, escaped, and returns how many bytes of
    /// `data` that was. It never overflows: replies to `x`, `qXfer` and `vFile:pread` may be short.
    pub fn binary_prefix(&mut self, data: &[u8]) -> usize {
        let mut taken: usize = 0;
        for piece in data.chunks(PIECE_BYTES) {
            let fitting = if self.overflowed {
                &[]
            } else {
                fitting_prefix(piece, self.remaining_bytes())
            };
            append(fitting, self.out);
            taken = taken.saturating_add(fitting.len());
            if fitting.len() < piece.len() {
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
fn append(data: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    // A copy of a whole block may reach that far behind what is written.
    let most_bytes = data.len().saturating_mul(2).saturating_add(BLOCK_BYTES);
    out.resize(start.saturating_add(most_bytes), 0);
    let unused_bytes = escape(data, out.get_mut(start..).unwrap_or_default());
    out.truncate(out.len().saturating_sub(unused_bytes));
}

/// Writes `data`, escaped, to `to`, which has a block to spare, and returns how much of `to` is left.
fn escape(data: &[u8], mut to: &mut [u8]) -> usize {
    let mut rest = data;
    // Twice a block, so that there is a block at any of its bytes.
    while let (Some(window), Some(block)) = (
        rest.first_chunk::<{ 2 * BLOCK_BYTES }>(),
        rest.first_chunk::<BLOCK_BYTES>(),
    ) {
        let marks = marks(block);
        to = if marks.iter().all(|word| *word == 0) {
            put_block(block, 0, BLOCK_BYTES, to)
        } else {
            escape_block(window, gathered(&marks), to)
        };
        rest = rest.get(BLOCK_BYTES..).unwrap_or_default();
    }
    for &byte in rest {
        to = put_byte(byte, to);
    }
    to.len()
}

/// Writes the first block of `window`, of which the bytes of `reserved` are reserved. Where those
/// are cannot be foretold, so what is between them is copied by a fixed length.
fn escape_block<'to>(
    window: &[u8; 2 * BLOCK_BYTES],
    mut reserved: u64,
    mut to: &'to mut [u8],
) -> &'to mut [u8] {
    let mut done: usize = 0;
    while reserved != 0 {
        let next = usize::try_from(reserved.trailing_zeros()).unwrap_or(0);
        reserved &= reserved.wrapping_sub(1);
        to = put_block(window, done, next.saturating_sub(done), to);
        to = put_byte(window.get(next).copied().unwrap_or_default(), to);
        done = next.saturating_add(1);
    }
    put_block(window, done, BLOCK_BYTES.saturating_sub(done), to)
}

/// Copies a block from `start` on, of which `len` bytes count.
fn put_block<'to>(from: &[u8], start: usize, len: usize, to: &'to mut [u8]) -> &'to mut [u8] {
    let block = from
        .get(start..)
        .and_then(|from| from.first_chunk::<BLOCK_BYTES>());
    if let (Some(to), Some(block)) = (to.first_chunk_mut(), block) {
        *to = *block;
    }
    to.get_mut(len..).unwrap_or_default()
}

fn put_byte(byte: u8, to: &mut [u8]) -> &mut [u8] {
    let is_reserved = u8::from(is_reserved(byte));
    if let Some(to) = to.first_chunk_mut() {
        *to = if is_reserved == 0 {
            [byte, 0]
        } else {
            [b'}', byte ^ 0x20]
        };
    }
    let len = usize::from(is_reserved).saturating_add(1);
    to.get_mut(len..).unwrap_or_default()
}

/// Sets the top bit of each byte that is reserved.
fn marks(block: &[u8; BLOCK_BYTES]) -> [u64; BLOCK_BYTES / 8] {
    let mut marks = [0; BLOCK_BYTES / 8];
    let (words, _) = block.as_chunks();
    for (marks, word) in marks.iter_mut().zip(words) {
        let word = u64::from_le_bytes(*word);
        let others = differing(word, b'#')
            & differing(word, b'$')
            & differing(word, b'}')
            & differing(word, b'*');
        *marks = !others & (ONES << 7);
    }
    marks
}

/// Sets the top bit of each byte of `word` that is not `byte`. No carry leaves a byte.
const fn differing(word: u64, byte: u8) -> u64 {
    const LOW_BITS: u64 = ONES.wrapping_mul(0x7f);
    let difference = word ^ ONES.wrapping_mul(byte as u64);
    (difference & LOW_BITS).wrapping_add(LOW_BITS) | difference
}

/// Gathers the top bits of all bytes, that of the first byte lowest.
fn gathered(marks: &[u64; BLOCK_BYTES / 8]) -> u64 {
    /// Brings the lowest bit of byte n to bit 56 + n.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let bytes = marks.map(|word| (word >> 7).wrapping_mul(GATHER) >> 56);
    let bits = bytes.iter().rev();
    bits.fold(0, |bits, byte| (bits << 8) | byte)
}
