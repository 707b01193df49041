//! What is mapped where, as regions of equal permissions.

use super::{PageFlags, PagingState, TranslateError, Tree, Trees, geometry::low_bits, walk::Begin};
use crate::{Gva, PhysicalMemory, table_cache::TableCache};

/// The binary logarithm of the number of descriptors in 4 KiB of a table.
const DESCRIPTOR_BITS_PER_4_KIB: u32 = 9;

/// A range of virtual addresses with one set of permissions, or with nothing mapped.
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
/// Its work is bounded by a budget of descriptors. When the budget is spent the iterator ends,
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
    /// `budget` descriptors that end a walk.
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
        let (lower_last, upper_first) = self.ranges();
        let end = match upper_first {
            _ if address <= lower_last => lower_last,
            Some(first) if address < first => return (first.wrapping_add(u64::MAX), None),
            None => return (Gva(u64::MAX), None),
            Some(_) => Gva(u64::MAX),
        };
        let (geometry, table) = match self.begin(address) {
            Ok(Begin::Tables { tree, table }) => (&tree.geometry, (tree, table)),
            Ok(Begin::Identity) => return (end, Some(PageFlags::PERMISSIONS)),
            // What is wrong with the first table is wrong for all of the range.
            Err(_) => return (end, None),
        };
        let block = |level, entry_bits: u32| {
            Gva(address.0 | low_bits(geometry.shift(level).saturating_add(entry_bits)))
        };
        let (last, permissions) = match self.descend(memory, table, address, &mut |_| ()) {
            Ok(page) => (
                block(page.level, 0),
                Some(page.flags & PageFlags::PERMISSIONS),
            ),
            Err(TranslateError::Fault { level, .. }) => (block(level, 0), None),
            // Memory comes in pages of 4 KiB at least, so that much of the table is missing.
            Err(TranslateError::TableMissing { level, .. }) => {
                (block(level, DESCRIPTOR_BITS_PER_4_KIB), None)
            }
            Err(TranslateError::WideDescriptors) => (end, None),
        };
        (last.min(end), permissions)
    }

    /// Returns the last address of the range from 0 on that can be translated, and the first of the
    /// range up to 2^64 - 1.
    fn ranges(&self) -> (Gva, Option<Gva>) {
        // Bit 55 is no address: it is what tells the halves apart.
        let size = |tree: &Tree| low_bits(tree.geometry.input_bits.min(55));
        match &self.trees {
            Trees::Halves { lower, upper } => (Gva(size(lower)), Some(Gva(!size(upper)))),
            Trees::Stage2 { tree } => (Gva(size(tree)), None),
            Trees::Off | Trees::Wide => (Gva(low_bits(self.physical_bits)), None),
        }
    }
}
