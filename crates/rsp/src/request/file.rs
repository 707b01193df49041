//! `vFile`: files on the target's side.
//!
//! ```text
//! vFile:setfs:pid            vFile:open:name,flags,mode      vFile:close:fd
//! vFile:pread:fd,len,offset  vFile:pwrite:fd,offset,data     vFile:fstat:fd
//! vFile:stat:name            vFile:lstat:name                vFile:readlink:name
//! vFile:unlink:name
//!       └ rest       names are hex bytes, numbers are hex, data is binary
//! ```
//! Source: GDB manual, "Host I/O Packets". LLDB writes descriptors in decimal, so a server
//! that wants to serve both hands out only 0 to 9.

use super::{ParseError, Request, fields};
use crate::hex::{self, HexBytes};

/// A file operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileRequest<'a> {
    /// `setfs`: see files as this process does; 0 is as the server does.
    SetFileSystem {
        /// The process.
        pid: u32,
    },
    /// `open`
    Open {
        /// The file's name.
        name: HexBytes<'a>,
        /// GDB's own `open` flags; see the manual, "Open Flags".
        flags: u32,
        /// GDB's own mode bits, for a file that is created.
        mode: u32,
    },
    /// `close`
    Close {
        /// The descriptor that `open` replied.
        fd: u32,
    },
    /// `pread`
    Read {
        /// The descriptor.
        fd: u32,
        /// How much is asked for; any value.
        len_bytes: u64,
        /// Where to start.
        offset_bytes: u64,
    },
    /// `pwrite`
    Write {
        /// The descriptor.
        fd: u32,
        /// Where to start.
        offset_bytes: u64,
        /// What to write.
        data: &'a [u8],
    },
    /// `fstat`
    Fstat {
        /// The descriptor.
        fd: u32,
    },
    /// `stat`
    Stat {
        /// The file's name.
        name: HexBytes<'a>,
    },
    /// `lstat`
    Lstat {
        /// The file's name.
        name: HexBytes<'a>,
    },
    /// `readlink`
    ReadLink {
        /// The link's name.
        name: HexBytes<'a>,
    },
    /// `unlink`
    Unlink {
        /// The file's name.
        name: HexBytes<'a>,
    },
}

pub(super) fn parse(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (operation, rest) = fields::split(rest, b':')?;
    let file = match operation {
        b"setfs" => FileRequest::SetFileSystem {
            pid: hex::parse_u32(rest)?,
        },
        b"open" => open(rest)?,
        b"close" => FileRequest::Close {
            fd: hex::parse_u32(rest)?,
        },
        b"pread" => read(rest)?,
        b"pwrite" => write(rest)?,
        b"fstat" => FileRequest::Fstat {
            fd: hex::parse_u32(rest)?,
        },
        b"stat" => FileRequest::Stat {
            name: HexBytes::parse(rest)?,
        },
        b"lstat" => FileRequest::Lstat {
            name: HexBytes::parse(rest)?,
        },
        b"readlink" => FileRequest::ReadLink {
            name: HexBytes::parse(rest)?,
        },
        b"unlink" => FileRequest::Unlink {
            name: HexBytes::parse(rest)?,
        },
        _ => return Ok(Request::Unknown),
    };
    Ok(Request::File(file))
}

fn open(rest: &[u8]) -> Result<FileRequest<'_>, ParseError> {
    let (name, rest) = fields::split(rest, b',')?;
    let (flags, mode) = fields::split(rest, b',')?;
    Ok(FileRequest::Open {
        name: HexBytes::parse(name)?,
        flags: hex::parse_u32(flags)?,
        mode: hex::parse_u32(mode)?,
    })
}

fn read(rest: &[u8]) -> Result<FileRequest<'_>, ParseError> {
    let (fd, rest) = fields::split(rest, b',')?;
    let (len, offset) = fields::split(rest, b',')?;
    Ok(FileRequest::Read {
        fd: hex::parse_u32(fd)?,
        len_bytes: hex::parse_u64(len)?,
        offset_bytes: hex::parse_u64(offset)?,
    })
}

fn write(rest: &[u8]) -> Result<FileRequest<'_>, ParseError> {
    let (fd, rest) = fields::split(rest, b',')?;
    let (offset, data) = fields::split(rest, b',')?;
    Ok(FileRequest::Write {
        fd: hex::parse_u32(fd)?,
        offset_bytes: hex::parse_u64(offset)?,
        data,
    })
}
