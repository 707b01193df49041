//! The walk through a guest's page tables.

use alloc::vec::Vec;

use thiserror::Error;

use super::{
    PageFlags, PagingMode, PagingState,
    entry::{Entry, Geometry, page_start, reserved_bits, table_start},
};
use crate::{Gpa, Gva, PhysicalMemory};

/// What an address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address of the byte asked for.
    pub gpa: Gpa,
    /// The size of the page around it. It is contiguous in guest-physical memory.
    pub page_size_bytes: u64,
    /// Who may do what, and what was done.
    pub flags: PageFlags,
    /// The page's protection key; 0 where there are none.
    pub protection_key: u8,
}

impl Translation {
    /// Returns how many bytes there are from the byte asked for to the end of its page.
    #[must_use]
    pub const fn rest_of_page_bytes(&self) -> u64 {
        self.page_size_bytes
            .saturating_sub(self.gpa.offset_in(self.page_size_bytes))
    }
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TranslateError {
    /// The address is outside what the mode can translate.
    #[error("{address} is not canonical")]
    NonCanonical {
        /// The address.
        address: Gva,
    },
    /// An entry is not present.
    #[error("the level-{level} entry {:#x} is not present", entry.into_bits())]
    NotPresent {
        /// The entry's level; 1 is the lowest.
        level: u8,
        /// The entry.
        entry: Entry,
    },
    /// An entry has a reserved bit set.
    #[error("the level-{level} entry {:#x} has reserved bits set", entry.into_bits())]
    ReservedBit {
        /// The entry's level; 1 is the lowest.
        level: u8,
        /// The entry.
        entry: Entry,
    },
    /// A table is not in guest memory.
    #[error("there is no memory at {gpa} for a level-{level} entry")]
    TableMissing {
        /// Where the entry should be.
        gpa: Gpa,
        /// The entry's level; 1 is the lowest.
        level: u8,
    },
}

/// One entry read in a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The entry's level; 1 is the lowest.
    pub level: u8,
    /// Where the entry is.
    pub gpa: Gpa,
    /// The entry.
    pub entry: Entry,
}

/// A translation with the entries it came from.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The entries read, from the highest level down; the last one decided the result.
    pub steps: Vec<Step>,
    /// What the address translates to.
    pub result: Result<Translation, TranslateError>,
}

impl PagingState {
    /// Translates a linear address; a tag in it is removed where LAM is on.
    ///
    /// # Errors
    ///
    /// See [`TranslateError`].
    pub fn translate(
        &self,
        memory: &dyn PhysicalMemory,
        address: Gva,
    ) -> Result<Translation, TranslateError> {
        self.descend(memory, self.untag(address), &mut |_| ())
    }

    /// Translates a linear address and keeps every entry that was read.
    #[must_use]
    pub fn walk(&self, memory: &dyn PhysicalMemory, address: Gva) -> Walk {
        let mut steps = Vec::new();
        let result = self.descend(memory, self.untag(address), &mut |step| steps.push(step));
        Walk { steps, result }
    }

    /// Walks from the root to the entry that maps the page or ends the walk: at most five reads.
    pub(super) fn descend(
        &self,
        memory: &dyn PhysicalMemory,
        address: Gva,
        visit: &mut dyn FnMut(Step),
    ) -> Result<Translation, TranslateError> {
        if !self.mode().is_canonical(address) {
            return Err(TranslateError::NonCanonical { address });
        }
        let Some(geometry) = self.mode().geometry() else {
            return Ok(identity(address));
        };
        let mut table = self.root_table();
        let mut permissions = PageFlags::PERMISSIONS;
        let mut level = geometry.levels;
        loop {
            let step = read_entry(memory, geometry, table, level, address)?;
            visit(step);
            self.check(step)?;
            permissions &= self.permissions_of(step);
            if self.mode().is_leaf(level, step.entry) {
                return Ok(self.leaf(geometry, step, address, permissions));
            }
            table = table_start(step.entry);
            // Level 1 is always a leaf.
            level = level.saturating_sub(1);
        }
    }

    fn root_table(&self) -> Gpa {
        let table = Gpa(self.root().frame() << 12);
        match self.mode() {
            // The top-level table of PAE paging has four entries and is aligned to 32 bytes.
            PagingMode::Pae => {
                Gpa(table.0 | u64::from(self.root().pcid()) & !0x1f).truncated_to_32_bits()
            }
            PagingMode::None | PagingMode::Bits32 { .. } => table.truncated_to_32_bits(),
            PagingMode::FourLevel | PagingMode::FiveLevel => table,
        }
    }

    fn check(&self, Step { level, entry, .. }: Step) -> Result<(), TranslateError> {
        if !entry.p() {
            return Err(TranslateError::NotPresent { level, entry });
        }
        let reserved = reserved_bits(
            self.mode(),
            level,
            entry,
            self.physical_bits,
            self.no_execute,
        );
        if entry.into_bits() & reserved != 0 {
            return Err(TranslateError::ReservedBit { level, entry });
        }
        Ok(())
    }

    fn permissions_of(&self, Step { level, entry, .. }: Step) -> PageFlags {
        if !self.mode().has_permissions(level) {
            return PageFlags::PERMISSIONS;
        }
        let mut flags = PageFlags::empty();
        flags.set(PageFlags::WRITABLE, entry.rw());
        flags.set(PageFlags::USER, entry.us());
        flags.set(PageFlags::EXECUTABLE, !entry.nx());
        flags
    }

    fn leaf(
        &self,
        geometry: Geometry,
        Step { level, entry, .. }: Step,
        address: Gva,
        mut flags: PageFlags,
    ) -> Translation {
        let page_size_bytes = geometry.covered_bytes(level);
        let start = page_start(self.mode(), level, entry, page_size_bytes);
        flags.set(PageFlags::ACCESSED, entry.a());
        flags.set(PageFlags::DIRTY, entry.d());
        flags.set(PageFlags::GLOBAL, entry.g());
        Translation {
            gpa: start.wrapping_add(address.offset_in(page_size_bytes)),
            page_size_bytes,
            flags,
            protection_key: entry.pk(),
        }
    }
}

fn read_entry(
    memory: &dyn PhysicalMemory,
    geometry: Geometry,
    table: Gpa,
    level: u8,
    address: Gva,
) -> Result<Step, TranslateError> {
    let index = geometry.index(level, address.0);
    let gpa = table.wrapping_add(index.saturating_mul(geometry.entry_bytes));
    let bits = match geometry.entry_bytes {
        4 => memory.read_u32(gpa).map(u64::from),
        _ => memory.read_u64(gpa),
    };
    let entry = Entry::from_bits(bits.ok_or(TranslateError::TableMissing { gpa, level })?);
    Ok(Step { level, gpa, entry })
}

/// Translates an address without paging: everything is allowed.
const fn identity(address: Gva) -> Translation {
    Translation {
        gpa: Gpa(address.0),
        page_size_bytes: 4096,
        flags: PageFlags::PERMISSIONS,
        protection_key: 0,
    }
}

impl Gpa {
    const fn truncated_to_32_bits(self) -> Self {
        Self(self.0 & u32::MAX as u64)
    }
}
