//! What only a client needs: whole requests from their bodies, and stop replies.

use alloc::vec::Vec;

use crate::encoder::checksum;
use crate::hex::{self, HexBytes};
use crate::request::ParseError;

mod stop_reply;

pub use stop_reply::{Pairs, StopReply};

/// Appends `$payload#cs` to `out`. The payload is sent as it is, so binary data in it must be
/// escaped already ([`crate::Encoder`] does that).
pub fn encode_packet(payload: &[u8], out: &mut Vec<u8>) {
    out.push(b'$');
    out.extend_from_slice(payload);
    out.push(b'#');
    out.extend_from_slice(&hex::pair(checksum(payload)));
}

/// Returns the bytes that a reply's hex digits stand for.
///
/// # Errors
/// [`ParseError::NotHex`] and [`ParseError::OddDigits`]; a reply to `g` may hold `x` digits for
/// registers without a value, which are not hex.
pub fn decode_hex(digits: &[u8]) -> Result<Vec<u8>, ParseError> {
    HexBytes::parse(digits).map(HexBytes::to_vec)
}
