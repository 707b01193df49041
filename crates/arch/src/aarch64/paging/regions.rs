//! What is mapped where, as regions of equal permissions.

use super::{PageFlags, PagingState, TranslateError, Tree, Trees, geometry::low_bits, walk::Begin};
use crate::{Gva, PhysicalMemory, Spans};

/// The binary logarithm of the number of descriptors in 4 KiB of a table.
const DESCRIPTOR_BITS_PER_4_KIB: u32 = 9;

/// A [`Region`](crate::Region) with its [`PageFlags::PERMISSIONS`].
pub type Region = crate::Region<PageFlags>;

/// What one [`PagingState`] maps.
pub type Regions<'a> = crate::Regions<'a, PagingState>;

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
        Regions::new(*self, memory, start, last, budget)
    }
}

impl Spans for PagingState {
    type Permissions = PageFlags;

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
}

impl PagingState {
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
