//! What is mapped where, as regions of equal permissions, whatever the tables look like.

use core::fmt::Debug;

use crate::{Gva, PhysicalMemory, table_cache::TableCache};

/// Page tables, as a listing of what they map sees them.
pub trait Spans {
    /// What a page allows.
    type Permissions: Copy + Debug + PartialEq;

    /// Returns the last address of the page or hole at `address`, and what the page allows; `None`
    /// where nothing is mapped.
    fn span(&self, memory: &dyn PhysicalMemory, address: Gva) -> (Gva, Option<Self::Permissions>);
}

/// A range of virtual addresses with one set of permissions, or with nothing mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region<P> {
    /// The first address.
    pub start: Gva,
    /// The last address, since a region may end where the address space does.
    pub last: Gva,
    /// What every page of the region allows; `None` if none of it is mapped.
    pub permissions: Option<P>,
}

/// An iterator over [`Region`]s, mapped and unmapped, in ascending order without gaps.
///
/// Its work is bounded by a budget of table entries. When the budget is spent the iterator ends,
/// after it gave what it had of the last region, and [`resume`](Self::resume) says where to go on.
#[derive(Debug)]
pub struct Regions<'a, S> {
    tables: S,
    memory: TableCache<'a>,
    next: Option<Gva>,
    last: Gva,
    budget: usize,
}

impl<'a, S: Spans> Regions<'a, S> {
    /// Lists what `tables` map from `start` to `last`, both included.
    pub(crate) fn new(
        tables: S,
        memory: &'a dyn PhysicalMemory,
        start: Gva,
        last: Gva,
        budget: usize,
    ) -> Self {
        Self {
            tables,
            memory: TableCache::new(memory),
            next: (start <= last).then_some(start),
            last,
            budget,
        }
    }

    /// Returns the first address not looked at, or `None` when all were.
    #[must_use]
    pub const fn resume(&self) -> Option<Gva> {
        self.next
    }

    /// Takes the rest of the page or of the hole at the next address.
    fn span(&mut self) -> Option<Region<S::Permissions>> {
        let start = self.next?;
        self.budget = self.budget.checked_sub(1)?;
        let (last, permissions) = self.tables.span(&self.memory, start);
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

impl<S: Spans> Iterator for Regions<'_, S> {
    type Item = Region<S::Permissions>;

    fn next(&mut self) -> Option<Self::Item> {
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
