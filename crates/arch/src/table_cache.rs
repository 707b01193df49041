//! Page tables read once for many entries.

use alloc::{boxed::Box, vec};
use core::cell::RefCell;

use crate::{Gpa, PhysicalMemory};

/// How many pages are kept: one for each level of tables.
const CACHED_PAGES: usize = 5;
const PAGE_BYTES: usize = 4096;

/// Guest memory that keeps the pages of tables read last, so that neighbouring entries cost one read
/// of guest memory and not one each.
pub(crate) struct TableCache<'a> {
    memory: &'a dyn PhysicalMemory,
    tables: RefCell<Tables>,
}

struct Tables {
    /// Which page is in which slot; the one used last comes first.
    pages: [Option<(Gpa, usize)>; CACHED_PAGES],
    bytes: Box<[u8]>,
}

impl<'a> TableCache<'a> {
    pub(crate) fn new(memory: &'a dyn PhysicalMemory) -> Self {
        let bytes = vec![0; CACHED_PAGES.saturating_mul(PAGE_BYTES)].into_boxed_slice();
        Self {
            memory,
            tables: RefCell::new(Tables {
                pages: [None; CACHED_PAGES],
                bytes,
            }),
        }
    }
}

impl core::fmt::Debug for TableCache<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TableCache")
    }
}

impl Tables {
    /// Returns the slot of `page`, filled from `memory` if it was not kept.
    fn load(&mut self, memory: &dyn PhysicalMemory, page: Gpa) -> Option<&[u8]> {
        let kept = |entry: &Option<(Gpa, usize)>| matches!(entry, Some((kept, _)) if *kept == page);
        if let Some(position) = self.pages.iter().position(kept) {
            self.pages.get_mut(..=position)?.rotate_right(1);
        } else {
            let oldest = self.pages.last().copied().flatten().map(|(_, slot)| slot);
            let free = self.pages.iter().flatten().count();
            let slot = oldest.unwrap_or(free);
            let bytes = self.slot(slot)?;
            if memory.read_physical(page, bytes) != PAGE_BYTES {
                self.pages = [None; CACHED_PAGES];
                return None;
            }
            self.pages.rotate_right(1);
            *self.pages.first_mut()? = Some((page, slot));
        }
        let (_, slot) = self.pages.first().copied().flatten()?;
        self.slot(slot).map(|bytes| &*bytes)
    }

    fn slot(&mut self, slot: usize) -> Option<&mut [u8]> {
        let start = slot.checked_mul(PAGE_BYTES)?;
        self.bytes.get_mut(start..start.checked_add(PAGE_BYTES)?)
    }
}

impl PhysicalMemory for TableCache<'_> {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let page = address.align_down(PAGE_BYTES as u64);
        let start = usize::try_from(address.offset_in(PAGE_BYTES as u64)).unwrap_or(0);
        let mut tables = self.tables.borrow_mut();
        let table = tables.load(self.memory, page);
        let end = start.saturating_add(buffer.len());
        match table.and_then(|table| table.get(start..end)) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                bytes.len()
            }
            None => self.memory.read_physical(address, buffer),
        }
    }
}
