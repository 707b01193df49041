//! The shape of a tree of tables: granule, levels, and the widths of addresses.

use core::fmt;

use crate::aarch64::{
    control::{Tcr, Vtcr},
    tags::Half,
};

/// The size of the smallest page, and of a whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

impl Granule {
    /// Returns how many low bits of an address are an offset in a page.
    #[must_use]
    pub const fn page_bits(self) -> u32 {
        match self {
            Self::Kib4 => 12,
            Self::Kib16 => 14,
            Self::Kib64 => 16,
        }
    }

    /// Returns how many bits of an address one level resolves.
    #[must_use]
    pub const fn level_bits(self) -> u32 {
        match self {
            Self::Kib4 => 9,
            Self::Kib16 => 11,
            Self::Kib64 => 13,
        }
    }

    /// Decodes TG0 of TCR or VTCR; the reserved value counts as 4 KiB, as a processor may take it.
    const fn from_tg0(bits: u8) -> Self {
        match bits & 0b11 {
            0b01 => Self::Kib64,
            0b10 => Self::Kib16,
            _ => Self::Kib4,
        }
    }

    /// Decodes TG1, whose encoding is another one.
    const fn from_tg1(bits: u8) -> Self {
        match bits & 0b11 {
            0b01 => Self::Kib16,
            0b11 => Self::Kib64,
            _ => Self::Kib4,
        }
    }
}

impl fmt::Display for Granule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kib4 => "4 KiB",
            Self::Kib16 => "16 KiB",
            Self::Kib64 => "64 KiB",
        })
    }
}

/// The shape of a tree of tables.
///
/// Source: Arm ARM, "Translation granules", "Concatenated translation tables" and "The
/// implications of the effective translation granule and address sizes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// The granule.
    pub granule: Granule,
    /// How many low bits of an address are translated.
    pub input_bits: u32,
    /// The width of the addresses that come out.
    pub output_bits: u32,
    /// The level at which a walk starts, -1 to 3; 3 is the lowest.
    pub start_level: i8,
    /// Descriptors of granules of 4 and 16 KiB have 52-bit addresses (`FEAT_LPA2`).
    pub wide: Wide,
    /// Whether the control registers describe a tree at all. If not, every walk is a translation
    /// fault at level 0.
    pub validity: Validity,
}

/// Whether granules of 4 and 16 KiB use the descriptor format of 52-bit addresses (TCR.DS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wide {
    /// They do.
    On,
    /// They do not.
    Off,
}

/// Whether the size of a tree's input is one that its granule has tables for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Validity {
    /// It is.
    Valid,
    /// It is not.
    Invalid,
}

impl Geometry {
    /// Returns the shape of the tables of one half in stage 1.
    #[must_use]
    pub const fn of_stage_1(tcr: Tcr, half: Half) -> Self {
        let (granule, size) = match half {
            Half::Lower => (Granule::from_tg0(tcr.tg0()), tcr.t0sz()),
            Half::Upper => (Granule::from_tg1(tcr.tg1()), tcr.t1sz()),
        };
        let wide = wide(granule, tcr.ds());
        let input_bits = 64_u32.saturating_sub(size as u32);
        let beyond_page = input_bits.saturating_sub(granule.page_bits());
        let levels = beyond_page.div_ceil(granule.level_bits());
        Self {
            granule,
            input_bits,
            output_bits: output_bits(granule, wide, tcr.ips()),
            start_level: level_from_count(levels),
            wide,
            validity: validity(granule, wide, input_bits),
        }
    }

    /// Returns the shape of the tables of stage 2.
    #[must_use]
    pub const fn of_stage_2(vtcr: Vtcr) -> Self {
        let granule = Granule::from_tg0(vtcr.tg0());
        let wide = wide(granule, vtcr.ds());
        let input_bits = 64_u32.saturating_sub(vtcr.t0sz() as u32);
        let start_level = stage_2_start(granule, wide, vtcr);
        let geometry = Self {
            granule,
            input_bits,
            output_bits: output_bits(granule, wide, vtcr.ps()),
            start_level,
            wide,
            validity: validity(granule, wide, input_bits),
        };
        // A first table must have at least two entries, and there are at most 16 of them.
        let below = geometry.shift(start_level);
        let first_bits = input_bits.saturating_sub(below);
        if input_bits <= below || first_bits > granule.level_bits().saturating_add(4) {
            return Self {
                validity: Validity::Invalid,
                ..geometry
            };
        }
        geometry
    }

    /// Returns how many low bits of an address the entry of `level` leaves untranslated.
    #[must_use]
    pub const fn shift(&self, level: i8) -> u32 {
        let below = 3_i8.saturating_sub(level).unsigned_abs() as u32;
        self.granule
            .page_bits()
            .saturating_add(below.saturating_mul(self.granule.level_bits()))
    }

    /// Returns how many bytes one entry of `level` covers.
    #[must_use]
    pub const fn covered_bytes(&self, level: i8) -> u64 {
        1_u64.unbounded_shl(self.shift(level))
    }

    /// Returns the index of the entry for `address` in the tables of `level`. The first level has as
    /// many entries as are needed, which may be more than a page of them.
    pub(super) const fn index(&self, level: i8, address: u64) -> u64 {
        let bits = if level == self.start_level {
            self.input_bits.saturating_sub(self.shift(level))
        } else {
            self.granule.level_bits()
        };
        address.unbounded_shr(self.shift(level)) & low_bits(bits)
    }

    /// Returns how many low bits of the address of the first table are zero.
    pub(super) fn start_alignment_bits(&self) -> u32 {
        let index_bits = self.input_bits.saturating_sub(self.shift(self.start_level));
        let smallest = if self.output_bits > 48 { 6 } else { 4 };
        index_bits.saturating_add(3).max(smallest)
    }

    /// Returns whether an entry of `level` that is no table can map a block.
    ///
    /// Source: Arm ARM, "VMSAv8-64 Block descriptor and Page descriptor".
    pub(super) const fn has_blocks(&self, level: i8) -> bool {
        let highest = match (self.granule, self.wide) {
            (Granule::Kib4, Wide::On) => 0,
            (Granule::Kib4, Wide::Off) | (Granule::Kib16, Wide::On) => 1,
            (Granule::Kib64, _) if self.output_bits > 48 => 1,
            (Granule::Kib16, Wide::Off) | (Granule::Kib64, _) => 2,
        };
        level >= highest && level < 3
    }

    /// Returns how many adjacent entries of `level` share one entry of the TLB if their contiguous
    /// bit is set; `None` where that bit means nothing.
    ///
    /// Source: Arm ARM, "The Contiguous bit".
    #[must_use]
    pub const fn contiguous_entries(&self, level: i8) -> Option<u64> {
        match (self.granule, level) {
            (Granule::Kib4, 1..=3) => Some(16),
            (Granule::Kib16, 3) => Some(128),
            (Granule::Kib16, 2) | (Granule::Kib64, 2..=3) => Some(32),
            _ => None,
        }
    }
}

/// Returns `bits` ones, at most 64.
pub(super) const fn low_bits(bits: u32) -> u64 {
    !u64::MAX.unbounded_shl(bits)
}

const fn wide(granule: Granule, ds: bool) -> Wide {
    match granule {
        Granule::Kib4 | Granule::Kib16 if ds => Wide::On,
        Granule::Kib4 | Granule::Kib16 | Granule::Kib64 => Wide::Off,
    }
}

/// Decodes IPS or PS.
const fn output_bits(granule: Granule, wide: Wide, size: u8) -> u32 {
    match (size, granule, wide) {
        (0b000, _, _) => 32,
        (0b001, _, _) => 36,
        (0b010, _, _) => 40,
        (0b011, _, _) => 42,
        (0b100, _, _) => 44,
        (0b101, _, _) => 48,
        (_, Granule::Kib64, _) | (_, _, Wide::On) => 52,
        (_, Granule::Kib4 | Granule::Kib16, Wide::Off) => 48,
    }
}

/// The smallest sizes are those of `FEAT_TTST`, the largest those of `FEAT_LVA` and `FEAT_LPA2`.
const fn validity(granule: Granule, wide: Wide, input_bits: u32) -> Validity {
    let (smallest, largest) = match (granule, wide) {
        (Granule::Kib64, _) => (17, 52),
        (Granule::Kib4 | Granule::Kib16, Wide::On) => (16, 52),
        (Granule::Kib4 | Granule::Kib16, Wide::Off) => (16, 48),
    };
    if input_bits >= smallest && input_bits <= largest {
        Validity::Valid
    } else {
        Validity::Invalid
    }
}

/// Returns the level from which `levels` levels lead to level 3.
const fn level_from_count(levels: u32) -> i8 {
    match levels {
        0 | 1 => 3,
        2 => 2,
        3 => 1,
        4 => 0,
        _ => -1,
    }
}

/// Source: Arm ARM, "`VTCR_EL2`, Virtualization Translation Control Register", fields SL0 and SL2.
const fn stage_2_start(granule: Granule, wide: Wide, vtcr: Vtcr) -> i8 {
    match (granule, vtcr.sl0()) {
        (Granule::Kib4, 0b00) => match wide {
            Wide::On if vtcr.sl2() => -1,
            Wide::On | Wide::Off => 2,
        },
        (Granule::Kib4, 0b01) => 1,
        (Granule::Kib4, 0b10) => 0,
        (Granule::Kib4, _) => 3,
        (Granule::Kib16 | Granule::Kib64, 0b00) => 3,
        (Granule::Kib16 | Granule::Kib64, 0b01) => 2,
        (Granule::Kib16 | Granule::Kib64, 0b10) => 1,
        (Granule::Kib16 | Granule::Kib64, _) => 0,
    }
}
