//! `qXfer`: parts of documents.
//!
//! ```text
//! qXfer:object:read:annex:offset,len
//! qXfer:object:write:annex:offset:data
//!       └ rest             └ hex   └ binary
//! ```
//! Source: GDB manual, "General Query Packets", `qXfer`.

use super::{ParseError, Request, fields};
use crate::hex;

/// The kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferObject<'a> {
    /// `features`: the target description; the annex is a file's name.
    Features,
    /// `threads`: the list of threads.
    Threads,
    /// `exec-file`: the name of the program's file; the annex is a process id in hex, or empty.
    ExecFile,
    /// `memory-map`: which memory is of which kind.
    MemoryMap,
    /// `libraries`: the list of libraries.
    Libraries,
    /// `libraries-svr4`: the list of libraries as a System V linker keeps it.
    LibrariesSvr4,
    /// `auxv`: the auxiliary vector.
    Auxv,
    /// `siginfo`: more about the signal.
    Siginfo,
    /// Any other.
    Other(&'a str),
}

/// A request for a part of a document, or to change one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer<'a> {
    /// `read`
    Read {
        /// The document.
        object: TransferObject<'a>,
        /// Which one of its kind; may be empty.
        annex: &'a str,
        /// Where to start, in bytes. Past the end is a short reply, `l`, and no error.
        offset_bytes: u64,
        /// How much is asked for; any value. The sum with the offset may pass 64 bits.
        len_bytes: u64,
    },
    /// `write`
    Write {
        /// The document.
        object: TransferObject<'a>,
        /// Which one of its kind; may be empty.
        annex: &'a str,
        /// Where to start, in bytes.
        offset_bytes: u64,
        /// What to write.
        data: &'a [u8],
    },
}

pub(super) fn parse(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (object, rest) = fields::split(rest, b':')?;
    let (operation, rest) = fields::split(rest, b':')?;
    // Other operations are to be answered as unknown packets are.
    if !matches!(operation, b"read" | b"write") {
        return Ok(Request::Unknown);
    }
    let object = TransferObject::new(fields::text(object)?);
    let (annex, rest) = fields::split(rest, b':')?;
    let annex = fields::text(annex)?;
    let transfer = if operation == b"read" {
        let (offset, len) = fields::split(rest, b',')?;
        let (offset_bytes, len_bytes) = (hex::parse_u64(offset)?, hex::parse_u64(len)?);
        Transfer::Read {
            object,
            annex,
            offset_bytes,
            len_bytes,
        }
    } else {
        let (offset, data) = fields::split(rest, b':')?;
        Transfer::Write {
            object,
            annex,
            offset_bytes: hex::parse_u64(offset)?,
            data,
        }
    };
    Ok(Request::Transfer(transfer))
}

impl<'a> TransferObject<'a> {
    fn new(name: &'a str) -> Self {
        match name {
            "features" => Self::Features,
            "threads" => Self::Threads,
            "exec-file" => Self::ExecFile,
            "memory-map" => Self::MemoryMap,
            "libraries" => Self::Libraries,
            "libraries-svr4" => Self::LibrariesSvr4,
            "auxv" => Self::Auxv,
            "siginfo" => Self::Siginfo,
            other => Self::Other(other),
        }
    }
}
