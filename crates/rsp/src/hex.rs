//! Hexadecimal, the protocol's only way to write numbers and most of its bytes.
//!
//! Reading is strict: a byte that is no hex digit is an error and never counts as a digit, and a
//! number that does not fit is an error and never wraps. Writing is built for bulk memory reads.

use alloc::vec::Vec;

use crate::request::ParseError;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Both lower-case digits of every byte value.
const PAIRS: [[u8; 2]; 256] = pairs();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "runs at compile time, where a fault is a build error"
)]
const fn pairs() -> [[u8; 2]; 256] {
    let mut table = [[0; 2]; 256];
    let mut value = 0;
    while value < table.len() {
        table[value] = [DIGITS[value >> 4], DIGITS[value & 15]];
        value += 1;
    }
    table
}

/// Returns the two lower-case hex digits of `byte`, high nibble first.
#[must_use]
pub fn pair(byte: u8) -> [u8; 2] {
    // The index cannot be out of range; `get` says so to the lints and costs nothing.
    PAIRS.get(usize::from(byte)).copied().unwrap_or([b'0'; 2])
}

/// Appends `bytes` to `out` as lower-case hex digits, two per byte.
pub fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start.saturating_add(bytes.len().saturating_mul(2)), 0);
    let (digits, _) = out
        .get_mut(start..)
        .unwrap_or_default()
        .as_chunks_mut::<2>();
    for (digits, &byte) in digits.iter_mut().zip(bytes) {
        *digits = computed_pair(byte);
    }
}

/// Does what [`pair`] does by arithmetic on both digits at once, which a compiler turns into vector
/// instructions where many bytes are converted; a look into a table it cannot.
const fn computed_pair(byte: u8) -> [u8; 2] {
    /// What adds to a digit's value to carry into bit 4 from ten on.
    const CARRY: u16 = 0x0606;
    /// From the character after `9` to `a`.
    const GAP: u16 = 0x27;
    let byte = byte as u16;
    let values = (byte >> 4) | ((byte & 0xf) << 8);
    let is_letter = (values.wrapping_add(CARRY) >> 4) & 0x0101;
    values
        .wrapping_add(0x3030)
        .wrapping_add(is_letter.wrapping_mul(GAP))
        .to_le_bytes()
}

/// Appends `value` to `out` as hex digits without leading zeros; zero is `0`.
pub fn append_u64(value: u64, out: &mut Vec<u8>) {
    let leading = usize::try_from(value.leading_zeros() / 4).unwrap_or(0);
    let digits = value.to_be_bytes().map(pair);
    let skipped = leading.min(15);
    out.extend(digits.as_flattened().iter().skip(skipped));
}

/// Returns the value of one hex digit of either case.
#[must_use]
pub const fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(byte.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(byte.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

/// Reads a whole slice as one number, most significant digit first.
///
/// Leading zeros are allowed, since LLDB pads thread ids; a sign or a prefix is not.
///
/// # Errors
/// [`ParseError::MissingField`] for an empty slice, [`ParseError::NotHex`] for any byte that is
/// no digit, [`ParseError::NumberTooLarge`] past 64 bits.
pub fn parse_u64(digits: &[u8]) -> Result<u64, ParseError> {
    if digits.is_empty() {
        return Err(ParseError::MissingField);
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = digit(byte).ok_or(ParseError::NotHex)?;
        // The top nibble must be free before it is shifted out.
        if value >> 60 != 0 {
            return Err(ParseError::NumberTooLarge);
        }
        Ok((value << 4) | u64::from(digit))
    })
}

/// Reads a whole slice as one number of at most 32 bits.
///
/// # Errors
/// As [`parse_u64`], with [`ParseError::NumberTooLarge`] past 32 bits.
pub fn parse_u32(digits: &[u8]) -> Result<u32, ParseError> {
    u32::try_from(parse_u64(digits)?).map_err(|_| ParseError::NumberTooLarge)
}

/// Reads a whole slice as one number of at most 8 bits.
///
/// # Errors
/// As [`parse_u64`], with [`ParseError::NumberTooLarge`] past 8 bits.
pub fn parse_u8(digits: &[u8]) -> Result<u8, ParseError> {
    u8::try_from(parse_u64(digits)?).map_err(|_| ParseError::NumberTooLarge)
}

/// Bytes written as hex digits, two per byte, borrowed from a packet.
///
/// Holding one proves that every digit is valid and that their number is even.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct HexBytes<'a>(&'a [u8]);

impl<'a> HexBytes<'a> {
    /// Checks `digits` and wraps them. No digits at all is the empty byte string.
    ///
    /// # Errors
    /// [`ParseError::NotHex`] for a byte that is no digit, [`ParseError::OddDigits`] for half a
    /// byte at the end.
    pub fn parse(digits: &'a [u8]) -> Result<Self, ParseError> {
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(ParseError::NotHex);
        }
        if !digits.len().is_multiple_of(2) {
            return Err(ParseError::OddDigits);
        }
        Ok(Self(digits))
    }

    /// Returns the number of bytes, half the number of digits.
    #[must_use]
    pub const fn len_bytes(self) -> usize {
        self.0.len() / 2
    }

    /// Tells whether there are no bytes.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns the digits as they came.
    #[must_use]
    pub const fn digits(self) -> &'a [u8] {
        self.0
    }

    /// Yields the bytes in order.
    pub fn bytes(self) -> impl ExactSizeIterator<Item = u8> + Clone + 'a {
        let (pairs, _) = self.0.as_chunks::<2>();
        pairs.iter().map(|&[high, low]| {
            // Validated on construction, so the fallback value is never taken.
            (digit(high).unwrap_or(0) << 4) | digit(low).unwrap_or(0)
        })
    }

    /// Appends the bytes to `out`.
    pub fn append_to(self, out: &mut Vec<u8>) {
        out.extend(self.bytes());
    }

    /// Returns the bytes in a vector of their own.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        self.bytes().collect()
    }

    /// Reads the bytes as a little-endian number, as the register packets of a little-endian
    /// target write it. `None` past eight bytes; no bytes are zero.
    #[must_use]
    pub fn to_u64_le(self) -> Option<u64> {
        let mut value = [0; 8];
        if self.len_bytes() > value.len() {
            return None;
        }
        value
            .iter_mut()
            .zip(self.bytes())
            .for_each(|(to, from)| *to = from);
        Some(u64::from_le_bytes(value))
    }
}

impl core::fmt::Debug for HexBytes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HexBytes({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests;
