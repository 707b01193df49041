//! `m M x X`, searching and checksums.

use alloc::vec::Vec;

use trapline_arch::{Gpa, Gva};
use trapline_rsp::request::Search;
use trapline_rsp::{Encoder, PACKET_SIZE_BYTES};

use super::{Answer, Answered, Refusal, Session, reply};
use crate::core::Context;

/// How much memory is looked at in one go where the client asks for a result and not the bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// How much memory is put into a reply in one go.
const BLOCK_BYTES: usize = 16 * 1024;

/// The most memory that one search or checksum goes through (rule S3).
const MAX_SCAN_BYTES: u64 = 1 << 30;

/// Whether a reply has room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Left,
    Full,
}

impl Session {
    pub(super) fn read_memory(
        &mut self,
        address: u64,
        len_bytes: u64,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let limit_bytes = PACKET_SIZE_BYTES / 2;
        self.read_for_reply(address, len_bytes, limit_bytes, context, |block| {
            out.hex_bytes(block);
            Room::Left
        })?;
        Ok(Answer::Reply)
    }

    pub(super) fn read_memory_binary(
        &mut self,
        address: u64,
        len_bytes: u64,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        // LLDB up to version 20 asks for nothing to see whether the packet is known, and reads the
        // bytes of later replies without the `b` that GDB wants.
        if len_bytes == 0 && self.is_lldb {
            return reply::ok(out);
        }
        if !self.is_lldb {
            out.text("b");
        }
        self.read_for_reply(address, len_bytes, PACKET_SIZE_BYTES, context, |block| {
            if out.binary_prefix(block) == block.len() {
                Room::Left
            } else {
                Room::Full
            }
        })?;
        Ok(Answer::Reply)
    }

    pub(super) fn write_memory(
        &mut self,
        address: u64,
        data: &[u8],
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let written = if self.uses_physical_addresses {
            context.write_physical(Gpa(address), data)
        } else {
            context.write_virtual(self.selected, Gva(address), data)?
        };
        if written < data.len() {
            return Err(cannot_access("write", address.wrapping_add(written as u64)));
        }
        reply::ok(out)
    }

    pub(super) fn crc(
        &mut self,
        address: u64,
        len_bytes: u64,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let mut crc = u32::MAX;
        self.scan(address, len_bytes, context, |chunk| crc = crc32(crc, chunk))?;
        out.text("C").hex_u64(crc.into());
        Ok(Answer::Reply)
    }

    pub(super) fn search_memory(
        &mut self,
        search: Search<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let Search {
            address,
            len_bytes,
            pattern,
        } = search;
        let len_bytes = len_bytes.min(MAX_SCAN_BYTES);
        let overlap = pattern.len().saturating_sub(1);
        let mut window: Vec<u8> = Vec::new();
        let mut window_start = address;
        let mut next = address;
        let end = address.saturating_add(len_bytes);
        while next < end && !pattern.is_empty() {
            let left = usize::try_from(end.wrapping_sub(next)).unwrap_or(CHUNK_BYTES);
            let chunk = self.read_at(next, left.min(CHUNK_BYTES), context)?;
            window.extend_from_slice(&chunk);
            next = next.wrapping_add(chunk.len() as u64);
            if let Some(index) = find(&window, pattern) {
                out.text("1,")
                    .hex_u64(window_start.wrapping_add(index as u64));
                return Ok(Answer::Reply);
            }
            if chunk.is_empty() {
                break;
            }
            let keep_from = window.len().saturating_sub(overlap);
            window.drain(..keep_from);
            window_start = window_start.wrapping_add(keep_from as u64);
        }
        reply::text(out, "0")
    }

    /// Reads at most `limit_bytes`, and hands them on block by block while they are in the
    /// processor's nearest cache. A range that leaves mapped memory gives its mapped part (rule
    /// M1); only a range of which not even the first byte can be read is refused.
    fn read_for_reply(
        &mut self,
        address: u64,
        len_bytes: u64,
        limit_bytes: usize,
        context: &mut Context<'_>,
        mut write: impl FnMut(&[u8]) -> Room,
    ) -> Result<(), Refusal> {
        let len = usize::try_from(len_bytes)
            .unwrap_or(limit_bytes)
            .min(limit_bytes);
        let mut done: usize = 0;
        while done < len {
            let wanted = len.saturating_sub(done).min(BLOCK_BYTES);
            let block = self.read_at(address.wrapping_add(done as u64), wanted, context)?;
            let read = block.len();
            let room = write(&block);
            self.scratch = block;
            done = done.saturating_add(read);
            if read < wanted || room == Room::Full {
                break;
            }
        }
        if done == 0 && len > 0 {
            return Err(cannot_access("read", address));
        }
        Ok(())
    }

    /// Reads up to `len_bytes` in the address space that the client has chosen.
    fn read_at(
        &mut self,
        address: u64,
        len_bytes: usize,
        context: &mut Context<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        let mut data = core::mem::take(&mut self.scratch);
        data.resize(len_bytes, 0);
        let read = if self.uses_physical_addresses {
            context.read_physical(Gpa(address), &mut data)
        } else {
            context.read_virtual(self.selected, Gva(address), &mut data)?
        };
        data.truncate(read);
        Ok(data)
    }

    fn scan(
        &mut self,
        address: u64,
        len_bytes: u64,
        context: &mut Context<'_>,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<(), Refusal> {
        if len_bytes > MAX_SCAN_BYTES {
            return Err(Refusal::text(reply::EINVAL, "that is more than 1 GiB"));
        }
        let mut done: u64 = 0;
        while done < len_bytes {
            let left = usize::try_from(len_bytes.wrapping_sub(done)).unwrap_or(CHUNK_BYTES);
            let start = address.wrapping_add(done);
            let chunk = self.read_at(start, left.min(CHUNK_BYTES), context)?;
            if chunk.is_empty() {
                return Err(cannot_access("read", start));
            }
            visit(&chunk);
            done = done.saturating_add(chunk.len() as u64);
        }
        Ok(())
    }
}

fn cannot_access(verb: &str, address: u64) -> Refusal {
    let text = alloc::format!("cannot {verb} memory at {address:#x}: nothing is mapped there");
    Refusal::text(reply::EFAULT, text)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Continues GDB's CRC-32, which is the one of the polynomial 04c11db7h, most significant bit first
/// (GDB manual, "General Query Packets", `qCRC`).
fn crc32(start: u32, data: &[u8]) -> u32 {
    data.iter().fold(start, |crc, byte| {
        (0..8).fold(crc ^ (u32::from(*byte) << 24), |crc, _| {
            let shifted = crc << 1;
            if crc >> 31 == 0 {
                shifted
            } else {
                shifted ^ 0x04c1_1db7
            }
        })
    })
}
