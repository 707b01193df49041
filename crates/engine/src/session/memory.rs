//! `m M x X`, searching and checksums.

use alloc::vec::Vec;

use memchr::memmem;
use trapline_arch::{Gpa, Gva};
use trapline_rsp::request::Search;
use trapline_rsp::{Encoder, PACKET_SIZE_BYTES};

use super::work::Work;
use super::{Answer, Answered, Refusal, Session, reply};
use crate::core::Context;

/// How much memory is looked at in one go where the client asks for a result and not the bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// How often that is done in one turn of a request, so that a turn takes less than a millisecond.
const TURN_CHUNKS: usize = 4;

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

    /// Answers `qCRC`, a part of the memory in each turn.
    pub(super) fn crc(
        &mut self,
        address: u64,
        len_bytes: u64,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        if len_bytes > MAX_SCAN_BYTES {
            return Err(Refusal::text(reply::EINVAL, "that is more than 1 GiB"));
        }
        if address.checked_add(len_bytes.saturating_sub(1)).is_none() {
            return Err(Refusal::text(
                reply::EINVAL,
                "the range goes on behind the last address",
            ));
        }
        let (mut done, mut crc) = match self.work.take() {
            Some(Work::Crc { done_bytes, crc }) => (done_bytes, crc),
            _ => (0, u32::MAX),
        };
        for _ in 0..TURN_CHUNKS {
            let left = usize::try_from(len_bytes.saturating_sub(done)).unwrap_or(CHUNK_BYTES);
            if left == 0 {
                out.text("C").hex_u64(crc.into());
                return Ok(Answer::Reply);
            }
            let start = address.wrapping_add(done);
            let chunk = self.read_at(start, left.min(CHUNK_BYTES), context)?;
            if chunk.is_empty() {
                return Err(cannot_access("read", start));
            }
            crc = crc32(crc, &chunk);
            done = done.saturating_add(chunk.len() as u64);
            self.scratch = chunk;
        }
        self.work = Some(Work::Crc {
            done_bytes: done,
            crc,
        });
        Ok(Answer::Unfinished)
    }

    /// Answers `qSearch:memory`, a part of the memory in each turn. It ends where memory does.
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
        let end = address.saturating_add(len_bytes.min(MAX_SCAN_BYTES));
        let (mut next, mut window) = match self.work.take() {
            Some(Work::Search { next, window }) => (next, window),
            _ => (address, Vec::new()),
        };
        for _ in 0..TURN_CHUNKS {
            let left = usize::try_from(end.saturating_sub(next)).unwrap_or(CHUNK_BYTES);
            if left == 0 || pattern.is_empty() {
                return reply::text(out, "0");
            }
            let chunk = self.read_at(next, left.min(CHUNK_BYTES), context)?;
            if chunk.is_empty() {
                return reply::text(out, "0");
            }
            window.extend_from_slice(&chunk);
            next = next.wrapping_add(chunk.len() as u64);
            self.scratch = chunk;
            if let Some(index) = memmem::find(&window, pattern) {
                let behind = window.len().saturating_sub(index) as u64;
                out.text("1,").hex_u64(next.wrapping_sub(behind));
                return Ok(Answer::Reply);
            }
            // The pattern may lie across two chunks.
            let keep_from = window.len().saturating_sub(pattern.len().saturating_sub(1));
            window.drain(..keep_from);
        }
        self.work = Some(Work::Search { next, window });
        Ok(Answer::Unfinished)
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
            let Some(start) = address.checked_add(done as u64) else {
                break;
            };
            let wanted = len.saturating_sub(done).min(BLOCK_BYTES);
            let block = self.read_at(start, wanted, context)?;
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
}

fn cannot_access(verb: &str, address: u64) -> Refusal {
    let text = alloc::format!("cannot {verb} memory at {address:#x}: nothing is mapped there");
    Refusal::text(reply::EFAULT, text)
}

/// The remainder of each byte followed by four bytes of zeros.
#[expect(
    clippy::indexing_slicing,
    reason = "the compiler evaluates it, and would find a wrong index"
)]
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 == 0 {
                crc << 1
            } else {
                crc << 1 ^ 0x04c1_1db7
            };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// Continues GDB's CRC-32, which is the one of the polynomial 04c11db7h, most significant bit first
/// (GDB manual, "General Query Packets", `qCRC`).
fn crc32(start: u32, data: &[u8]) -> u32 {
    data.iter().fold(start, |crc, byte| {
        let [first, ..] = crc.to_be_bytes();
        let remainder = CRC_TABLE.get(usize::from(first ^ byte)).copied();
        crc << 8 ^ remainder.unwrap_or(0)
    })
}
