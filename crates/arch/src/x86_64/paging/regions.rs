//! What is mapped where, as regions of equal permissions.

use super::{PageFlags, PagingMode, PagingState, TranslateError};
use crate::{Gva, PhysicalMemory, Spans};

/// A [`Region`](crate::Region) with its [`PageFlags::PERMISSIONS`].
pub type Region = crate::Region<PageFlags>;

/// What one [`PagingState`] maps.
pub type Regions<'a> = crate::Regions<'a, PagingState>;

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
        Regions::new(*self, memory, start, last, budget)
    }
}

impl Spans for PagingState {
    type Permissions = PageFlags;

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
}

impl PagingState {
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
