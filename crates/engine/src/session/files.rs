//! `vFile`, read-only: one file, the guest kernel's symbols.
//!
//! Source: GDB manual, "Host I/O Packets", "File-I/O Remote Protocol Extension" for `struct stat`
//! and the error numbers.

use alloc::vec;
use alloc::vec::Vec;

use trapline_rsp::Encoder;
use trapline_rsp::request::FileRequest;

use super::work::Turn;
use super::{Answer, Answered, Session, reply};
use crate::contract::VcpuId;
use crate::core::Context;

/// The name under which GDB finds the symbols.
pub(super) const SYMBOL_FILE: &str = "/trapline/kernel";

/// The most files a client may have open (rule S3). Descriptors are one digit, so that clients that
/// write them in decimal and those that write them in hexadecimal mean the same.
const MAX_OPEN: u32 = 10;

/// Error numbers of the protocol's file operations.
const ENOENT: u32 = 2;
const EBADF: u32 = 9;
const EMFILE: u32 = 24;
const EROFS: u32 = 30;
const EINVAL: u32 = 22;

/// `S_IFREG` and read permission for all, as the protocol numbers them.
const REGULAR_READABLE: u32 = 0o100_444;

/// The client's open files, all of them the one file.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    /// Bit n: descriptor n is open.
    open: u32,
}

impl OpenFiles {
    fn open(&mut self) -> Option<u32> {
        let free = (0..MAX_OPEN).find(|fd| !self.is_open(*fd))?;
        self.open |= 1_u32.wrapping_shl(free);
        Some(free)
    }

    fn is_open(&self, fd: u32) -> bool {
        fd < MAX_OPEN && self.open.wrapping_shr(fd) & 1 != 0
    }

    fn close(&mut self, fd: u32) -> bool {
        let was_open = self.is_open(fd);
        if was_open {
            self.open &= !1_u32.wrapping_shl(fd);
        }
        was_open
    }
}

/// Returns the symbol file's length, if the guest's kernel is known.
pub(super) fn symbol_file_len(context: &Context<'_>) -> Option<u64> {
    context.core.os.as_ref().and_then(|os| os.symbol_file_len())
}

fn done(out: &mut Encoder<'_>, result: u32) -> Answered {
    out.text("F").hex_u64(result.into());
    Ok(Answer::Reply)
}

fn failed(out: &mut Encoder<'_>, error: u32) -> Answered {
    out.text("F-1,").hex_u64(error.into());
    Ok(Answer::Reply)
}

impl Session {
    pub(super) fn file(
        &mut self,
        request: &FileRequest<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        match *request {
            FileRequest::SetFileSystem { .. } => done(out, 0),
            FileRequest::Open { name, flags, .. } => {
                if self.look_for_system(VcpuId(0), context) == Turn::More {
                    return Ok(Answer::Unfinished);
                }
                if name.to_vec() != SYMBOL_FILE.as_bytes() || symbol_file_len(context).is_none() {
                    return failed(out, ENOENT);
                }
                if flags != 0 {
                    return failed(out, EROFS);
                }
                match self.files.open() {
                    Some(fd) => done(out, fd),
                    None => failed(out, EMFILE),
                }
            }
            FileRequest::Close { fd } => {
                if self.files.close(fd) {
                    done(out, 0)
                } else {
                    failed(out, EBADF)
                }
            }
            FileRequest::Read {
                fd,
                len_bytes,
                offset_bytes,
            } if self.files.is_open(fd) => read(len_bytes, offset_bytes, out, context),
            FileRequest::Fstat { fd } if self.files.is_open(fd) => stat(out, context),
            FileRequest::Read { .. } | FileRequest::Fstat { .. } => failed(out, EBADF),
            FileRequest::Stat { name } | FileRequest::Lstat { name } => {
                if name.to_vec() == SYMBOL_FILE.as_bytes() && symbol_file_len(context).is_some() {
                    stat(out, context)
                } else {
                    failed(out, ENOENT)
                }
            }
            FileRequest::ReadLink { .. } => failed(out, EINVAL),
            FileRequest::Write { .. } | FileRequest::Unlink { .. } => failed(out, EROFS),
            _ => reply::unsupported(out),
        }
    }
}

fn read(
    len_bytes: u64,
    offset_bytes: u64,
    out: &mut Encoder<'_>,
    context: &mut Context<'_>,
) -> Answered {
    // The reply's own text and escapes, which may double a byte, must fit beside the data.
    let room = out.remaining_bytes().saturating_sub(16) / 2;
    let len = usize::try_from(len_bytes).unwrap_or(room).min(room);
    let mut data = vec![0; len];
    let Some(read) = context.read_symbol_file(VcpuId(0), offset_bytes, &mut data) else {
        return failed(out, EBADF);
    };
    data.truncate(read);
    out.text("F").hex_u64(read as u64).text(";").binary(&data);
    Ok(Answer::Reply)
}

/// Writes `struct stat`: 64 bytes, big-endian, of which GDB looks at the mode and the size.
fn stat(out: &mut Encoder<'_>, context: &Context<'_>) -> Answered {
    let size = symbol_file_len(context).unwrap_or(0);
    let mut bytes = Vec::with_capacity(64);
    let (dev, ino, links, owner, group, rdev) = (0_u32, 1_u32, 1_u32, 0_u32, 0_u32, 0_u32);
    for word in [dev, ino, REGULAR_READABLE, links, owner, group, rdev] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    let (block_bytes, times) = (4096_u64, [0_u32; 3]);
    for double in [size, block_bytes, size.div_ceil(512)] {
        bytes.extend_from_slice(&double.to_be_bytes());
    }
    for time in times {
        bytes.extend_from_slice(&time.to_be_bytes());
    }
    out.text("F")
        .hex_u64(bytes.len() as u64)
        .text(";")
        .binary(&bytes);
    Ok(Answer::Reply)
}
