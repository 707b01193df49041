//! The inside of a packet: plain bytes, escapes, runs, and which bytes are data.

use super::{Deframer, Direction, Found, INTERRUPT, Kind, State};

/// The separators of a binary packet's head end within this many bytes, or it has no data.
///
/// It bounds the work per byte. The longest head in use is that of `qXfer:…:write`, with a file
/// name or thread id as annex.
const MAX_HEAD_BYTES: usize = 1024;

/// How much is compared at once.
const CHUNK_BYTES: usize = 16;

/// A run repeats its byte as often as its count byte's value less this.
const RUN_BIAS: u8 = 29;

impl Deframer {
    /// Takes bytes that stand for themselves, many at a time.
    pub(super) fn take_plain(&mut self, input: &mut &[u8]) {
        let plain_len = plain_len_bytes(input);
        let Some((plain, rest)) = input.split_at_checked(plain_len) else {
            return;
        };
        *input = rest;
        self.sum = plain
            .iter()
            .fold(self.sum, |sum, &byte| sum.wrapping_add(byte));
        self.last_raw = plain.last().copied().or(self.last_raw);
        self.append(plain);
    }

    /// Takes a byte that [`Self::take_plain`] left.
    pub(super) fn in_body(&mut self, byte: u8) -> Option<Found> {
        match byte {
            b'#' => {
                self.state = State::Checksum;
                return None;
            }
            b'}' => {
                self.count(byte);
                self.state = State::Escape;
                return None;
            }
            _ => {}
        }
        match (byte, self.at_data()) {
            // The other side gave up on the packet before and started again.
            (b'$', false) => self.start(Kind::Packet),
            (b'*', false) => {
                self.sum = self.sum.wrapping_add(byte);
                self.state = State::Run;
            }
            (INTERRUPT, false) if self.direction == Direction::Requests => {
                return Some(Found::Interrupt);
            }
            _ => {
                self.count(byte);
                self.append(&[byte]);
            }
        }
        None
    }

    /// Takes the second byte of an escape. Whatever it is, save the end mark, it is data.
    pub(super) fn after_escape(&mut self, byte: u8) -> Option<Found> {
        self.state = State::Body;
        if byte == b'#' {
            self.state = State::Checksum;
            return None;
        }
        self.count(byte);
        self.append(&[byte ^ 0x20]);
        None
    }

    /// Takes the count of a run.
    ///
    /// A `*` that starts no possible run is kept as it is: the packet then reaches a parser, which
    /// refuses it, instead of being lost without an answer.
    pub(super) fn after_star(&mut self, byte: u8) -> Option<Found> {
        self.state = State::Body;
        match (self.last_raw, byte) {
            (Some(repeated), b' '..=b'~') if !matches!(byte, b'#' | b'$') => {
                self.sum = self.sum.wrapping_add(byte);
                self.append_run(repeated, byte.wrapping_sub(RUN_BIAS));
                None
            }
            _ => {
                self.last_raw = Some(b'*');
                self.append(b"*");
                self.resume_body(byte)
            }
        }
    }

    fn resume_body(&mut self, byte: u8) -> Option<Found> {
        if is_special(byte) {
            return self.in_body(byte);
        }
        self.count(byte);
        self.append(&[byte]);
        None
    }

    fn count(&mut self, byte: u8) {
        self.sum = self.sum.wrapping_add(byte);
        self.last_raw = Some(byte);
    }

    fn append_run(&mut self, repeated: u8, count: u8) {
        let run = [repeated; 97];
        self.append(run.get(..usize::from(count)).unwrap_or_default());
    }

    /// Appends resolved bytes as far as the limit allows.
    fn append(&mut self, bytes: &[u8]) {
        let room = self.max_packet_bytes.saturating_sub(self.body.len());
        self.oversize |= bytes.len() > room;
        self.body
            .extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Tells whether the next byte is data, in which only `#` and `}` have a meaning.
    fn at_data(&self) -> bool {
        match self.direction {
            Direction::Requests => is_in_data(&self.body),
            // Any reply may be binary, but its raw `$` and `*` are always escaped.
            Direction::Replies => false,
        }
    }
}

/// Returns the length of the longest front of `bytes` without a byte of a special meaning.
fn plain_len_bytes(bytes: &[u8]) -> usize {
    let (chunks, _) = bytes.as_chunks::<CHUNK_BYTES>();
    let all_plain = |chunk: &&[u8; CHUNK_BYTES]| {
        !chunk
            .iter()
            .fold(false, |found, &byte| found | is_special(byte))
    };
    let front = chunks
        .iter()
        .take_while(all_plain)
        .count()
        .saturating_mul(CHUNK_BYTES);
    let rest = bytes.get(front..).unwrap_or_default();
    let in_rest = rest
        .iter()
        .position(|&byte| is_special(byte))
        .unwrap_or(rest.len());
    front.saturating_add(in_rest)
}

/// Compares without a branch, so that a compiler compares a whole chunk by vector instructions.
const fn is_special(byte: u8) -> bool {
    (byte == b'#') | (byte == b'$') | (byte == b'}') | (byte == b'*') | (byte == INTERRUPT)
}

/// Tells whether a request that begins with `body` goes on with binary data.
///
/// ```text
/// X addr,len:data           vFile:pwrite:fd,offset,data     qSearch:memory:addr;len;data
/// vFlashWrite:addr:data     qXfer:object:write:annex:offset:data
/// ```
fn is_in_data(body: &[u8]) -> bool {
    let head = body.get(..MAX_HEAD_BYTES).unwrap_or(body);
    let has = |rest: &[u8], separator: u8, count: usize| {
        rest.iter()
            .filter(|&&byte| byte == separator)
            .nth(count.saturating_sub(1))
            .is_some()
    };
    if let Some(rest) = head.strip_prefix(b"X") {
        return has(rest, b':', 1);
    }
    if let Some(rest) = head.strip_prefix(b"vFile:pwrite:") {
        return has(rest, b',', 2);
    }
    if let Some(rest) = head.strip_prefix(b"qSearch:memory:") {
        return has(rest, b';', 2);
    }
    if let Some(rest) = head.strip_prefix(b"vFlashWrite:") {
        return has(rest, b':', 1);
    }
    let Some(rest) = head.strip_prefix(b"qXfer:") else {
        return false;
    };
    rest.split(|&byte| byte == b':').nth(1) == Some(b"write") && has(rest, b':', 4)
}
