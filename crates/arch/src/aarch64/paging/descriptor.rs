//! Translation table descriptors.

use bitfield_struct::bitfield;

use super::geometry::{Geometry, Granule, Wide, low_bits};

/// A descriptor of a translation table of any level and stage.
///
/// ```text
///  63 62    61 60     59      54  53  52   51  50 49          12 11 10 9  8 7  6 5     2  1    0
/// ┌──┬────────┬────────┬─────┬───┬───┬────┬───┬──┬──────────────┬──┬──┬────┬────┬───────┬────┬───┐
/// │NS│APTable │XN, PXN │     │UXN│PXN│cont│DBM│GP│   address    │nG│AF│ SH │ AP │ attr. │type│ v │
/// │       table: its limits │    block or page    │              │    block or page      │    │   │
/// └──┴────────┴────────┴─────┴───┴───┴────┴───┴──┴──────────────┴──┴──┴────┴────┴───────┴────┴───┘
/// ```
///
/// Source: Arm ARM, "VMSAv8-64 translation table format descriptors".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Descriptor {
    /// Valid.
    pub valid: bool,
    /// A table, or a page at level 3. Clear for a block.
    pub table: bool,
    /// The index of the memory type in MAIR, and NS; in stage 2 the memory type.
    #[bits(4)]
    pub attributes: u8,
    /// Access permissions: AP[2:1], in stage 2 S2AP.
    #[bits(2)]
    pub ap: u8,
    /// Shareability, or bits 51:50 of the address with `FEAT_LPA2`.
    #[bits(2)]
    pub sh: u8,
    /// The access flag.
    pub af: bool,
    /// Not global: the entry belongs to the current address space.
    pub n_g: bool,
    /// Bits 49:12 of the address; which of them are used depends on level and granule.
    #[bits(38)]
    pub address: u64,
    /// Guarded page: indirect branches must land on a BTI.
    pub gp: bool,
    /// Dirty bit modifier: hardware may make the page writable.
    pub dbm: bool,
    /// One of a group of entries that map adjacent memory.
    pub contiguous: bool,
    /// Not executable at EL1.
    pub pxn: bool,
    /// Not executable at EL0, or in stage 2 not executable.
    pub uxn: bool,
    /// Ignored, for software.
    #[bits(4)]
    pub software: u8,
    /// Of a table: PXN for all below.
    pub pxn_table: bool,
    /// Of a table: UXN for all below.
    pub uxn_table: bool,
    /// Of a table: limits of access for all below.
    #[bits(2)]
    pub ap_table: u8,
    /// Of a table: not secure.
    pub ns_table: bool,
}

const _: () = assert!(size_of::<Descriptor>() == 8);

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DescriptorKind {
    /// It maps nothing.
    Invalid,
    /// It leads to a table of the next level.
    Table,
    /// It maps a block at a level above the lowest.
    Block,
    /// It maps a page.
    Page,
}

impl Descriptor {
    /// Returns what the descriptor is at `level` of a tree.
    #[must_use]
    pub const fn kind(self, geometry: &Geometry, level: i8) -> DescriptorKind {
        match (self.valid(), self.table(), level) {
            (true, true, 3) => DescriptorKind::Page,
            (true, true, _) => DescriptorKind::Table,
            (true, false, _) if geometry.has_blocks(level) => DescriptorKind::Block,
            _ => DescriptorKind::Invalid,
        }
    }

    /// Returns the address of the next table, block or page, of which the entry covers
    /// 2^`shift` bytes.
    pub(super) const fn output(self, geometry: &Geometry, shift: u32) -> u64 {
        let bits = self.into_bits();
        let (low_to, high) = match (geometry.granule, geometry.wide) {
            (Granule::Kib64, _) => (48, (bits >> 12 & 0xf) << 48),
            (Granule::Kib4 | Granule::Kib16, Wide::On) => (50, (bits >> 8 & 0b11) << 50),
            (Granule::Kib4 | Granule::Kib16, Wide::Off) => (48, 0),
        };
        bits & low_bits(low_to) & !low_bits(shift) | high
    }
}
