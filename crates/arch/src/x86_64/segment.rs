//! Segment registers with their hidden parts.

use bitfield_struct::bitfield;

use super::registers;
use crate::{RegisterFile, RegisterId};

/// The attributes of a segment, in the format of a VMCS access-rights field.
///
/// ```text
///  31      17  16    15  14   13   12   11    8   7   6   5   4   3    0
/// ┌──────────┬─────┬───┬─────┬───┬─────┬───────┬───┬───────┬───┬────────┐
/// │          │ UNU │ G │ D/B │ L │ AVL │       │ P │  DPL  │ S │  type  │
/// └──────────┴─────┴───┴─────┴───┴─────┴───────┴───┴───────┴───┴────────┘
/// ```
///
/// Source: SDM vol. 3C, "Guest Register State", "Format of Access Rights".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SegmentAttributes {
    /// The descriptor's type.
    #[bits(4)]
    pub r#type: u8,
    /// A code or data segment, not a system segment.
    pub s: bool,
    /// Descriptor privilege level.
    #[bits(2)]
    pub dpl: u8,
    /// Present.
    pub p: bool,
    #[bits(4)]
    __: u8,
    /// Free for software.
    pub avl: bool,
    /// 64-bit code.
    pub l: bool,
    /// 32-bit code, or a 32-bit stack pointer.
    pub db: bool,
    /// The limit in the descriptor counts pages. The limit in [`Segment`] counts bytes always.
    pub g: bool,
    /// The register holds no segment (a null selector was loaded).
    pub unusable: bool,
    #[bits(15)]
    __: u16,
}

/// A segment register's visible and hidden parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The linear address of offset 0.
    pub base: u64,
    /// The highest valid offset in bytes; in an expand-down segment, the highest invalid one.
    pub limit: u32,
    /// Type, privilege and size.
    pub attributes: SegmentAttributes,
}

/// The name of a segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentRegister {
    /// Extra.
    Es,
    /// Code.
    Cs,
    /// Stack.
    Ss,
    /// Data.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// Task register.
    Tr,
    /// Local descriptor table register.
    Ldtr,
}

/// Where the parts of a segment register are in the register file.
struct Parts {
    selector: RegisterId,
    base: RegisterId,
    limit: RegisterId,
    attributes: RegisterId,
}

macro_rules! parts {
    ($selector:ident, $base:ident, $limit:ident, $attributes:ident) => {
        Parts {
            selector: registers::$selector,
            base: registers::$base,
            limit: registers::$limit,
            attributes: registers::$attributes,
        }
    };
}

impl SegmentRegister {
    /// Every segment register; the first six in the order of their encoding.
    pub const ALL: [Self; 8] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Tr,
        Self::Ldtr,
    ];

    const fn parts(self) -> Parts {
        match self {
            Self::Es => parts!(ES, ES_BASE, ES_LIMIT, ES_ATTRIBUTES),
            Self::Cs => parts!(CS, CS_BASE, CS_LIMIT, CS_ATTRIBUTES),
            Self::Ss => parts!(SS, SS_BASE, SS_LIMIT, SS_ATTRIBUTES),
            Self::Ds => parts!(DS, DS_BASE, DS_LIMIT, DS_ATTRIBUTES),
            Self::Fs => parts!(FS, FS_BASE, FS_LIMIT, FS_ATTRIBUTES),
            Self::Gs => parts!(GS, GS_BASE, GS_LIMIT, GS_ATTRIBUTES),
            Self::Tr => parts!(TR, TR_BASE, TR_LIMIT, TR_ATTRIBUTES),
            Self::Ldtr => parts!(LDTR, LDTR_BASE, LDTR_LIMIT, LDTR_ATTRIBUTES),
        }
    }

    /// Returns the segment's base, the linear address of its offset 0.
    #[must_use]
    pub fn base(self, registers: &RegisterFile) -> u64 {
        registers.u64(self.parts().base)
    }

    /// Returns the segment's attributes.
    #[must_use]
    pub fn attributes(self, registers: &RegisterFile) -> SegmentAttributes {
        SegmentAttributes::from_bits(low_32(registers.u64(self.parts().attributes)))
    }

    /// Reads the segment register.
    #[must_use]
    pub fn read(self, registers: &RegisterFile) -> Segment {
        let parts = self.parts();
        Segment {
            selector: low_16(registers.u64(parts.selector)),
            base: registers.u64(parts.base),
            limit: low_32(registers.u64(parts.limit)),
            attributes: self.attributes(registers),
        }
    }

    /// Writes the segment register.
    pub fn write(self, registers: &mut RegisterFile, segment: Segment) {
        let parts = self.parts();
        registers.set_u64(parts.selector, segment.selector.into());
        registers.set_u64(parts.base, segment.base);
        registers.set_u64(parts.limit, segment.limit.into());
        registers.set_u64(parts.attributes, segment.attributes.into_bits().into());
    }
}

/// Returns bits 31:0.
#[expect(clippy::cast_possible_truncation, reason = "truncation is the purpose")]
pub(super) const fn low_32(value: u64) -> u32 {
    value as u32
}

/// Returns bits 15:0.
#[expect(clippy::cast_possible_truncation, reason = "truncation is the purpose")]
pub(super) const fn low_16(value: u64) -> u16 {
    value as u16
}
