//! Binary data in a body.
//!
//! ```text
//! #  →  } 03h      $  →  } 04h      }  →  } ]      *  →  } 0Ah      all others as they are
//! ```
//! Source: GDB manual, "Overview" (of the protocol), on binary data.

use alloc::vec::Vec;

use wide::u8x16;

use super::Encoder;

/// How much is looked at at once: a bit of a word for each byte.
const BLOCK_BYTES: usize = 64;
/// The same, for places.
const BLOCK_STEP: u32 = 64;
/// How much is escaped, and held against the limit, at once.
const PIECE_BYTES: usize = 1024;
/// How many reserved bytes of a block are noted without asking whether there are so many: in bytes
/// without a pattern, there is one in a block.
const AT_ONCE: usize = 4;
/// How many reserved bytes are counted in a `u8` before it could wrap.
const COUNT_BYTES: usize = 128;

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
            append(data, self.out);
        }
        self
    }

    /// Writes as much of `data` as the limit allows, escaped, and returns how many bytes of
    /// `data` that was. It never overflows: replies to `x`, `qXfer` and `vFile:pread` may be short.
    pub fn binary_prefix(&mut self, data: &[u8]) -> usize {
        if !self.overflowed && data.len().saturating_mul(2) <= self.remaining_bytes() {
            append(data, self.out);
            return data.len();
        }
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
    if data.len() < BLOCK_BYTES {
        append_short(data, out);
        return;
    }
    let mut reserved = Reserved::new();
    for piece in data.chunks(PIECE_BYTES) {
        reserved.find(piece);
        append_piece(piece, reserved.places(), out);
    }
}

/// Appends what is not worth a look at many bytes at once.
fn append_short(data: &[u8], out: &mut Vec<u8>) {
    if !data.iter().copied().any(is_reserved) {
        out.extend_from_slice(data);
        return;
    }
    for &byte in data {
        if is_reserved(byte) {
            out.extend_from_slice(&[b'}', byte ^ 0x20]);
        } else {
            out.push(byte);
        }
    }
}

/// Appends a piece of which the bytes at `places` are reserved. Where those are cannot be foretold,
/// so what is between them is copied by a fixed length if it is short.
fn append_piece(piece: &[u8], places: &[u32], out: &mut Vec<u8>) {
    if places.is_empty() {
        out.extend_from_slice(piece);
        return;
    }
    let start = out.len();
    let end = start
        .saturating_add(piece.len())
        .saturating_add(places.len());
    // A copy of a fixed length may reach that far behind what is written.
    out.resize(end.saturating_add(BLOCK_BYTES), 0);
    let to = out.get_mut(start..).unwrap_or_default();
    let (mut from, mut at): (usize, usize) = (0, 0);
    for &place in places {
        let place = place as usize;
        let len = place.saturating_sub(from);
        copy(piece, from, len, to, at);
        at = at.saturating_add(len);
        let byte = piece.get(place).copied().unwrap_or_default();
        if let Some(to) = to.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *to = [b'}', byte ^ 0x20];
        }
        at = at.saturating_add(2);
        from = place.saturating_add(1);
    }
    copy(piece, from, piece.len().saturating_sub(from), to, at);
    out.truncate(end);
}

/// Copies `len` bytes, and bytes without meaning up to a block where there is room for them.
#[inline]
fn copy(piece: &[u8], from: usize, len: usize, to: &mut [u8], at: usize) {
    let from = piece.get(from..).unwrap_or_default();
    let to = to.get_mut(at..).unwrap_or_default();
    if len <= BLOCK_BYTES
        && let Some(from) = from.first_chunk::<BLOCK_BYTES>()
        && let Some(to) = to.first_chunk_mut::<BLOCK_BYTES>()
    {
        *to = *from;
    } else if let Some((from, to)) = from.get(..len).zip(to.get_mut(..len)) {
        to.copy_from_slice(from);
    }
}

/// The places of a piece's reserved bytes.
struct Reserved {
    places: [u32; PIECE_BYTES + AT_ONCE],
    count: usize,
}

impl Reserved {
    const fn new() -> Self {
        Self {
            places: [0; PIECE_BYTES + AT_ONCE],
            count: 0,
        }
    }

    fn places(&self) -> &[u32] {
        self.places.get(..self.count).unwrap_or_default()
    }

    /// Finds the reserved bytes of a piece.
    fn find(&mut self, piece: &[u8]) {
        self.count = 0;
        let (blocks, rest) = piece.as_chunks();
        let mut start: u32 = 0;
        for block in blocks {
            let bits = reserved_bits(block);
            if bits != 0 {
                self.note(start, bits);
            }
            start = start.wrapping_add(BLOCK_STEP);
        }
        for (place, &byte) in (start..).zip(rest) {
            if is_reserved(byte) {
                self.note(place, 1);
            }
        }
    }

    /// Notes the places of the bits of `bits`, counted from `start`.
    #[inline]
    fn note(&mut self, start: u32, mut bits: u64) {
        let end = self.count.saturating_add(bits.count_ones() as usize);
        let mut next = || {
            let place = start.wrapping_add(bits.trailing_zeros());
            bits &= bits.wrapping_sub(1);
            place
        };
        let free = self.places.get_mut(self.count..);
        if let Some(places) = free.and_then(<[u32]>::first_chunk_mut::<AT_ONCE>) {
            for place in places {
                *place = next();
            }
        }
        let mut more = self.count.saturating_add(AT_ONCE);
        while more < end {
            if let Some(place) = self.places.get_mut(more) {
                *place = next();
            }
            more = more.saturating_add(1);
        }
        self.count = end;
    }
}

/// Returns a bit for each byte, the first byte's lowest: whether it is reserved.
fn reserved_bits(block: &[u8; BLOCK_BYTES]) -> u64 {
    let (lanes, _) = block.as_chunks();
    lanes.iter().rev().fold(0, |bits, lane| {
        let lane = u8x16::new(*lane);
        let is = |byte| lane.simd_eq(u8x16::splat(byte));
        let reserved = is(b'#') | is(b'$') | is(b'}') | is(b'*');
        (bits << 16) | u64::from(reserved.to_bitmask())
    })
}
