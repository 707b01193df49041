//! What is mapped where, as regions of equal permissions.

use super::{PageFlags, PagingMode, PagingState, TranslateError};
use crate::{Gva, PhysicalMemory, table_cache::TableCache};

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
