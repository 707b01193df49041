//! Run-length encoding of a finished body, in place.
//!
//! ```text
//! 0 0 0 0 0 0 0 0   →   0 * "        count byte = repeats after the first + 29 = 5 + 29
//!                       0 0          the two left over: 7 and 6 would be `$` and `#`
//! ```
//! A run takes three bytes and replaces four or more, so the body never grows.
//!
//! The second byte of an escape never starts a run: GDB repeats the byte as sent and LLDB the byte
//! it stands for. Source: GDB manual, "Overview" (of the protocol), on run-length encoding.

use alloc::vec::Vec;
use core::cell::Cell;

/// Fewer repeats cost more than they save.
const MIN_REPEATS: usize = 3;
/// The count byte has to be printable: 97 + 29 is `~`.
const MAX_REPEATS: usize = 97;
const BIAS: usize = 29;

/// Shortens `out` from `start` to its end.
pub(super) fn shorten(out: &mut Vec<u8>, start: usize) {
    let body = out.get_mut(start..).unwrap_or_default();
    let cells = Cell::from_mut(body).as_slice_of_cells();
    let mut to = cells.iter();
    let mut written: usize = 0;
    let mut put = |byte: u8| {
        if let Some(cell) = to.next() {
            cell.set(byte);
            written = written.wrapping_add(1);
        }
    };
    // Reading is never behind writing, so what is read was not yet overwritten.
    let mut from = cells;
    while let Some((first, rest)) = from.split_first() {
        let byte = first.get();
        from = rest;
        put(byte);
        if byte == b'}' {
            if let Some((escaped, rest)) = from.split_first() {
                put(escaped.get());
                from = rest;
            }
            continue;
        }
        let repeats = from
            .iter()
            .take(MAX_REPEATS)
            .take_while(|cell| cell.get() == byte)
            .count();
        let repeats = encodable(repeats);
        if repeats >= MIN_REPEATS {
            from = from.get(repeats..).unwrap_or_default();
            put(b'*');
            put(u8::try_from(repeats.saturating_add(BIAS)).unwrap_or(b'~'));
        }
    }
    out.truncate(start.saturating_add(written));
}

/// Returns the next lower count whose byte is none of `#`, `$`, `+` and `-`. The manual forbids the
/// first two; readers of older editions mistake the others for acknowledgements.
const fn encodable(repeats: usize) -> usize {
    match repeats {
        6 | 7 => 5,
        14 => 13,
        16 => 15,
        other => other,
    }
}
