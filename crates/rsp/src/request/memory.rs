//! Memory packets.

use super::{ParseError, Request, fields};
use crate::hex::{self, HexBytes};

/// A search for bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search<'a> {
    /// Where the range starts.
    pub address: u64,
    /// How long the range is; any value.
    pub len_bytes: u64,
    /// The bytes to find. Not empty.
    pub pattern: &'a [u8],
}

/// ```text
/// m addr,len
/// ```
pub(super) fn read(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (address, len_bytes) = range(rest)?;
    Ok(Request::ReadMemory { address, len_bytes })
}

/// ```text
/// x addr,len
/// ```
pub(super) fn read_binary(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (address, len_bytes) = range(rest)?;
    Ok(Request::ReadMemoryBinary { address, len_bytes })
}

/// ```text
/// M addr,len:XX…
///        │   └ two digits per byte
///        └ in bytes, not in digits
/// ```
pub(super) fn write(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (head, digits) = fields::split(rest, b':')?;
    let (address, len_bytes) = range(head)?;
    let data = HexBytes::parse(digits)?;
    fields::same_length(len_bytes, data.len_bytes())?;
    Ok(Request::WriteMemory { address, data })
}

/// ```text
/// X addr,len:…
///        │   └ binary, its escapes resolved by the deframer
///        └ in bytes after that
/// ```
pub(super) fn write_binary(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (head, data) = fields::split(rest, b':')?;
    let (address, len_bytes) = range(head)?;
    fields::same_length(len_bytes, data.len())?;
    Ok(Request::WriteMemoryBinary { address, data })
}

/// ```text
/// qCRC:addr,len
///      └ rest
/// ```
pub(super) fn crc(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (address, len_bytes) = range(rest)?;
    Ok(Request::Crc { address, len_bytes })
}

/// ```text
/// qSearch:memory:addr;len;…
///         │               └ binary pattern
///         └ rest
/// ```
pub(super) fn search(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    // `memory` is the only kind of search there is.
    let Some(rest) = rest.strip_prefix(b"memory:") else {
        return Ok(Request::Unknown);
    };
    let (address, rest) = fields::split(rest, b';')?;
    let (len, pattern) = fields::split(rest, b';')?;
    let (address, len_bytes) = (hex::parse_u64(address)?, hex::parse_u64(len)?);
    if pattern.is_empty() {
        return Err(ParseError::MissingField);
    }
    Ok(Request::SearchMemory(Search {
        address,
        len_bytes,
        pattern,
    }))
}

fn range(bytes: &[u8]) -> Result<(u64, u64), ParseError> {
    let (address, len) = fields::split(bytes, b',')?;
    Ok((hex::parse_u64(address)?, hex::parse_u64(len)?))
}
