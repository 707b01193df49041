//! Stop replies.
//!
//! ```text
//! S sig                         T sig key:value;key:value;…
//! W code [;process:pid]         X sig [;process:pid]
//! N                             O text-in-hex
//! ```
//! Source: GDB manual, "Stop Reply Packets".

use crate::hex::{self, HexBytes};
use crate::request::ParseError;
use crate::thread_id::{ProcessId, ThreadSpec};

/// What a running target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReply<'a> {
    /// `S`, or `T` with its pairs: the target stopped by a signal.
    Stopped {
        /// The signal, numbered as GDB does.
        signal: u8,
        /// The pairs of a `T`; none for an `S`.
        pairs: Pairs<'a>,
    },
    /// `W`: the target ended.
    Exited {
        /// Its exit code.
        code: u64,
        /// The process, with `multiprocess`.
        process: Option<ProcessId>,
    },
    /// `X`: the target was ended by a signal.
    Terminated {
        /// The signal, numbered as GDB does.
        signal: u8,
        /// The process, with `multiprocess`.
        process: Option<ProcessId>,
    },
    /// `N`: no thread is left that was resumed.
    NoResumed,
    /// `O`: text for the user; the target still runs.
    Output(HexBytes<'a>),
}

/// The `key:value;` pairs of a `T` reply, each known to have a key and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs<'a>(&'a str);

impl<'a> StopReply<'a> {
    /// Reads a reply to `?` or to a resume, or an `O` in between.
    ///
    /// # Errors
    /// [`ParseError::UnknownPacket`] for any other packet, and the cause for a malformed one.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ParseError> {
        let (&kind, rest) = payload.split_first().ok_or(ParseError::UnknownPacket)?;
        match kind {
            b'S' => Ok(Self::Stopped {
                signal: hex::parse_u8(rest)?,
                pairs: Pairs(""),
            }),
            b'T' => {
                let (signal, pairs) = rest.split_at_checked(2).ok_or(ParseError::MissingField)?;
                Ok(Self::Stopped {
                    signal: hex::parse_u8(signal)?,
                    pairs: Pairs::parse(pairs)?,
                })
            }
            b'W' => {
                let (code, process) = split_process(rest)?;
                Ok(Self::Exited {
                    code: hex::parse_u64(code)?,
                    process,
                })
            }
            b'X' => {
                let (signal, process) = split_process(rest)?;
                Ok(Self::Terminated {
                    signal: hex::parse_u8(signal)?,
                    process,
                })
            }
            b'N' if rest.is_empty() => Ok(Self::NoResumed),
            b'O' => HexBytes::parse(rest).map(Self::Output),
            _ => Err(ParseError::UnknownPacket),
        }
    }

    /// Returns the thread that a `T` reply names.
    #[must_use]
    pub fn thread(&self) -> Option<ThreadSpec> {
        self.pair("thread")
            .and_then(|value| ThreadSpec::parse(value.as_bytes()).ok())
    }

    /// Returns the value of the first pair with this key.
    #[must_use]
    pub fn pair(&self, key: &str) -> Option<&'a str> {
        let Self::Stopped { pairs, .. } = self else {
            return None;
        };
        pairs
            .iter()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    }
}

impl<'a> Pairs<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let text = str::from_utf8(bytes).map_err(|_| ParseError::NotText)?;
        let pairs = Self(text);
        let every_one_has_a_key = pairs.raw().all(|pair| !pair.starts_with(':'));
        let every_one_has_a_value = pairs.raw().all(|pair| pair.contains(':'));
        if every_one_has_a_key && every_one_has_a_value {
            Ok(pairs)
        } else {
            Err(ParseError::MissingField)
        }
    }

    fn raw(self) -> impl Iterator<Item = &'a str> {
        self.0.split(';').filter(|pair| !pair.is_empty())
    }

    /// Yields keys and values in order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.raw().filter_map(|pair| pair.split_once(':'))
    }

    /// Yields the expedited registers: every pair whose key is a number and whose value is bytes.
    pub fn registers(self) -> impl Iterator<Item = (u32, HexBytes<'a>)> {
        self.iter().filter_map(|(key, value)| {
            let number = hex::parse_u32(key.as_bytes()).ok()?;
            Some((number, HexBytes::parse(value.as_bytes()).ok()?))
        })
    }
}

fn split_process(rest: &[u8]) -> Result<(&[u8], Option<ProcessId>), ParseError> {
    let Some(end) = rest.iter().position(|&byte| byte == b';') else {
        return Ok((rest, None));
    };
    let (head, tail) = rest.split_at_checked(end).ok_or(ParseError::MissingField)?;
    // LLDB's `X` may carry `;description:` and others too; only the process matters here.
    let process = tail
        .split(|&byte| byte == b';')
        .find_map(|pair| pair.strip_prefix(b"process:"))
        .map(ProcessId::parse)
        .transpose()?;
    Ok((head, process))
}

#[cfg(test)]
mod tests {
    use super::StopReply;
    use crate::request::ParseError;
    use crate::thread_id::{ProcessId, ThreadId, ThreadSpec};
    use alloc::vec::Vec;

    #[test]
    fn a_stop_with_pairs_gives_thread_reason_and_registers() {
        let reply = StopReply::parse(b"T05thread:p1.2;watch:ffff80;10:0010;swbreak:;").unwrap();
        let thread = ThreadSpec::with_process(ProcessId::new(1), ThreadId::new(2));
        assert_eq!(reply.thread(), Some(thread));
        assert_eq!(reply.pair("watch"), Some("ffff80"));
        assert_eq!(reply.pair("swbreak"), Some(""));
        let StopReply::Stopped { signal: 5, pairs } = reply else {
            panic!("{reply:?}")
        };
        let registers: Vec<_> = pairs.registers().map(|(n, v)| (n, v.to_vec())).collect();
        assert_eq!(registers, [(0x10, [0, 0x10].to_vec())]);
    }

    #[test]
    fn every_kind_is_read() {
        let signal = StopReply::parse(b"S05").unwrap();
        assert!(matches!(signal, StopReply::Stopped { signal: 5, .. }));
        let exited = StopReply::Exited {
            code: 0x1f,
            process: None,
        };
        assert_eq!(StopReply::parse(b"W1f").unwrap(), exited);
        let process = Some(ProcessId::new(1));
        let exited = StopReply::Exited { code: 0, process };
        assert_eq!(StopReply::parse(b"W00;process:1").unwrap(), exited);
        let terminated = StopReply::Terminated { signal: 9, process };
        assert_eq!(StopReply::parse(b"X09;process:1").unwrap(), terminated);
        assert_eq!(StopReply::parse(b"N").unwrap(), StopReply::NoResumed);
        let StopReply::Output(text) = StopReply::parse(b"O6869").unwrap() else {
            panic!()
        };
        assert_eq!(text.to_vec(), b"hi");
    }

    #[test]
    fn malformed_replies_are_refused() {
        let cases: [(&[u8], ParseError); 10] = [
            (b"", ParseError::UnknownPacket),
            (b"OK", ParseError::NotHex),
            (b"E01", ParseError::UnknownPacket),
            (b"S", ParseError::MissingField),
            (b"S100", ParseError::NumberTooLarge),
            (b"T0", ParseError::MissingField),
            (b"T05thread", ParseError::MissingField),
            (b"T05:1;", ParseError::MissingField),
            (b"T05k:\xff;", ParseError::NotText),
            (b"W0;process:x", ParseError::BadThreadId),
        ];
        for (payload, error) in cases {
            assert_eq!(
                StopReply::parse(payload),
                Err(error),
                "{}",
                payload.escape_ascii()
            );
        }
    }
}
