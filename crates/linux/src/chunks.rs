//! A search for a byte string in physical memory that can stop and go on.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use memchr::memmem;
use trapline_arch::{Gpa, PhysicalMemory};

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// What a hole is skipped by, in bytes.
const HOLE_BYTES: u64 = 4096;

/// A search for `needle` through `regions`, in their order.
///
/// It holds one chunk of memory, so that many hits in a chunk cost one read. `next` is the address
/// to read from next; `cursor..len` is the part of the chunk that was not searched.
pub(crate) struct ChunkSearch {
    needle: &'static [u8],
    regions: Vec<Range<Gpa>>,
    region: usize,
    next: u64,
    chunk: Vec<u8>,
    start: u64,
    len: usize,
    cursor: usize,
}

/// What a search came upon.
pub(crate) enum Sought {
    /// The needle is here.
    At(Gpa),
    /// The budget is used up.
    More,
    /// Every region was searched.
    End,
}

impl ChunkSearch {
    pub(crate) fn new(needle: &'static [u8], regions: Vec<Range<Gpa>>) -> Self {
        let next = regions.first().map_or(0, |region| region.start.0);
        Self {
            needle,
            regions,
            region: 0,
            next,
            chunk: Vec::new(),
            start: 0,
            len: 0,
            cursor: 0,
        }
    }

    /// Searches on, adding the bytes that are read to `spent` until it reaches `limit`.
    pub(crate) fn next(
        &mut self,
        memory: &dyn PhysicalMemory,
        spent: &mut u64,
        limit: u64,
    ) -> Sought {
        loop {
            let rest = self.chunk.get(self.cursor..self.len).unwrap_or_default();
            if let Some(found) = memmem::find(rest, self.needle) {
                let place = self.cursor.saturating_add(found);
                self.cursor = place.saturating_add(1);
                return Sought::At(Gpa(self.start.saturating_add(place as u64)));
            }
            self.cursor = self.len;
            if *spent >= limit {
                return Sought::More;
            }
            match self.fill(memory) {
                Some(len_bytes) => *spent = spent.saturating_add(len_bytes),
                None => return Sought::End,
            }
        }
    }

    /// Reads the next chunk and returns what that cost, or `None` at the end.
    fn fill(&mut self, memory: &dyn PhysicalMemory) -> Option<u64> {
        while self.regions.get(self.region)?.end.0 <= self.next {
            self.region = self.region.saturating_add(1);
            self.next = self.regions.get(self.region)?.start.0;
        }
        let left = self
            .regions
            .get(self.region)?
            .end
            .0
            .saturating_sub(self.next);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        if self.chunk.is_empty() {
            self.chunk = vec![0; CHUNK_BYTES];
        }
        let buffer = self.chunk.get_mut(..wanted)?;
        self.start = self.next;
        self.cursor = 0;
        self.len = memory.read_physical(Gpa(self.next), buffer).min(wanted);
        let read = self.start.saturating_add(self.len as u64);
        self.next = if self.len < wanted {
            Gpa(read)
                .align_down(HOLE_BYTES)
                .0
                .saturating_add(HOLE_BYTES)
        } else if wanted as u64 == left {
            read
        } else {
            // The needle may lie across two chunks.
            read.saturating_sub((self.needle.len() as u64).saturating_sub(1))
        };
        Some((wanted as u64).max(HOLE_BYTES))
    }
}
