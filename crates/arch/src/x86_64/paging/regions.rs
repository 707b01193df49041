//! What is mapped where, as regions of equal permissions.

use alloc::{boxed::Box, vec};
use core::cell::RefCell;

use super::{PageFlags, PagingMode, PagingState, TranslateError};
use crate::{Gpa, Gva, PhysicalMemory};

/// A range of linear addresses with one set of permissions, or with nothing mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first address.
    pub start: Gva,
    /// The last address, since a region may end where the address space does.
    pub last: Gva,
    /// Of [`PageFlags::PERMISSIONS`], what every page of the region allows; `None` if none of it
    /// is mapped.
    pub permissions: Option<PageFlags>,
}

/// An iterator over [`Region`]s, mapped and unmapped, in ascending order without gaps.
///
/// Its work is bounded by a budget of table entries. When the budget is spent the iterator ends,
/// after it gave what it had of the last region, and [`resume`](Self::resume) says where to go on.
#[derive(Debug)]
pub struct Regions<'a> {
    state: PagingState,
    memory: TableCache<'a>,
    next: Option<Gva>,
    last: Gva,
    budget: usize,
}

impl PagingState {
    /// Lists what is mapped from `start` to `last`, both included, looking at no more than
    /// `budget` table entries that end a walk.
    ///
    /// Both addresses are taken as untagged. To find the region around one address, start there
    /// and take the first item.
    #[must_use]
    pub fn regions<'a>(
        &self,
        memory: &'a dyn PhysicalMemory,
        start: Gva,
        last: Gva,
        budget: usize,
    ) -> Regions<'a> {
        let next = (start <= last).then_some(start);
        Regions {
            state: *self,
            memory: TableCache::new(memory),
            next,
            last,
            budget,
        }
    }
}

impl Regions<'_> {
    /// Returns the first address not looked at, or `None` when all were.
    #[must_use]
    pub const fn resume(&self) -> Option<Gva> {
        self.next
    }

    /// Takes the rest of the page or of the hole at the next address.
    fn span(&mut self) -> Option<Region> {
        let start = self.next?;
        self.budget = self.budget.checked_sub(1)?;
        let (last, permissions) = self.state.span(&self.memory, start);
        let last = last.min(self.last);
        self.next = if last < self.last {
            last.checked_add(1)
        } else {
            None
        };
        Some(Region {
            start,
            last,
            permissions,
        })
    }
}

impl Iterator for Regions<'_> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        let mut region = self.span()?;
        loop {
            let (next, budget) = (self.next, self.budget);
            match self.span() {
                Some(span) if span.permissions == region.permissions => region.last = span.last,
                Some(_) => {
                    // The next call takes it again, from tables that are at hand by then.
                    (self.next, self.budget) = (next, budget);
                    return Some(region);
                }
                None => return Some(region),
            }
        }
    }
}

impl PagingState {
    /// Returns the last address of the page or hole at `address`, and what the page allows.
    fn span(&self, memory: &dyn PhysicalMemory, address: Gva) -> (Gva, Option<PageFlags>) {
        match self.descend(memory, address, &mut |_| ()) {
            Ok(_) if self.mode() == PagingMode::None => {
                (self.mode().hole().0, Some(PageFlags::PERMISSIONS))
            }
            Ok(page) => {
                let last = last_of_block(address, page.page_size_bytes);
                (last, Some(page.flags & PageFlags::PERMISSIONS))
            }
            Err(TranslateError::NonCanonical { .. }) => {
                let above = self.mode().hole().1;
                (
                    above.map_or(Gva(u64::MAX), |above| above.wrapping_add(u64::MAX)),
                    None,
                )
            }
            Err(
                TranslateError::NotPresent { level, .. }
                | TranslateError::ReservedBit { level, .. },
            ) => (self.last_covered(address, level), None),
            // The table takes a page, all of which is missing.
            Err(TranslateError::TableMissing { level, .. }) => {
                (self.last_covered(address, level.saturating_add(1)), None)
            }
        }
    }

    /// Returns the last address that the entry of `level` for `address` covers.
    fn last_covered(&self, address: Gva, level: u8) -> Gva {
        let geometry = self.mode().geometry();
        let block = geometry.map_or(1, |geometry| geometry.covered_bytes(level));
        let last = last_of_block(address, block);
        let (below, _) = self.mode().hole();
        // An entry above the top level would cover the hole and the other half as well.
        if address <= below {
            last.min(below)
        } else {
            last
        }
    }
}

/// Returns the last address of the aligned block of `size_bytes` around `address`.
const fn last_of_block(address: Gva, size_bytes: u64) -> Gva {
    Gva(address.0 | size_bytes.wrapping_sub(1))
}

/// How many tables are kept: one of each level.
const CACHED_TABLES: usize = 5;
const TABLE_BYTES: usize = 4096;

/// Guest memory that keeps the tables read last, so that neighbouring entries cost one read of
/// guest memory and not one each.
struct TableCache<'a> {
    memory: &'a dyn PhysicalMemory,
    tables: RefCell<Tables>,
}

struct Tables {
    /// Which page each kept table is; the one used last comes first.
    pages: [Option<(Gpa, usize)>; CACHED_TABLES],
    bytes: Box<[u8]>,
}

impl<'a> TableCache<'a> {
    fn new(memory: &'a dyn PhysicalMemory) -> Self {
        let bytes = vec![0; CACHED_TABLES.saturating_mul(TABLE_BYTES)].into_boxed_slice();
        Self {
            memory,
            tables: RefCell::new(Tables {
                pages: [None; CACHED_TABLES],
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
            if memory.read_physical(page, bytes) != TABLE_BYTES {
                self.pages = [None; CACHED_TABLES];
                return None;
            }
            self.pages.rotate_right(1);
            *self.pages.first_mut()? = Some((page, slot));
        }
        let (_, slot) = self.pages.first().copied().flatten()?;
        self.slot(slot).map(|bytes| &*bytes)
    }

    fn slot(&mut self, slot: usize) -> Option<&mut [u8]> {
        let start = slot.checked_mul(TABLE_BYTES)?;
        self.bytes.get_mut(start..start.checked_add(TABLE_BYTES)?)
    }
}

impl PhysicalMemory for TableCache<'_> {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let page = address.align_down(TABLE_BYTES as u64);
        let start = usize::try_from(address.offset_in(TABLE_BYTES as u64)).unwrap_or(0);
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
