//! Cutting a packet into fields.

use super::ParseError;

/// A named packet, cut at the first separator.
///
/// ```text
/// q S u p p o r t e d : s w b r e a k + ; …        v C o n t ?
/// └─ name ──────────┘ │ └─ rest ─────────          └─ name ──┘  no separator
///                     └ separator: one of  : , ;
/// ```
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) name: &'a [u8],
    pub(super) separator: Option<u8>,
    pub(super) rest: &'a [u8],
    pub(super) whole: &'a [u8],
}

impl<'a> Named<'a> {
    pub(super) fn split(whole: &'a [u8]) -> Self {
        let end = whole
            .iter()
            .position(|byte| matches!(byte, b':' | b',' | b';'));
        let (name, tail) = whole
            .split_at_checked(end.unwrap_or(whole.len()))
            .unwrap_or_default();
        let (separator, rest) = match tail.split_first() {
            Some((&separator, rest)) => (Some(separator), rest),
            None => (None, tail),
        };
        Self {
            name,
            separator,
            rest,
            whole,
        }
    }
}

/// Cuts at the first `separator`; both sides are without it.
pub(super) fn split(bytes: &[u8], separator: u8) -> Result<(&[u8], &[u8]), ParseError> {
    split_optional(bytes, separator).ok_or(ParseError::MissingField)
}

/// Cuts at the first `separator`, if there is one.
pub(super) fn split_optional(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == separator)?;
    let (head, tail) = bytes.split_at_checked(at)?;
    Some((head, tail.get(1..)?))
}

/// Requires that nothing is left.
pub(super) const fn end(rest: &[u8]) -> Result<(), ParseError> {
    if rest.is_empty() {
        Ok(())
    } else {
        Err(ParseError::TrailingBytes)
    }
}

/// Reads UTF-8 text.
pub(super) fn text(bytes: &[u8]) -> Result<&str, ParseError> {
    str::from_utf8(bytes).map_err(|_| ParseError::NotText)
}

/// Requires that a count in a packet is the number of bytes that follow.
pub(super) fn same_length(declared_bytes: u64, actual_bytes: usize) -> Result<(), ParseError> {
    // A slice's length always fits.
    let actual_bytes = u64::try_from(actual_bytes).unwrap_or(u64::MAX);
    if declared_bytes == actual_bytes {
        Ok(())
    } else {
        Err(ParseError::LengthMismatch {
            declared_bytes,
            actual_bytes,
        })
    }
}
