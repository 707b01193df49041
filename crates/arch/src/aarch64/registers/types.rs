//! Register types of the target description that GDB does not predefine.
//!
//! The vector types carry the names and shapes of GDB's own descriptions, because GDB builds its
//! pseudo-registers (`q0`, `d0`, `v0` of a vCPU with SVE) from them and users know their fields.

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

const fn scalable(id: &'static str, element: &'static GdbType, per_quadword: u8) -> GdbType {
    GdbType::ScalableVector {
        id,
        element,
        per_quadword,
    }
}

const fn union(id: &'static str, fields: &'static [(&'static str, GdbType)]) -> GdbType {
    GdbType::Union { id, fields }
}

const fn flags(id: &'static str, size_bytes: u8, fields: &'static [FlagField]) -> GdbType {
    GdbType::Flags {
        id,
        size_bytes,
        fields,
    }
}

pub(super) const INT: GdbType = GdbType::Builtin("int");
pub(super) const INT64: GdbType = GdbType::Builtin("int64");
pub(super) const UINT64: GdbType = GdbType::Builtin("uint64");
pub(super) const CODE_PTR: GdbType = GdbType::Builtin("code_ptr");
pub(super) const DATA_PTR: GdbType = GdbType::Builtin("data_ptr");

const UINT128: GdbType = GdbType::Builtin("uint128");
const INT128: GdbType = GdbType::Builtin("int128");
const DOUBLE: GdbType = GdbType::Builtin("ieee_double");
const SINGLE: GdbType = GdbType::Builtin("ieee_single");
const HALF: GdbType = GdbType::Builtin("ieee_half");
const BFLOAT16: GdbType = GdbType::Builtin("bfloat16");
const UINT32: GdbType = GdbType::Builtin("uint32");
const INT32: GdbType = GdbType::Builtin("int32");
const UINT16: GdbType = GdbType::Builtin("uint16");
const INT16: GdbType = GdbType::Builtin("int16");
const UINT8: GdbType = GdbType::Builtin("uint8");
const INT8: GdbType = GdbType::Builtin("int8");

/// The type of a SIMD and floating-point register.
pub(super) const V: GdbType = union(
    "aarch64v",
    &[
        (
            "d",
            union(
                "vnd",
                &[
                    ("f", vector("v2d", &DOUBLE, 2)),
                    ("u", vector("v2u", &UINT64, 2)),
                    ("s", vector("v2i", &INT64, 2)),
                ],
            ),
        ),
        (
            "s",
            union(
                "vns",
                &[
                    ("f", vector("v4f", &SINGLE, 4)),
                    ("u", vector("v4u", &UINT32, 4)),
                    ("s", vector("v4i", &INT32, 4)),
                ],
            ),
        ),
        (
            "h",
            union(
                "vnh",
                &[
                    ("bf", vector("v8bf16", &BFLOAT16, 8)),
                    ("f", vector("v8f", &HALF, 8)),
                    ("u", vector("v8u", &UINT16, 8)),
                    ("s", vector("v8i", &INT16, 8)),
                ],
            ),
        ),
        (
            "b",
            union(
                "vnb",
                &[
                    ("u", vector("v16u", &UINT8, 16)),
                    ("s", vector("v16i", &INT8, 16)),
                ],
            ),
        ),
        (
            "q",
            union(
                "vnq",
                &[
                    ("u", vector("v1u", &UINT128, 1)),
                    ("s", vector("v1i", &INT128, 1)),
                ],
            ),
        ),
    ],
);

/// The type of a scalable vector register.
pub(super) const Z: GdbType = union(
    "svev",
    &[
        (
            "q",
            union(
                "svevnq",
                &[
                    ("u", scalable("svevqu", &UINT128, 1)),
                    ("s", scalable("svevqs", &INT128, 1)),
                ],
            ),
        ),
        (
            "d",
            union(
                "svevnd",
                &[
                    ("f", scalable("svevdf", &DOUBLE, 2)),
                    ("u", scalable("svevdu", &UINT64, 2)),
                    ("s", scalable("svevds", &INT64, 2)),
                ],
            ),
        ),
        (
            "s",
            union(
                "svevns",
                &[
                    ("f", scalable("svevsf", &SINGLE, 4)),
                    ("u", scalable("svevsu", &UINT32, 4)),
                    ("s", scalable("svevss", &INT32, 4)),
                ],
            ),
        ),
        (
            "h",
            union(
                "svevnh",
                &[
                    ("f", scalable("svevhf", &HALF, 8)),
                    ("u", scalable("svevhu", &UINT16, 8)),
                    ("s", scalable("svevhs", &INT16, 8)),
                ],
            ),
        ),
        (
            "b",
            union(
                "svevnb",
                &[
                    ("u", scalable("svevbu", &UINT8, 16)),
                    ("s", scalable("svevbs", &INT8, 16)),
                ],
            ),
        ),
    ],
);

/// The type of a predicate register: a bit for each byte of a vector.
pub(super) const P: GdbType = scalable("svep", &UINT8, 2);

/// The fields of the process state, in the form in which an exception saves it.
///
/// Source: Arm ARM, "`SPSR_EL1`, Saved Program Status Register (EL1)".
const CPSR_FIELDS: &[FlagField] = &[
    bit("SP", 0),
    bits("EL", 2, 3),
    bit("nRW", 4),
    bit("F", 6),
    bit("I", 7),
    bit("A", 8),
    bit("D", 9),
    bits("BTYPE", 10, 11),
    bit("SSBS", 12),
    bit("IL", 20),
    bit("SS", 21),
    bit("PAN", 22),
    bit("UAO", 23),
    bit("DIT", 24),
    bit("TCO", 25),
    bit("V", 28),
    bit("C", 29),
    bit("Z", 30),
    bit("N", 31),
];

pub(super) const CPSR: GdbType = flags("cpsr_flags", 4, CPSR_FIELDS);
pub(super) const CPSR_64: GdbType = flags("spsr_flags", 8, CPSR_FIELDS);

/// Source: Arm ARM, "FPSR, Floating-point Status Register".
pub(super) const FPSR: GdbType = flags(
    "fpsr_flags",
    4,
    &[
        bit("IOC", 0),
        bit("DZC", 1),
        bit("OFC", 2),
        bit("UFC", 3),
        bit("IXC", 4),
        bit("IDC", 7),
        bit("QC", 27),
        bit("V", 28),
        bit("C", 29),
        bit("Z", 30),
        bit("N", 31),
    ],
);

/// Source: Arm ARM, "FPCR, Floating-point Control Register".
pub(super) const FPCR: GdbType = flags(
    "fpcr_flags",
    4,
    &[
        bit("FIZ", 0),
        bit("AH", 1),
        bit("NEP", 2),
        bit("IOE", 8),
        bit("DZE", 9),
        bit("OFE", 10),
        bit("UFE", 11),
        bit("IXE", 12),
        bit("EBF", 13),
        bit("IDE", 15),
        bits("Len", 16, 18),
        bit("FZ16", 19),
        bits("Stride", 20, 21),
        bits("RMode", 22, 23),
        bit("FZ", 24),
        bit("DN", 25),
        bit("AHP", 26),
    ],
);

/// Source: Arm ARM, "`SCTLR_EL1`, System Control Register (EL1)".
pub(super) const SCTLR: GdbType = flags(
    "sctlr_flags",
    8,
    &[
        bit("M", 0),
        bit("A", 1),
        bit("C", 2),
        bit("SA", 3),
        bit("SA0", 4),
        bit("CP15BEN", 5),
        bit("nAA", 6),
        bit("ITD", 7),
        bit("SED", 8),
        bit("UMA", 9),
        bit("EnRCTX", 10),
        bit("EOS", 11),
        bit("I", 12),
        bit("EnDB", 13),
        bit("DZE", 14),
        bit("UCT", 15),
        bit("nTWI", 16),
        bit("nTWE", 18),
        bit("WXN", 19),
        bit("TSCXT", 20),
        bit("IESB", 21),
        bit("EIS", 22),
        bit("SPAN", 23),
        bit("E0E", 24),
        bit("EE", 25),
        bit("UCI", 26),
        bit("EnDA", 27),
        bit("nTLSMD", 28),
        bit("LSMAOE", 29),
        bit("EnIB", 30),
        bit("EnIA", 31),
        bit("BT0", 35),
        bit("BT1", 36),
        bit("ITFSB", 37),
        bits("TCF0", 38, 39),
        bits("TCF", 40, 41),
        bit("ATA0", 42),
        bit("ATA", 43),
        bit("DSSBS", 44),
        bit("EPAN", 57),
    ],
);

/// Source: Arm ARM, "`TCR_EL1`, Translation Control Register (EL1)".
pub(super) const TCR: GdbType = flags(
    "tcr_flags",
    8,
    &[
        bits("T0SZ", 0, 5),
        bit("EPD0", 7),
        bits("IRGN0", 8, 9),
        bits("ORGN0", 10, 11),
        bits("SH0", 12, 13),
        bits("TG0", 14, 15),
        bits("T1SZ", 16, 21),
        bit("A1", 22),
        bit("EPD1", 23),
        bits("IRGN1", 24, 25),
        bits("ORGN1", 26, 27),
        bits("SH1", 28, 29),
        bits("TG1", 30, 31),
        bits("IPS", 32, 34),
        bit("AS", 36),
        bit("TBI0", 37),
        bit("TBI1", 38),
        bit("HA", 39),
        bit("HD", 40),
        bit("HPD0", 41),
        bit("HPD1", 42),
        bit("TBID0", 51),
        bit("TBID1", 52),
        bit("NFD0", 53),
        bit("NFD1", 54),
        bit("E0PD0", 55),
        bit("E0PD1", 56),
        bit("TCMA0", 57),
        bit("TCMA1", 58),
        bit("DS", 59),
        bit("MTX0", 60),
        bit("MTX1", 61),
    ],
);

/// Source: Arm ARM, "`ESR_EL1`, Exception Syndrome Register (EL1)".
pub(super) const ESR: GdbType = flags(
    "esr_flags",
    8,
    &[
        bits("ISS", 0, 24),
        bit("IL", 25),
        bits("EC", 26, 31),
        bits("ISS2", 32, 55),
    ],
);

/// Source: Arm ARM, "`MDSCR_EL1`, Monitor Debug System Control Register".
pub(super) const MDSCR: GdbType = flags(
    "mdscr_flags",
    8,
    &[
        bit("SS", 0),
        bit("ERR", 6),
        bit("TDCC", 12),
        bit("KDE", 13),
        bit("HDE", 14),
        bit("MDE", 15),
    ],
);
