//! Page-table entries.

use bitfield_struct::bitfield;
use bitflags::bitflags;

use super::{LargePages, PagingMode};
use crate::Gpa;

/// An entry of a page table of any level. Entries of 32-bit paging are zero-extended.
///
/// ```text
///  63  62 59 58 52 51          12 11  9  8   7   6   5   4    3    2    1   0
/// ┌───┬─────┬─────┬──────────────┬─────┬───┬────┬───┬───┬─────┬─────┬────┬────┬───┐
/// │NX │ PK  │ avl │    frame     │ avl │ G │ PS │ D │ A │ PCD │ PWT │ US │ RW │ P │
/// └───┴─────┴─────┴──────────────┴─────┴───┴────┴───┴───┴─────┴─────┴────┴────┴───┘
/// ```
///
/// Source: SDM vol. 3A, "4-Level Paging and 5-Level Paging", "32-Bit Paging", "PAE Paging".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Entry {
    /// Present.
    pub p: bool,
    /// Writable.
    pub rw: bool,
    /// Open to user code.
    pub us: bool,
    /// Write-through.
    pub pwt: bool,
    /// Cache disable.
    pub pcd: bool,
    /// Accessed.
    pub a: bool,
    /// Dirty; only in an entry that maps a page.
    pub d: bool,
    /// Maps a page at a level above the lowest. In the lowest it is a bit of the memory type.
    pub ps: bool,
    /// Global; only in an entry that maps a page.
    pub g: bool,
    /// Ignored.
    #[bits(3)]
    pub avl: u8,
    /// The page-frame number of the next table or of the page.
    #[bits(40)]
    pub frame: u64,
    /// Ignored, or reserved in PAE paging.
    #[bits(7)]
    pub avl_58_52: u8,
    /// Protection key; only in an entry that maps a page.
    #[bits(4)]
    pub pk: u8,
    /// Not executable.
    pub nx: bool,
}

const _: () = assert!(size_of::<Entry>() == 8);

/// An entry that maps 4 MiB in 32-bit paging.
///
/// Source: SDM vol. 3A, "32-Bit Paging", "Format of a 32-Bit Page-Directory Entry that Maps a
/// 4-MByte Page".
#[bitfield(u32)]
pub(super) struct LargeEntry32 {
    #[bits(13)]
    __: u16,
    /// Bits 39:32 of the page's address.
    pub(super) frame_39_32: u8,
    pub(super) reserved_21: bool,
    /// Bits 31:22 of the page's address.
    #[bits(10)]
    pub(super) frame_31_22: u16,
}

const _: () = assert!(size_of::<LargeEntry32>() == 4);

bitflags! {
    /// What a translation says of a page besides its address.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PageFlags: u8 {
        /// Every level allows writes.
        const WRITABLE = 1 << 0;
        /// Every level is open to user code.
        const USER = 1 << 1;
        /// No level forbids execution.
        const EXECUTABLE = 1 << 2;
        /// The page was accessed.
        const ACCESSED = 1 << 3;
        /// The page was written to.
        const DIRTY = 1 << 4;
        /// The translation outlives a change of CR3.
        const GLOBAL = 1 << 5;
    }
}

impl PageFlags {
    /// The flags that decide who may do what.
    pub const PERMISSIONS: Self = Self::WRITABLE.union(Self::USER).union(Self::EXECUTABLE);
}

/// The shape of one mode's tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// How many levels there are; the lowest is 1.
    pub(super) levels: u8,
    /// How many bits of an address one table resolves, 9 or 10.
    pub(super) index_bits: u32,
    /// The size of an entry in bytes.
    pub(super) entry_bytes: u64,
}

impl PagingMode {
    pub(super) const fn geometry(self) -> Option<Geometry> {
        let (levels, index_bits, entry_bytes) = match self {
            Self::None => return None,
            Self::Bits32 { .. } => (2, 10, 4),
            Self::Pae => (3, 9, 8),
            Self::FourLevel => (4, 9, 8),
            Self::FiveLevel => (5, 9, 8),
        };
        Some(Geometry {
            levels,
            index_bits,
            entry_bytes,
        })
    }

    /// Returns whether an entry of `level` maps a page.
    pub(super) const fn is_leaf(self, level: u8, entry: Entry) -> bool {
        match self {
            Self::None => false,
            Self::Bits32 {
                large_pages: LargePages::Off,
            } => level == 1,
            Self::Bits32 {
                large_pages: LargePages::On,
            }
            | Self::Pae => level == 1 || (level == 2 && entry.ps()),
            Self::FourLevel | Self::FiveLevel => {
                level == 1 || (matches!(level, 2 | 3) && entry.ps())
            }
        }
    }

    /// Returns whether the entries of `level` restrict writes and user accesses. The four
    /// top-level entries of PAE paging do not.
    pub(super) const fn has_permissions(self, level: u8) -> bool {
        !matches!((self, level), (Self::Pae, 3))
    }
}

impl Geometry {
    /// Returns the number of address bits below those that `level` resolves.
    pub(super) const fn shift(self, level: u8) -> u32 {
        let below = (level as u32).saturating_sub(1);
        self.index_bits.saturating_mul(below).saturating_add(12)
    }

    /// Returns how many bytes an entry of `level` covers.
    pub(super) fn covered_bytes(self, level: u8) -> u64 {
        1_u64.checked_shl(self.shift(level)).unwrap_or(u64::MAX)
    }

    /// Returns which entry of a table of `level` translates `address`.
    ///
    /// The index is not cut to the top level's width: that is left to the caller's check that the
    /// address is canonical, after which the bits above are 0 or copies of the highest.
    pub(super) fn index(self, level: u8, address: u64) -> u64 {
        let mask = (1_u64 << self.index_bits).wrapping_sub(1);
        address.checked_shr(self.shift(level)).unwrap_or(0) & mask
    }
}

/// Bits that must be 0 in an entry of `level` that is present.
pub(super) fn reserved_bits(
    mode: PagingMode,
    level: u8,
    entry: Entry,
    physical_bits: u32,
    no_execute: bool,
) -> u64 {
    let nx = if no_execute {
        Entry::new()
    } else {
        Entry::new().with_nx(true)
    };
    let too_high = Entry::new()
        .with_frame(u64::MAX.unbounded_shl(physical_bits.saturating_sub(12)) & FRAME_MAX);
    let common = nx.into_bits() | too_high.into_bits();
    let leaf = mode.is_leaf(level, entry);
    match mode {
        PagingMode::None => 0,
        PagingMode::Bits32 { .. } if leaf && level == 2 => {
            let high = 0xff_u8.unbounded_shl(physical_bits.saturating_sub(32));
            LargeEntry32::new()
                .with_reserved_21(true)
                .with_frame_39_32(high)
                .into_bits()
                .into()
        }
        PagingMode::Bits32 { .. } => 0,
        // The four entries at the top are loaded, and their reserved bits checked, when CR3 is
        // written. In a table that is in use no bit of theirs faults any more: emulators set the
        // accessed bit there (SDM vol. 3A, "PDPTE Registers").
        PagingMode::Pae if level == 3 => 0,
        PagingMode::Pae => {
            let upper = Entry::new().with_avl_58_52(0x7f).with_pk(0xf);
            common | upper.into_bits() | below_page(leaf, level)
        }
        PagingMode::FourLevel | PagingMode::FiveLevel => {
            let top = Entry::new().with_ps(level >= 4);
            common | top.into_bits() | below_page(leaf, level)
        }
    }
}

const FRAME_MAX: u64 = (1 << 40) - 1;

/// The frame bits of an entry that maps a large page, below the page's size; the lowest of them
/// selects the memory type.
fn below_page(leaf: bool, level: u8) -> u64 {
    let frame = match level {
        2 if leaf => (1 << 9) - 2,
        3 if leaf => (1 << 18) - 2,
        _ => 0,
    };
    Entry::new().with_frame(frame).into_bits()
}

/// Returns where the page starts that an entry of `level` maps.
pub(super) fn page_start(mode: PagingMode, level: u8, entry: Entry, covered_bytes: u64) -> Gpa {
    if let (PagingMode::Bits32 { .. }, 2) = (mode, level) {
        let large = LargeEntry32::from_bits(super::super::segment::low_32(entry.into_bits()));
        return Gpa(u64::from(large.frame_39_32()) << 32 | u64::from(large.frame_31_22()) << 22);
    }
    table_start(entry).align_down(covered_bytes)
}

/// Returns where the table or 4 KiB page starts that an entry points to.
pub(super) const fn table_start(entry: Entry) -> Gpa {
    Gpa(entry.frame() << 12)
}
