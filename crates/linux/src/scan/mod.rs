//! The search for VMCOREINFO in guest-physical memory.

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use trapline_arch::{Gpa, PhysicalMemory};

use crate::chunks::{ChunkSearch, Sought};
use crate::vmcoreinfo::{MAX_TEXT_BYTES, VmcoreInfo, VmcoreInfoError};

/// The first key of the text.
const FIRST_KEY: &[u8] = b"OSRELEASE=";
/// The ELF note that a kernel keeps beside the plain text begins with this: a header of three
/// words, of which the first is the length of the name, and the name, padded to a word.
const NOTE_NAME: &[u8] = b"VMCOREINFO\0\0";
const NOTE_HEADER_BYTES: usize = 12;
/// Header, name and first key.
const PROBE_BYTES: usize = 34;
/// What a probe of a page counts for in a budget: about a cache line.
const PROBE_COST_BYTES: u64 = 64;
/// The smallest page of any kernel.
const PAGE_BYTES: u64 = 4096;
/// How many places with the first key are looked at away from page starts. A kernel has a handful;
/// a guest that sprinkles the key shall not make the search endless.
const MAX_CANDIDATES: u32 = 4096;

/// A search for VMCOREINFO that stops after a given number of bytes and goes on later.
///
/// The text and the note stand at page starts since Linux 4.13, so page starts are looked at first,
/// in all regions, and every byte only after that, which takes some ten times as long. What is found
/// is checked: see [`VmcoreInfo::parse`] and [`VmcoreInfo::agrees_with`].
pub struct Scanner {
    pages: Option<Pages>,
    bytes: ChunkSearch,
    candidates: u32,
    template_seen: bool,
}

struct Pages {
    regions: Vec<Range<Gpa>>,
    region: usize,
    next: u64,
}

/// How far a [`Scanner`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// VMCOREINFO was found and is right.
    Found(VmcoreInfo),
    /// The budget is used up; call again.
    More,
    /// All memory was searched. The kernel's template is there but not its text, so the kernel has
    /// not come to its `subsys_initcall`s: search again later.
    NotYet,
    /// All memory was searched, and nothing is there: no Linux, one built without
    /// `CONFIG_VMCORE_INFO` (`CONFIG_CRASH_CORE` before 6.9), or one that is not unpacked yet.
    NotFound,
}

impl Scanner {
    /// Creates a search through the regions of RAM, in their order.
    pub fn new(regions: impl IntoIterator<Item = Range<Gpa>>) -> Self {
        let regions: Vec<_> = regions.into_iter().collect();
        let pages = Pages {
            regions: regions.clone(),
            region: 0,
            next: 0,
        };
        Self {
            pages: Some(pages),
            bytes: ChunkSearch::new(FIRST_KEY, regions),
            candidates: 0,
            template_seen: false,
        }
    }

    /// Searches on for about `max_bytes` of memory, at least one page.
    ///
    /// 1 MiB takes some tenths of a millisecond. After an end was reported, so is it again.
    pub fn step(&mut self, memory: &dyn PhysicalMemory, max_bytes: u64) -> Progress {
        let mut spent = 0;
        let limit = max_bytes.max(1);
        while let Some(pages) = &mut self.pages {
            if spent >= limit {
                return Progress::More;
            }
            match pages.probe(memory) {
                None => self.pages = None,
                Some(None) => spent = spent.saturating_add(PROBE_COST_BYTES),
                Some(Some(text)) => {
                    spent = spent.saturating_add(PAGE_BYTES);
                    if let Some(info) = self.candidate(memory, text) {
                        return Progress::Found(info);
                    }
                }
            }
        }
        self.step_bytes(memory, spent, limit)
    }

    fn step_bytes(&mut self, memory: &dyn PhysicalMemory, spent: u64, limit: u64) -> Progress {
        let mut spent = spent;
        while self.candidates < MAX_CANDIDATES {
            match self.bytes.next(memory, &mut spent, limit) {
                Sought::At(text) => {
                    self.candidates = self.candidates.saturating_add(1);
                    spent = spent.saturating_add(PAGE_BYTES);
                    if let Some(info) = self.candidate(memory, text) {
                        return Progress::Found(info);
                    }
                    if spent >= limit {
                        return Progress::More;
                    }
                }
                Sought::More => return Progress::More,
                Sought::End => break,
            }
        }
        if self.template_seen {
            Progress::NotYet
        } else {
            Progress::NotFound
        }
    }

    /// Reads what may be the text, at its first key.
    fn candidate(&mut self, memory: &dyn PhysicalMemory, text: Gpa) -> Option<VmcoreInfo> {
        let mut bytes = vec![0; MAX_TEXT_BYTES];
        let count = memory.read_physical(text, &mut bytes);
        match VmcoreInfo::parse(bytes.get(..count).unwrap_or(&bytes)) {
            Ok(info) => info.agrees_with(memory).then_some(info),
            Err(error) => {
                self.template_seen |= error == VmcoreInfoError::Template;
                None
            }
        }
    }
}

impl Pages {
    /// Looks at the next page start: `None` past the last, `Some(Some)` where the text may be.
    fn probe(&mut self, memory: &dyn PhysicalMemory) -> Option<Option<Gpa>> {
        let region = loop {
            let region = self.regions.get(self.region)?;
            let start = region
                .start
                .0
                .checked_next_multiple_of(PAGE_BYTES)
                .unwrap_or(u64::MAX);
            self.next = self.next.max(start);
            if self.next < region.end.0 {
                break region;
            }
            self.region = self.region.saturating_add(1);
            self.next = 0;
        };
        let page = Gpa(self.next);
        debug_assert!(region.contains(&page));
        self.next = self.next.saturating_add(PAGE_BYTES);
        let mut head = [0; PROBE_BYTES];
        let count = memory.read_physical(page, &mut head).min(head.len());
        let head = head.get(..count).unwrap_or_default();
        if head.starts_with(FIRST_KEY) {
            return Some(Some(page));
        }
        let note = head
            .get(NOTE_HEADER_BYTES..)
            .and_then(|note| note.strip_prefix(NOTE_NAME));
        let text_bytes = NOTE_HEADER_BYTES.saturating_add(NOTE_NAME.len()) as u64;
        let found = note.is_some_and(|text| text.starts_with(FIRST_KEY));
        Some(found.then(|| page.checked_add(text_bytes)).flatten())
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner")
            .field("looks_at_page_starts", &self.pages.is_some())
            .field("candidates", &self.candidates)
            .finish_non_exhaustive()
    }
}

/// Searches the regions of RAM for VMCOREINFO, but no more than `max_bytes` of them.
///
/// A server that must not be held up uses a [`Scanner`] instead.
pub fn find_vmcoreinfo(
    memory: &dyn PhysicalMemory,
    regions: &[Range<Gpa>],
    max_bytes: u64,
) -> Option<VmcoreInfo> {
    match Scanner::new(regions.iter().cloned()).step(memory, max_bytes) {
        Progress::Found(info) => Some(info),
        Progress::More | Progress::NotYet | Progress::NotFound => None,
    }
}
