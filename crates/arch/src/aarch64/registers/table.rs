//! The register table of AArch64.
//!
//! The order of the rows is that of GDB's numbers, then ours. Adding a row moves the
//! [`RegisterId`]s behind it, which name nothing outside the process. A system register keeps its
//! manual's name in lower case; its bits are described under that name in the Arm ARM, "AArch64
//! System Register Descriptions".

use super::{
    builder::{
        cpsr, debug, fp_control, general, identification, pauth_mask, pstate_view, scalable, simd,
        system, timer, vector_granule,
    },
    types,
};
use crate::{GenericRole, Register, RegisterId, Writable};

/// Defines the constants and the table from rows of `CONSTANT "name" [.method()…]`, grouped by
/// what their registers have in common.
macro_rules! registers {
    ($($common:expr => { $($id:ident $name:literal $([$($more:tt)+])?,)+ })+) => {
        #[expect(
            clippy::upper_case_acronyms,
            non_camel_case_types,
            reason = "registers keep their manuals' names"
        )]
        #[repr(u16)]
        enum Index { $($($id,)+)+ }

        $($(
            #[doc = concat!("The register `", $name, "`.")]
            pub const $id: RegisterId = RegisterId(Index::$id as u16);
        )+)+

        /// Every register of AArch64, by [`RegisterId`].
        pub static TABLE: &[Register] = &{
            let mut rows = [$($($common.named($name) $($($more)+)?,)+)+];
            place(&mut rows);
            rows
        };
    };
}

/// Gives each row its place in the register file, without gaps. The SIMD register `v` of a number
/// is the low 128 bits of the scalable register `z` of that number.
///
/// Source: Arm ARM, "SVE vector registers".
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated at compile time, where a wrong index ends the build"
)]
const fn place(rows: &mut [Register]) {
    let (z0, v0) = (Index::Z0 as usize, Index::V0 as usize);
    let mut offset: u16 = 0;
    let mut index = 0;
    while index < rows.len() {
        if index >= v0 && index < v0 + 32 {
            rows[index].offset = rows[z0 + index - v0].offset;
        } else {
            rows[index].offset = offset;
            offset += rows[index].bits / 8;
        }
        index += 1;
    }
}

registers! {
    general(types::INT64) => {
        X0 "x0" [.dwarf(0).role(GenericRole::Argument(1))],
        X1 "x1" [.dwarf(1).role(GenericRole::Argument(2))],
        X2 "x2" [.dwarf(2).role(GenericRole::Argument(3))],
        X3 "x3" [.dwarf(3).role(GenericRole::Argument(4))],
        X4 "x4" [.dwarf(4).role(GenericRole::Argument(5))],
        X5 "x5" [.dwarf(5).role(GenericRole::Argument(6))],
        X6 "x6" [.dwarf(6).role(GenericRole::Argument(7))],
        X7 "x7" [.dwarf(7).role(GenericRole::Argument(8))],
        X8 "x8" [.dwarf(8)],
        X9 "x9" [.dwarf(9)],
        X10 "x10" [.dwarf(10)],
        X11 "x11" [.dwarf(11)],
        X12 "x12" [.dwarf(12)],
        X13 "x13" [.dwarf(13)],
        X14 "x14" [.dwarf(14)],
        X15 "x15" [.dwarf(15)],
        X16 "x16" [.dwarf(16)],
        X17 "x17" [.dwarf(17)],
        X18 "x18" [.dwarf(18)],
        X19 "x19" [.dwarf(19)],
        X20 "x20" [.dwarf(20)],
        X21 "x21" [.dwarf(21)],
        X22 "x22" [.dwarf(22)],
        X23 "x23" [.dwarf(23)],
        X24 "x24" [.dwarf(24)],
        X25 "x25" [.dwarf(25)],
        X26 "x26" [.dwarf(26)],
        X27 "x27" [.dwarf(27)],
        X28 "x28" [.dwarf(28)],
        X29 "x29" [.alt("fp").dwarf(29).role(GenericRole::Fp)],
        X30 "x30" [.alt("lr").dwarf(30).role(GenericRole::Ra)],
    }
    general(types::DATA_PTR) => {
        SP "sp" [.dwarf(31).role(GenericRole::Sp)],
    }
    general(types::CODE_PTR) => {
        PC "pc" [.dwarf(32).role(GenericRole::Pc)],
    }
    cpsr() => {
        CPSR "cpsr" [.alt("pstate").role(GenericRole::Flags)],
    }
    scalable(types::Z, 128) => {
        Z0 "z0" [.dwarf(96)],
        Z1 "z1" [.dwarf(97)],
        Z2 "z2" [.dwarf(98)],
        Z3 "z3" [.dwarf(99)],
        Z4 "z4" [.dwarf(100)],
        Z5 "z5" [.dwarf(101)],
        Z6 "z6" [.dwarf(102)],
        Z7 "z7" [.dwarf(103)],
        Z8 "z8" [.dwarf(104)],
        Z9 "z9" [.dwarf(105)],
        Z10 "z10" [.dwarf(106)],
        Z11 "z11" [.dwarf(107)],
        Z12 "z12" [.dwarf(108)],
        Z13 "z13" [.dwarf(109)],
        Z14 "z14" [.dwarf(110)],
        Z15 "z15" [.dwarf(111)],
        Z16 "z16" [.dwarf(112)],
        Z17 "z17" [.dwarf(113)],
        Z18 "z18" [.dwarf(114)],
        Z19 "z19" [.dwarf(115)],
        Z20 "z20" [.dwarf(116)],
        Z21 "z21" [.dwarf(117)],
        Z22 "z22" [.dwarf(118)],
        Z23 "z23" [.dwarf(119)],
        Z24 "z24" [.dwarf(120)],
        Z25 "z25" [.dwarf(121)],
        Z26 "z26" [.dwarf(122)],
        Z27 "z27" [.dwarf(123)],
        Z28 "z28" [.dwarf(124)],
        Z29 "z29" [.dwarf(125)],
        Z30 "z30" [.dwarf(126)],
        Z31 "z31" [.dwarf(127)],
    }
    simd() => {
        V0 "v0" [.dwarf(64)],
        V1 "v1" [.dwarf(65)],
        V2 "v2" [.dwarf(66)],
        V3 "v3" [.dwarf(67)],
        V4 "v4" [.dwarf(68)],
        V5 "v5" [.dwarf(69)],
        V6 "v6" [.dwarf(70)],
        V7 "v7" [.dwarf(71)],
        V8 "v8" [.dwarf(72)],
        V9 "v9" [.dwarf(73)],
        V10 "v10" [.dwarf(74)],
        V11 "v11" [.dwarf(75)],
        V12 "v12" [.dwarf(76)],
        V13 "v13" [.dwarf(77)],
        V14 "v14" [.dwarf(78)],
        V15 "v15" [.dwarf(79)],
        V16 "v16" [.dwarf(80)],
        V17 "v17" [.dwarf(81)],
        V18 "v18" [.dwarf(82)],
        V19 "v19" [.dwarf(83)],
        V20 "v20" [.dwarf(84)],
        V21 "v21" [.dwarf(85)],
        V22 "v22" [.dwarf(86)],
        V23 "v23" [.dwarf(87)],
        V24 "v24" [.dwarf(88)],
        V25 "v25" [.dwarf(89)],
        V26 "v26" [.dwarf(90)],
        V27 "v27" [.dwarf(91)],
        V28 "v28" [.dwarf(92)],
        V29 "v29" [.dwarf(93)],
        V30 "v30" [.dwarf(94)],
        V31 "v31" [.dwarf(95)],
    }
    fp_control(types::FPSR) => {
        FPSR "fpsr",
    }
    fp_control(types::FPCR) => {
        FPCR "fpcr",
    }
    scalable(types::P, 16) => {
        P0 "p0" [.dwarf(48)],
        P1 "p1" [.dwarf(49)],
        P2 "p2" [.dwarf(50)],
        P3 "p3" [.dwarf(51)],
        P4 "p4" [.dwarf(52)],
        P5 "p5" [.dwarf(53)],
        P6 "p6" [.dwarf(54)],
        P7 "p7" [.dwarf(55)],
        P8 "p8" [.dwarf(56)],
        P9 "p9" [.dwarf(57)],
        P10 "p10" [.dwarf(58)],
        P11 "p11" [.dwarf(59)],
        P12 "p12" [.dwarf(60)],
        P13 "p13" [.dwarf(61)],
        P14 "p14" [.dwarf(62)],
        P15 "p15" [.dwarf(63)],
        FFR "ffr" [.dwarf(47)],
    }
    vector_granule() => {
        VG "vg" [.dwarf(46)],
    }
    // Both masks of the lower half, then both of the upper one.
    pauth_mask() => {
        PAUTH_DMASK "pauth_dmask",
        PAUTH_CMASK "pauth_cmask",
        PAUTH_DMASK_HIGH "pauth_dmask_high",
        PAUTH_CMASK_HIGH "pauth_cmask_high",
    }
    pstate_view() => {
        DAIF "daif",
    }
    system(types::SCTLR) => {
        SCTLR_EL1 "sctlr_el1" [.alt("sctlr")],
    }
    system(types::TCR) => {
        TCR_EL1 "tcr_el1" [.alt("tcr")],
    }
    system(types::UINT64) => {
        TTBR0_EL1 "ttbr0_el1" [.alt("ttbr0")],
        TTBR1_EL1 "ttbr1_el1" [.alt("ttbr1")],
        MAIR_EL1 "mair_el1" [.alt("mair").freely_writable()],
        AMAIR_EL1 "amair_el1",
        CPACR_EL1 "cpacr_el1",
        CONTEXTIDR_EL1 "contextidr_el1",
        PAR_EL1 "par_el1",
        AFSR0_EL1 "afsr0_el1",
        AFSR1_EL1 "afsr1_el1",
    }
    system(types::ESR) => {
        ESR_EL1 "esr_el1" [.alt("esr")],
    }
    system(types::DATA_PTR) => {
        FAR_EL1 "far_el1" [.alt("far").freely_writable()],
        SP_EL0 "sp_el0" [.freely_writable()],
        SP_EL1 "sp_el1" [.freely_writable()],
        TPIDR_EL0 "tpidr_el0" [.dwarf(36).freely_writable()],
        TPIDRRO_EL0 "tpidrro_el0" [.dwarf(35).freely_writable()],
        TPIDR_EL1 "tpidr_el1" [.dwarf(37).freely_writable()],
    }
    system(types::CODE_PTR) => {
        VBAR_EL1 "vbar_el1" [.alt("vbar")],
        ELR_EL1 "elr_el1" [.alt("elr").freely_writable()],
    }
    system(types::CPSR_64) => {
        SPSR_EL1 "spsr_el1" [.alt("spsr")],
    }
    system(types::UINT64) => {
        TCR2_EL1 "tcr2_el1",
        PIR_EL1 "pir_el1",
        PIRE0_EL1 "pire0_el1",
        ZCR_EL1 "zcr_el1",
        RGSR_EL1 "rgsr_el1",
        GCR_EL1 "gcr_el1",
        TFSR_EL1 "tfsr_el1",
        TFSRE0_EL1 "tfsre0_el1",
    }
    debug(types::MDSCR) => {
        MDSCR_EL1 "mdscr_el1" [.alt("mdscr")],
    }
    debug(types::UINT64) => {
        OSLSR_EL1 "oslsr_el1" [.read_only()],
        DBGBVR0_EL1 "dbgbvr0_el1",
        DBGBVR1_EL1 "dbgbvr1_el1",
        DBGBVR2_EL1 "dbgbvr2_el1",
        DBGBVR3_EL1 "dbgbvr3_el1",
        DBGBVR4_EL1 "dbgbvr4_el1",
        DBGBVR5_EL1 "dbgbvr5_el1",
        DBGBVR6_EL1 "dbgbvr6_el1",
        DBGBVR7_EL1 "dbgbvr7_el1",
        DBGBVR8_EL1 "dbgbvr8_el1",
        DBGBVR9_EL1 "dbgbvr9_el1",
        DBGBVR10_EL1 "dbgbvr10_el1",
        DBGBVR11_EL1 "dbgbvr11_el1",
        DBGBVR12_EL1 "dbgbvr12_el1",
        DBGBVR13_EL1 "dbgbvr13_el1",
        DBGBVR14_EL1 "dbgbvr14_el1",
        DBGBVR15_EL1 "dbgbvr15_el1",
        DBGBCR0_EL1 "dbgbcr0_el1",
        DBGBCR1_EL1 "dbgbcr1_el1",
        DBGBCR2_EL1 "dbgbcr2_el1",
        DBGBCR3_EL1 "dbgbcr3_el1",
        DBGBCR4_EL1 "dbgbcr4_el1",
        DBGBCR5_EL1 "dbgbcr5_el1",
        DBGBCR6_EL1 "dbgbcr6_el1",
        DBGBCR7_EL1 "dbgbcr7_el1",
        DBGBCR8_EL1 "dbgbcr8_el1",
        DBGBCR9_EL1 "dbgbcr9_el1",
        DBGBCR10_EL1 "dbgbcr10_el1",
        DBGBCR11_EL1 "dbgbcr11_el1",
        DBGBCR12_EL1 "dbgbcr12_el1",
        DBGBCR13_EL1 "dbgbcr13_el1",
        DBGBCR14_EL1 "dbgbcr14_el1",
        DBGBCR15_EL1 "dbgbcr15_el1",
        DBGWVR0_EL1 "dbgwvr0_el1",
        DBGWVR1_EL1 "dbgwvr1_el1",
        DBGWVR2_EL1 "dbgwvr2_el1",
        DBGWVR3_EL1 "dbgwvr3_el1",
        DBGWVR4_EL1 "dbgwvr4_el1",
        DBGWVR5_EL1 "dbgwvr5_el1",
        DBGWVR6_EL1 "dbgwvr6_el1",
        DBGWVR7_EL1 "dbgwvr7_el1",
        DBGWVR8_EL1 "dbgwvr8_el1",
        DBGWVR9_EL1 "dbgwvr9_el1",
        DBGWVR10_EL1 "dbgwvr10_el1",
        DBGWVR11_EL1 "dbgwvr11_el1",
        DBGWVR12_EL1 "dbgwvr12_el1",
        DBGWVR13_EL1 "dbgwvr13_el1",
        DBGWVR14_EL1 "dbgwvr14_el1",
        DBGWVR15_EL1 "dbgwvr15_el1",
        DBGWCR0_EL1 "dbgwcr0_el1",
        DBGWCR1_EL1 "dbgwcr1_el1",
        DBGWCR2_EL1 "dbgwcr2_el1",
        DBGWCR3_EL1 "dbgwcr3_el1",
        DBGWCR4_EL1 "dbgwcr4_el1",
        DBGWCR5_EL1 "dbgwcr5_el1",
        DBGWCR6_EL1 "dbgwcr6_el1",
        DBGWCR7_EL1 "dbgwcr7_el1",
        DBGWCR8_EL1 "dbgwcr8_el1",
        DBGWCR9_EL1 "dbgwcr9_el1",
        DBGWCR10_EL1 "dbgwcr10_el1",
        DBGWCR11_EL1 "dbgwcr11_el1",
        DBGWCR12_EL1 "dbgwcr12_el1",
        DBGWCR13_EL1 "dbgwcr13_el1",
        DBGWCR14_EL1 "dbgwcr14_el1",
        DBGWCR15_EL1 "dbgwcr15_el1",
    }
    timer() => {
        CNTKCTL_EL1 "cntkctl_el1",
        CNTFRQ_EL0 "cntfrq_el0",
        CNTVCT_EL0 "cntvct_el0" [.read_only()],
        CNTV_CTL_EL0 "cntv_ctl_el0",
        CNTV_CVAL_EL0 "cntv_cval_el0" [.freely_writable()],
        CNTP_CTL_EL0 "cntp_ctl_el0",
        CNTP_CVAL_EL0 "cntp_cval_el0" [.freely_writable()],
    }
    identification() => {
        MIDR_EL1 "midr_el1",
        MPIDR_EL1 "mpidr_el1",
        REVIDR_EL1 "revidr_el1",
        CTR_EL0 "ctr_el0",
        DCZID_EL0 "dczid_el0",
        CLIDR_EL1 "clidr_el1",
        ID_AA64PFR0_EL1 "id_aa64pfr0_el1",
        ID_AA64PFR1_EL1 "id_aa64pfr1_el1",
        ID_AA64PFR2_EL1 "id_aa64pfr2_el1",
        ID_AA64ZFR0_EL1 "id_aa64zfr0_el1",
        ID_AA64SMFR0_EL1 "id_aa64smfr0_el1",
        ID_AA64DFR0_EL1 "id_aa64dfr0_el1",
        ID_AA64DFR1_EL1 "id_aa64dfr1_el1",
        ID_AA64ISAR0_EL1 "id_aa64isar0_el1",
        ID_AA64ISAR1_EL1 "id_aa64isar1_el1",
        ID_AA64ISAR2_EL1 "id_aa64isar2_el1",
        ID_AA64MMFR0_EL1 "id_aa64mmfr0_el1",
        ID_AA64MMFR1_EL1 "id_aa64mmfr1_el1",
        ID_AA64MMFR2_EL1 "id_aa64mmfr2_el1",
        ID_AA64MMFR3_EL1 "id_aa64mmfr3_el1",
        ID_AA64MMFR4_EL1 "id_aa64mmfr4_el1",
    }
    // What has fields that a debugger writes, but of the processor's choice.
    identification() => {
        CSSELR_EL1 "csselr_el1" [.writable(Writable::Masked)],
        CCSIDR_EL1 "ccsidr_el1",
    }
}
