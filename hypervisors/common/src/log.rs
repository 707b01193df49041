//! What a hypervisor has said of itself, to be read long after it went to the console, or where nobody
//! sees the console.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// How much is kept, in bytes.
pub const LEN_BYTES: usize = 4096;

/// The last [`LEN_BYTES`] bytes of a text.
#[derive(Clone, Debug)]
pub struct Log {
    bytes: [u8; LEN_BYTES],
    /// Where the next byte goes.
    next: usize,
    /// What is at `next` and behind it is older than what is before it.
    has_wrapped: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    /// Makes one in which nothing was said.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; LEN_BYTES],
            next: 0,
            has_wrapped: false,
        }
    }

    /// Returns what is kept, from the first line on that is whole.
    #[must_use]
    pub fn text(&self) -> String {
        let (newer, older) = self.bytes.split_at(self.next.min(LEN_BYTES));
        let mut bytes = Vec::with_capacity(LEN_BYTES);
        if self.has_wrapped {
            bytes.extend_from_slice(older);
        }
        bytes.extend_from_slice(newer);
        let cut = bytes.iter().position(|byte| *byte == b'\n');
        let whole = match cut {
            Some(end) if self.has_wrapped => bytes.get(end + 1..).unwrap_or_default(),
            _ => &bytes,
        };
        String::from_utf8_lossy(whole).into_owned()
    }
}

impl fmt::Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.next) {
                *place = byte;
            }
            self.next += 1;
            if self.next >= LEN_BYTES {
                self.next = 0;
                self.has_wrapped = true;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::fmt::Write as _;

    use super::*;

    #[test]
    fn what_was_said_is_kept() {
        let mut log = Log::new();
        assert_eq!(log.text(), "");
        writeln!(log, "one").unwrap();
        writeln!(log, "two {}", 2).unwrap();
        assert_eq!(log.text(), "one\ntwo 2\n");
    }

    #[test]
    fn what_no_longer_fits_is_forgotten_line_by_line() {
        for last in [400, 600, 1200, 10_000] {
            let mut log = Log::new();
            for number in 0..=last {
                writeln!(log, "{number}: something").unwrap();
            }
            let text = log.text();
            let mut lines = text.lines().rev();
            for number in (0..=last).rev() {
                let Some(line) = lines.next() else { break };
                assert_eq!(line, alloc::format!("{number}: something"));
            }
            assert!(text.ends_with('\n') && text.len() <= LEN_BYTES);
            assert!(text.len() > LEN_BYTES - 32, "{}", text.len());
        }
    }

    #[test]
    fn a_line_longer_than_all_there_is_is_cut() {
        let mut log = Log::new();
        log.write_str(&"é".repeat(LEN_BYTES)).unwrap();
        assert!(log.text().contains("éé"));
        log.write_str("x\n").unwrap();
        // Nothing of it is whole.
        assert_eq!(log.text(), "");
    }
}
