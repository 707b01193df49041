//! Thread ids as packets write them.
//!
//! ```text
//! 2        p1.2       p1          -1          0
//! │        │ │        │           │           └ any one thread
//! │        │ └ thread └ process,  └ all threads
//! │        └ process    all its threads
//! └ thread, hexadecimal
//! ```
//!
//! The `p` form belongs to the `multiprocess` feature; it is accepted always and written only when
//! a [`ThreadSpec`] has a process. Source: GDB manual, "Packets", thread-id syntax.

use core::fmt;
use core::num::NonZeroU32;

use crate::hex;
use crate::request::ParseError;

/// One thread, or one of the two ids that stand for a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ThreadId {
    /// Every thread, written `-1`.
    All,
    /// Any one thread, the receiver's choice, written `0`.
    Any,
    /// This thread; ids count from 1.
    Id(NonZeroU32),
}

/// One process, or one of the two ids that stand for a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProcessId {
    /// Every process, written `-1`.
    All,
    /// Any one process, written `0`.
    Any,
    /// This process; ids count from 1.
    Id(NonZeroU32),
}

/// A thread id as a packet carries it: a thread and, with `multiprocess`, its process.
///
/// `Display` writes the wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadSpec {
    /// The process named before the dot, if one was.
    pub process: Option<ProcessId>,
    /// The thread. `p1` alone means all threads of the process.
    pub thread: ThreadId,
}

impl ThreadId {
    /// Returns the id for `number`, where 0 is [`ThreadId::Any`].
    #[must_use]
    pub const fn new(number: u32) -> Self {
        match NonZeroU32::new(number) {
            Some(id) => Self::Id(id),
            None => Self::Any,
        }
    }

    /// Reads a thread id without a process.
    ///
    /// # Errors
    /// [`ParseError::BadThreadId`] for anything but `-1` or a hex number of at most 32 bits.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        if text == b"-1" {
            return Ok(Self::All);
        }
        hex::parse_u32(text)
            .map(Self::new)
            .map_err(|_| ParseError::BadThreadId)
    }
}

impl ProcessId {
    /// Returns the id for `number`, where 0 is [`ProcessId::Any`].
    #[must_use]
    pub const fn new(number: u32) -> Self {
        match NonZeroU32::new(number) {
            Some(id) => Self::Id(id),
            None => Self::Any,
        }
    }

    /// Reads a process id: `-1` or a hex number of at most 32 bits.
    ///
    /// # Errors
    /// [`ParseError::BadThreadId`] for anything else.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        if text == b"-1" {
            return Ok(Self::All);
        }
        hex::parse_u32(text)
            .map(Self::new)
            .map_err(|_| ParseError::BadThreadId)
    }
}

impl ThreadSpec {
    /// Returns the id of a thread without a process.
    #[must_use]
    pub const fn thread(thread: ThreadId) -> Self {
        Self {
            process: None,
            thread,
        }
    }

    /// Returns the id of a thread of a process, for a session that uses `multiprocess`.
    #[must_use]
    pub const fn with_process(process: ProcessId, thread: ThreadId) -> Self {
        Self {
            process: Some(process),
            thread,
        }
    }

    /// Reads a thread id in either form.
    ///
    /// # Errors
    /// [`ParseError::BadThreadId`] for anything else, also for a thread of all processes other
    /// than all of them, which the manual excludes.
    pub fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let Some(text) = text.strip_prefix(b"p") else {
            return ThreadId::parse(text).map(Self::thread);
        };
        let mut parts = text.splitn(2, |&byte| byte == b'.');
        let process = ProcessId::parse(parts.next().unwrap_or_default())?;
        let thread = parts.next().map_or(Ok(ThreadId::All), ThreadId::parse)?;
        if process == ProcessId::All && thread != ThreadId::All {
            return Err(ParseError::BadThreadId);
        }
        Ok(Self::with_process(process, thread))
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("-1"),
            Self::Any => f.write_str("0"),
            Self::Id(id) => write!(f, "{id:x}"),
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("-1"),
            Self::Any => f.write_str("0"),
            Self::Id(id) => write!(f, "{id:x}"),
        }
    }
}

impl fmt::Display for ThreadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = self.process {
            write!(f, "p{process}.")?;
        }
        self.thread.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{ProcessId, ThreadId, ThreadSpec};
    use crate::request::ParseError;
    use alloc::string::ToString;

    #[test]
    fn every_form_round_trips() {
        for text in [
            "0", "-1", "1", "2a", "ffffffff", "p1.2", "p0.0", "p1.-1", "p-1.-1", "p1.0",
        ] {
            let spec = ThreadSpec::parse(text.as_bytes()).unwrap();
            assert_eq!(spec.to_string(), text);
        }
    }

    #[test]
    fn leading_zeros_are_read_and_not_written() {
        assert_eq!(ThreadSpec::parse(b"0001").unwrap().to_string(), "1");
    }

    #[test]
    fn a_process_alone_means_all_its_threads() {
        let spec = ThreadSpec::parse(b"p3").unwrap();
        assert_eq!(
            spec,
            ThreadSpec::with_process(ProcessId::new(3), ThreadId::All)
        );
    }

    #[test]
    fn malformed_ids_are_refused() {
        let texts: [&[u8]; 12] = [
            b"",
            b"-",
            b"-2",
            b"p",
            b"p.1",
            b"p1.",
            b"p1.2.3",
            b"100000000",
            b"g",
            b"1 ",
            b"p-1.1",
            b"+1",
        ];
        for text in texts {
            assert_eq!(
                ThreadSpec::parse(text),
                Err(ParseError::BadThreadId),
                "{text:?}"
            );
        }
    }
}
