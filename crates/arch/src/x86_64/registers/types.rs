//! Register types of the target description that GDB does not predefine.
//!
//! Vector types carry the names and shapes of GDB's own descriptions, because GDB builds its
//! pseudo-registers (`ymm0`, `zmm0`) from them.

use crate::{FlagField, GdbType};

const fn bit(name: &'static str, bit: u8) -> FlagField {
    FlagField {
        name,
        start: bit,
        end: bit,
    }
}

const fn bits(name: &'static str, start: u8, end: u8) -> FlagField {
    FlagField { name, start, end }
}

const fn vector(id: &'static str, element: &'static GdbType, count: u8) -> GdbType {
    GdbType::Vector { id, element, count }
}

pub(super) const INT64: GdbType = GdbType::Builtin("int64");
pub(super) const INT32: GdbType = GdbType::Builtin("int32");
pub(super) const UINT128: GdbType = GdbType::Builtin("uint128");
pub(super) const UINT64: GdbType = GdbType::Builtin("uint64");
pub(super) const UINT32: GdbType = GdbType::Builtin("uint32");
pub(super) const UINT16: GdbType = GdbType::Builtin("uint16");
pub(super) const CODE_PTR: GdbType = GdbType::Builtin("code_ptr");
pub(super) const DATA_PTR: GdbType = GdbType::Builtin("data_ptr");

/// The type of an XMM register.
pub(super) const VEC128: GdbType = GdbType::Union {
    id: "vec128",
    fields: &[
        (
            "v8_bfloat16",
            vector("v8bf16", &GdbType::Builtin("bfloat16"), 8),
        ),
        ("v8_half", vector("v8h", &GdbType::Builtin("ieee_half"), 8)),
        (
            "v4_float",
            vector("v4f", &GdbType::Builtin("ieee_single"), 4),
        ),
        (
            "v2_double",
            vector("v2d", &GdbType::Builtin("ieee_double"), 2),
        ),
        ("v16_int8", vector("v16i8", &GdbType::Builtin("int8"), 16)),
        ("v8_int16", vector("v8i16", &GdbType::Builtin("int16"), 8)),
        ("v4_int32", vector("v4i32", &GdbType::Builtin("int32"), 4)),
        ("v2_int64", vector("v2i64", &GdbType::Builtin("int64"), 2)),
        ("uint128", UINT128),
    ],
};

/// The type of the upper half of a ZMM register.
pub(super) const VEC256: GdbType = vector("v2ui128", &UINT128, 2);

/// Source: SDM vol. 1, "EFLAGS Register".
pub(super) const EFLAGS: GdbType = GdbType::Flags {
    id: "i386_eflags",
    size_bytes: 4,
    fields: &[
        bit("CF", 0),
        bit("", 1),
        bit("PF", 2),
        bit("AF", 4),
        bit("ZF", 6),
        bit("SF", 7),
        bit("TF", 8),
        bit("IF", 9),
        bit("DF", 10),
        bit("OF", 11),
        bits("IOPL", 12, 13),
        bit("NT", 14),
        bit("RF", 16),
        bit("VM", 17),
        bit("AC", 18),
        bit("VIF", 19),
        bit("VIP", 20),
        bit("ID", 21),
    ],
};

/// Source: SDM vol. 3A, "Control Registers".
const CR0_FIELDS: &[FlagField] = &[
    bit("PE", 0),
    bit("MP", 1),
    bit("EM", 2),
    bit("TS", 3),
    bit("ET", 4),
    bit("NE", 5),
    bit("WP", 16),
    bit("AM", 18),
    bit("NW", 29),
    bit("CD", 30),
    bit("PG", 31),
];
pub(super) const CR0: GdbType = GdbType::Flags {
    id: "x86_cr0",
    size_bytes: 8,
    fields: CR0_FIELDS,
};
pub(super) const CR0_NARROW: GdbType = GdbType::Flags {
    id: "x86_cr0",
    size_bytes: 4,
    fields: CR0_FIELDS,
};

/// Source: SDM vol. 3A, "Control Registers".
pub(super) const CR3: GdbType = GdbType::Flags {
    id: "x86_cr3",
    size_bytes: 8,
    fields: &[
        bits("PCID", 0, 11),
        bits("PDBR", 12, 60),
        bit("LAM_U57", 61),
        bit("LAM_U48", 62),
    ],
};
pub(super) const CR3_NARROW: GdbType = GdbType::Flags {
    id: "x86_cr3",
    size_bytes: 4,
    fields: &[bits("PCID", 0, 11), bits("PDBR", 12, 31)],
};

/// Source: SDM vol. 3A, "Control Registers".
const CR4_FIELDS: &[FlagField] = &[
    bit("VME", 0),
    bit("PVI", 1),
    bit("TSD", 2),
    bit("DE", 3),
    bit("PSE", 4),
    bit("PAE", 5),
    bit("MCE", 6),
    bit("PGE", 7),
    bit("PCE", 8),
    bit("OSFXSR", 9),
    bit("OSXMMEXCPT", 10),
    bit("UMIP", 11),
    bit("LA57", 12),
    bit("VMXE", 13),
    bit("SMXE", 14),
    bit("FSGSBASE", 16),
    bit("PCIDE", 17),
    bit("OSXSAVE", 18),
    bit("KL", 19),
    bit("SMEP", 20),
    bit("SMAP", 21),
    bit("PKE", 22),
    bit("CET", 23),
    bit("PKS", 24),
    bit("UINTR", 25),
    bit("LASS", 27),
    bit("LAM_SUP", 28),
];
pub(super) const CR4: GdbType = GdbType::Flags {
    id: "x86_cr4",
    size_bytes: 8,
    fields: CR4_FIELDS,
};
pub(super) const CR4_NARROW: GdbType = GdbType::Flags {
    id: "x86_cr4",
    size_bytes: 4,
    fields: CR4_FIELDS,
};

/// Source: APM vol. 2, "Extended Feature Enable Register (EFER)".
const EFER_FIELDS: &[FlagField] = &[
    bit("SCE", 0),
    bit("LME", 8),
    bit("LMA", 10),
    bit("NXE", 11),
    bit("SVME", 12),
    bit("LMSLE", 13),
    bit("FFXSR", 14),
    bit("TCE", 15),
];
pub(super) const EFER: GdbType = GdbType::Flags {
    id: "x86_efer",
    size_bytes: 8,
    fields: EFER_FIELDS,
};
pub(super) const EFER_NARROW: GdbType = GdbType::Flags {
    id: "x86_efer",
    size_bytes: 4,
    fields: EFER_FIELDS,
};

/// Source: SDM vol. 1, "MXCSR Control and Status Register".
pub(super) const MXCSR: GdbType = GdbType::Flags {
    id: "i386_mxcsr",
    size_bytes: 4,
    fields: &[
        bit("IE", 0),
        bit("DE", 1),
        bit("ZE", 2),
        bit("OE", 3),
        bit("UE", 4),
        bit("PE", 5),
        bit("DAZ", 6),
        bit("IM", 7),
        bit("DM", 8),
        bit("ZM", 9),
        bit("OM", 10),
        bit("UM", 11),
        bit("PM", 12),
        bits("RC", 13, 14),
        bit("FZ", 15),
    ],
};

/// Source: SDM vol. 3B, "Debug Status Register (DR6)". BLD and RTM read 1 when nothing happened.
pub(super) const DR6: GdbType = GdbType::Flags {
    id: "x86_dr6",
    size_bytes: 8,
    fields: &[
        bit("B0", 0),
        bit("B1", 1),
        bit("B2", 2),
        bit("B3", 3),
        bit("BLD", 11),
        bit("BD", 13),
        bit("BS", 14),
        bit("BT", 15),
        bit("RTM", 16),
    ],
};

/// Source: SDM vol. 3B, "Debug Control Register (DR7)".
pub(super) const DR7: GdbType = GdbType::Flags {
    id: "x86_dr7",
    size_bytes: 8,
    fields: &[
        bit("L0", 0),
        bit("G0", 1),
        bit("L1", 2),
        bit("G1", 3),
        bit("L2", 4),
        bit("G2", 5),
        bit("L3", 6),
        bit("G3", 7),
        bit("LE", 8),
        bit("GE", 9),
        bit("RTM", 11),
        bit("GD", 13),
        bits("RW0", 16, 17),
        bits("LEN0", 18, 19),
        bits("RW1", 20, 21),
        bits("LEN1", 22, 23),
        bits("RW2", 24, 25),
        bits("LEN2", 26, 27),
        bits("RW3", 28, 29),
        bits("LEN3", 30, 31),
    ],
};
