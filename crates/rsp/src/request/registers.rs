//! Register packets, with LLDB's thread suffix.

use super::{ParseError, Request, fields};
use crate::hex::{self, HexBytes};
use crate::thread_id::ThreadSpec;

/// ```text
/// g [;thread:tid;]
/// ```
pub(super) fn read_all(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (body, thread) = split_suffix(rest)?;
    fields::end(body)?;
    Ok(Request::ReadRegisters { thread })
}

/// ```text
/// G XX… [;thread:tid;]
///   └ hex bytes in the order of `g`
/// ```
pub(super) fn write_all(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (body, thread) = split_suffix(rest)?;
    Ok(Request::WriteRegisters {
        data: HexBytes::parse(body)?,
        thread,
    })
}

/// ```text
/// p n [;thread:tid;]
///   └ register number, hex
/// ```
pub(super) fn read_one(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (body, thread) = split_suffix(rest)?;
    Ok(Request::ReadRegister {
        number: hex::parse_u32(body)?,
        thread,
    })
}

/// ```text
/// P n=XX… [;thread:tid;]
///   │ └ hex bytes, target order
///   └ register number, hex
/// ```
pub(super) fn write_one(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (body, thread) = split_suffix(rest)?;
    let (number, value) = fields::split(body, b'=')?;
    let value = HexBytes::parse(value)?;
    if value.is_empty() {
        return Err(ParseError::MissingField);
    }
    Ok(Request::WriteRegister {
        number: hex::parse_u32(number)?,
        value,
        thread,
    })
}

/// ```text
/// QSaveRegisterState [;thread:tid;]
///                      └ rest
/// ```
pub(super) fn save(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    Ok(Request::SaveRegisters {
        thread: suffix(rest)?,
    })
}

/// ```text
/// QRestoreRegisterState:id [;thread:tid;]
///                       └ decimal, as the reply to the save was
/// ```
pub(super) fn restore(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (id, thread) = split_suffix(rest)?;
    Ok(Request::RestoreRegisters {
        id: super::lldb::decimal(id)?,
        thread,
    })
}

fn split_suffix(rest: &[u8]) -> Result<(&[u8], Option<ThreadSpec>), ParseError> {
    match fields::split_optional(rest, b';') {
        Some((body, tail)) => Ok((body, suffix(tail)?)),
        None => Ok((rest, None)),
    }
}

/// Reads `thread:tid;`, or nothing, as a lone `;` at the packet's end leaves.
fn suffix(tail: &[u8]) -> Result<Option<ThreadSpec>, ParseError> {
    if tail.is_empty() {
        return Ok(None);
    }
    let thread = tail
        .strip_prefix(b"thread:")
        .ok_or(ParseError::TrailingBytes)?;
    let thread = thread.strip_suffix(b";").unwrap_or(thread);
    ThreadSpec::parse(thread).map(Some)
}
