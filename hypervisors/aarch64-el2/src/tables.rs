//! Translation tables with a granule of 4 KiB, of stage 1 at EL2 and of stage 2.
//!
//! Tables lie in a pool of pages of the caller's. A range is mapped by the largest blocks that fit.
//!
//! Source: Arm ARM, "VMSAv8-64 translation table format descriptors".

use thiserror::Error;
use trapline_hypervisor::Span;

/// A table.
pub type Page = [u64; 512];

const PAGE_BITS: u32 = 12;
const LEVEL_BITS: u32 = 9;
const LAST_LEVEL: u32 = 3;
const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 0b11;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The bits of a block or page beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Stage 1: the hypervisor's own code and data. Attribute 1 of MAIR is write-back memory.
    pub const OWN: Self = Self(1 << 10 | 0b11 << 8 | 1 << 6 | 1 << 2);
    /// Stage 1: memory that is never executed.
    pub const MEMORY: Self = Self(Self::OWN.0 | 1 << 54);
    /// Stage 1: devices. Attribute 0 of MAIR is device memory.
    pub const DEVICE: Self = Self(1 << 54 | 1 << 10 | 1 << 6);
    /// Stage 2: everything that is the guest's. It is write-back memory here, so that the guest's own
    /// tables decide: the weaker of both is in force.
    pub const GUEST: Self = Self(1 << 10 | 0b11 << 8 | 0b11 << 6 | 0b1111 << 2);
}

/// Why something is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MapError {
    /// All pages of the pool are in use.
    #[error("all {pages} pages for translation tables are in use")]
    Full {
        /// How many there are.
        pages: usize,
    },
    /// The address is beyond what the tables cover.
    #[error("{address:#x} is beyond the {bits} bits that are translated")]
    Beyond {
        /// The address.
        address: u64,
        /// What is translated.
        bits: u32,
    },
}

/// A tree of tables.
#[derive(Debug)]
pub struct Tables<'a> {
    pool: &'a mut [Page],
    /// The address of the pool.
    base: u64,
    used: usize,
    root_level: u32,
    bits: u32,
}

/// What is at an address of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is the guest's, and mapped now.
    Mapped,
    /// It is kept from the guest.
    Hidden,
}

impl<'a> Tables<'a> {
    /// Begins with empty tables for addresses of `bits` bits, 32 to 48. `base` is the address of
    /// `pool`, a multiple of 64 KiB, so that first tables that belong together are aligned.
    #[must_use]
    pub fn new(pool: &'a mut [Page], base: u64, bits: u32) -> Self {
        let bits = bits.clamp(32, 48);
        // Up to 16 tables of level 1 may stand side by side in place of one of level 0; in stage 1,
        // which is used with 48 bits, never.
        let root_level = if bits >= 44 { 0 } else { 1 };
        let root_tables = 1 << bits.saturating_sub(shift(root_level) + LEVEL_BITS);
        let used = usize::min(root_tables, pool.len());
        for page in pool.iter_mut().take(used) {
            page.fill(0);
        }
        Self {
            pool,
            base,
            used,
            root_level,
            bits,
        }
    }

    /// Returns the address of the first table.
    #[must_use]
    pub fn root(&self) -> u64 {
        self.base
    }

    /// Returns the level of the first table, 0 or 1.
    #[must_use]
    pub fn root_level(&self) -> u32 {
        self.root_level
    }

    /// Returns how many bits of addresses are translated.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Returns how many pages of the pool are in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Maps a range 1:1, from its first page to its last.
    ///
    /// # Errors
    /// As [`MapError`] says; a part of the range may be mapped then.
    pub fn map(&mut self, span: Span, attributes: Attributes) -> Result<(), MapError> {
        let mut next = span.start & !0xfff;
        while next < span.end {
            let level = (self.root_level.max(1)..=LAST_LEVEL)
                .find(|level| {
                    let size = 1_u64 << shift(*level);
                    next.is_multiple_of(size) && span.end - next >= size
                })
                .unwrap_or(LAST_LEVEL);
            self.set(next, level, attributes)?;
            next = next.saturating_add(1 << shift(level));
        }
        Ok(())
    }

    /// Maps what is around an address that the guest has come upon, 1:1, as much as can be without
    /// touching anything that is `hidden` from it.
    ///
    /// # Errors
    /// As [`MapError`] says.
    pub fn map_around(&mut self, address: u64, hidden: &[Span]) -> Result<Kept, MapError> {
        for level in self.root_level.max(1)..=LAST_LEVEL {
            let size = 1_u64 << shift(level);
            let around = Span::new(address & !(size - 1), size);
            if hidden.iter().all(|hidden| !hidden.overlaps(around)) {
                self.set(around.start, level, Attributes::GUEST)?;
                return Ok(Kept::Mapped);
            }
        }
        Ok(Kept::Hidden)
    }

    /// Maps a range, by pages, to what begins at `target`.
    ///
    /// # Errors
    /// As [`MapError`] says; a part of the range may be mapped then.
    pub fn redirect(&mut self, span: Span, target: u64) -> Result<(), MapError> {
        let pages = (span.start & !0xfff..span.end).step_by(4096);
        let targets = (target & !0xfff..).step_by(4096);
        for (page, target) in pages.zip(targets) {
            self.set_to(page, target, LAST_LEVEL, Attributes::GUEST)?;
        }
        Ok(())
    }

    /// Makes the entry of `level` for an address, 1:1.
    fn set(&mut self, address: u64, level: u32, attributes: Attributes) -> Result<(), MapError> {
        self.set_to(address, address, level, attributes)
    }

    /// Makes the entry of `level` for an address. A larger block there stays as it is.
    fn set_to(
        &mut self,
        address: u64,
        target: u64,
        level: u32,
        attributes: Attributes,
    ) -> Result<(), MapError> {
        if address >> self.bits != 0 {
            let bits = self.bits;
            return Err(MapError::Beyond { address, bits });
        }
        let mut table = 0;
        let mut at = self.root_level;
        let mut index = usize::try_from(address >> shift(at)).unwrap_or(0);
        // First tables that stand side by side are one long table.
        table += index >> LEVEL_BITS;
        index &= 511;
        while at < level {
            let entry = self.entry(table, index);
            table = if entry & TABLE_OR_PAGE == TABLE_OR_PAGE {
                self.number_of(entry & ADDRESS)
            } else if entry & VALID != 0 {
                return Ok(());
            } else {
                let new = self.add()?;
                let link = self.base + (new as u64) * 4096;
                self.put(table, index, link | TABLE_OR_PAGE);
                new
            };
            at += 1;
            index = usize::try_from(address >> shift(at) & 511).unwrap_or(0);
        }
        let kind = if level == LAST_LEVEL {
            TABLE_OR_PAGE
        } else {
            VALID
        };
        self.put(table, index, target | attributes.0 | kind);
        Ok(())
    }

    fn add(&mut self) -> Result<usize, MapError> {
        let pages = self.pool.len();
        let page = self
            .pool
            .get_mut(self.used)
            .ok_or(MapError::Full { pages })?;
        page.fill(0);
        self.used += 1;
        Ok(self.used - 1)
    }

    fn number_of(&self, address: u64) -> usize {
        usize::try_from(address.saturating_sub(self.base) / 4096).unwrap_or(usize::MAX)
    }

    fn entry(&self, table: usize, index: usize) -> u64 {
        let entry = self.pool.get(table).and_then(|page| page.get(index));
        entry.copied().unwrap_or(0)
    }

    fn put(&mut self, table: usize, index: usize, entry: u64) {
        if let Some(place) = self
            .pool
            .get_mut(table)
            .and_then(|page| page.get_mut(index))
        {
            *place = entry;
        }
    }
}

const fn shift(level: u32) -> u32 {
    PAGE_BITS + LEVEL_BITS * (LAST_LEVEL - level)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use trapline_arch::aarch64::PagingState;
    use trapline_arch::aarch64::control::Vtcr;
    use trapline_arch::{Gpa, Gva, PhysicalMemory};

    use super::*;

    const BASE: u64 = 0x4010_0000;

    struct Memory(Vec<Page>);

    impl PhysicalMemory for Memory {
        fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
            let bytes: Vec<u8> = self
                .0
                .iter()
                .flatten()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            let from = usize::try_from(address.0 - BASE).unwrap();
            let there = bytes.get(from..).unwrap_or_default();
            let len = buffer.len().min(there.len());
            buffer[..len].copy_from_slice(&there[..len]);
            len
        }
    }

    /// Makes stage 2 by `make` and returns the walk that the processor would do.
    fn stage_2(
        bits: u32,
        make: impl FnOnce(&mut Tables<'_>),
    ) -> impl Fn(u64) -> Option<(u64, u64)> {
        let mut pool = alloc::vec![[0; 512]; 64];
        let root_level = {
            let mut tables = Tables::new(&mut pool, BASE, bits);
            make(&mut tables);
            tables.root_level()
        };
        let memory = Memory(pool);
        let vtcr = Vtcr::new()
            .with_t0sz(u8::try_from(64 - bits).unwrap())
            .with_sl0(u8::try_from(2 - root_level).unwrap())
            .with_ps(5);
        move |address| {
            let paging = PagingState::stage_2(vtcr, BASE);
            let page = paging.translate(&memory, Gva(address)).ok()?;
            Some((page.gpa.0, page.page_size_bytes))
        }
    }

    #[test]
    fn the_walker_finds_what_is_mapped_around_an_address() {
        for bits in [36, 40, 42, 44, 48] {
            let walk = stage_2(bits, |tables| {
                let hidden = [Span::new(0x4020_0000, 0x3000)];
                for address in [
                    0x900_0000,
                    0x8000_1234,
                    0x4400_0000,
                    0x4020_5000,
                    0x4020_0123,
                ] {
                    let kept = tables.map_around(address, &hidden).unwrap();
                    let expected = if address == 0x4020_0123 {
                        Kept::Hidden
                    } else {
                        Kept::Mapped
                    };
                    assert_eq!(kept, expected);
                }
            });
            assert_eq!(walk(0x900_0000), Some((0x900_0000, 1 << 30)));
            assert_eq!(walk(0x8000_1234), Some((0x8000_1234, 1 << 30)));
            assert_eq!(walk(0x4400_1000), Some((0x4400_1000, 2 << 20)));
            assert_eq!(walk(0x4020_5678), Some((0x4020_5678, 4096)));
            assert_eq!(walk(0x4020_0000), None);
            assert_eq!(walk(0x4020_2fff), None);
            assert_eq!(walk(0x4020_6000), None, "{bits}");
        }
    }

    #[test]
    fn a_range_is_mapped_by_the_largest_blocks() {
        let walk = stage_2(48, |tables| {
            let span = Span::new(0x3fff_f000, 0x1000 + (1 << 30) + 0x20_1000);
            tables.map(span, Attributes::GUEST).unwrap();
        });
        assert_eq!(walk(0x3fff_f000), Some((0x3fff_f000, 4096)));
        assert_eq!(walk(0x4000_0000), Some((0x4000_0000, 1 << 30)));
        assert_eq!(walk(0x8000_0000), Some((0x8000_0000, 2 << 20)));
        assert_eq!(walk(0x8020_0000), Some((0x8020_0000, 4096)));
        assert_eq!(walk(0x8020_1000), None);
        assert_eq!(walk(0x3fff_e000), None);
    }

    #[test]
    fn a_range_may_lead_elsewhere() {
        let walk = stage_2(40, |tables| {
            let span = Span::new(0x801_0000, 0x2000);
            tables.redirect(span, 0x804_0000).unwrap();
            // What was come upon beside it does not change it.
            let kept = tables.map_around(0x801_2000, &[span]).unwrap();
            assert_eq!(kept, Kept::Mapped);
        });
        assert_eq!(walk(0x801_0004), Some((0x804_0004, 4096)));
        assert_eq!(walk(0x801_1000), Some((0x804_1000, 4096)));
        assert_eq!(walk(0x801_2000), Some((0x801_2000, 4096)));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mut pool = alloc::vec![[0; 512]; 2];
        let mut tables = Tables::new(&mut pool, BASE, 40);
        let beyond = tables.map_around(1 << 40, &[]);
        assert_eq!(
            beyond,
            Err(MapError::Beyond {
                address: 1 << 40,
                bits: 40
            })
        );
        let page = Span::new(0x1000, 0x1000);
        assert_eq!(
            tables.map(page, Attributes::GUEST),
            Err(MapError::Full { pages: 2 })
        );
    }
}
