//! The register table of x86-64.
//!
//! The order of the rows is the order of QEMU's numbers up to MXCSR, then ours. Adding a row
//! moves the [`RegisterId`]s behind it, which name nothing outside the process.

use super::{
    builder::{
        debug, feature, general, msr, selector, system, vector, vector_control, wide, x87,
        x87_control,
    },
    types,
};
use crate::{GenericRole, Register, RegisterGroup, RegisterId, Writable};

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

        /// Every register of x86-64, by [`RegisterId`].
        pub static TABLE: &[Register] = &{
            let mut rows = [$($($common.named($name) $($($more)+)?,)+)+];
            place(&mut rows);
            rows
        };
    };
}

/// Gives each row its place in the register file, without gaps.
const fn place(mut rows: &mut [Register]) {
    let mut offset: u16 = 0;
    while let [row, rest @ ..] = rows {
        row.offset = offset;
        offset = offset.saturating_add(row.bits / 8);
        rows = rest;
    }
}

registers! {
    general(types::INT64, types::INT32) => {
        RAX "rax" [.dwarf(0).narrow("eax", 0)],
        RBX "rbx" [.dwarf(3).narrow("ebx", 3)],
        RCX "rcx" [.dwarf(2).role(GenericRole::Argument(4)).narrow("ecx", 1)],
        RDX "rdx" [.dwarf(1).role(GenericRole::Argument(3)).narrow("edx", 2)],
        RSI "rsi" [.dwarf(4).role(GenericRole::Argument(2)).narrow("esi", 6)],
        RDI "rdi" [.dwarf(5).role(GenericRole::Argument(1)).narrow("edi", 7)],
    }
    general(types::DATA_PTR, types::DATA_PTR) => {
        RBP "rbp" [.alt("fp").dwarf(6).role(GenericRole::Fp).narrow("ebp", 5)],
        RSP "rsp" [.alt("sp").dwarf(7).role(GenericRole::Sp).narrow("esp", 4)],
    }
    wide(types::INT64) => {
        R8 "r8" [.dwarf(8).role(GenericRole::Argument(5))],
        R9 "r9" [.dwarf(9).role(GenericRole::Argument(6))],
        R10 "r10" [.dwarf(10)],
        R11 "r11" [.dwarf(11)],
        R12 "r12" [.dwarf(12)],
        R13 "r13" [.dwarf(13)],
        R14 "r14" [.dwarf(14)],
        R15 "r15" [.dwarf(15)],
    }
    general(types::CODE_PTR, types::CODE_PTR) => {
        RIP "rip" [.alt("pc").dwarf(16).role(GenericRole::Pc).narrow("eip", 8)],
    }
    general(types::EFLAGS, types::EFLAGS) => {
        RFLAGS "rflags" [.eflags()],
    }
    selector() => {
        CS "cs" [.dwarf(51).narrow_dwarf(41)],
        SS "ss" [.dwarf(52).narrow_dwarf(42)],
        DS "ds" [.dwarf(53).narrow_dwarf(43)],
        ES "es" [.dwarf(50).narrow_dwarf(40)],
        FS "fs" [.dwarf(54).narrow_dwarf(44)],
        GS "gs" [.dwarf(55).narrow_dwarf(45)],
    }
    // GDB 13 knows the segment bases of x86-64 only: the feature in a description of i386 ends it
    // by an internal error.
    system(feature::SEGMENTS, types::INT64, 64).narrow_as(types::INT32)
        .narrow_in(feature::SYSTEM) => {
        FS_BASE "fs_base" [.dwarf(58)],
        GS_BASE "gs_base" [.dwarf(59)],
    }
    system(feature::SYSTEM, types::INT64, 64).narrow_as(types::INT32) => {
        KERNEL_GS_BASE "k_gs_base" [.alt("kernel_gs_base").group(RegisterGroup::Msr)],
    }
    system(feature::SYSTEM, types::CR0, 64).narrow_as(types::CR0_NARROW) => {
        CR0 "cr0" [.writable(Writable::Masked)],
    }
    system(feature::SYSTEM, types::INT64, 64).narrow_as(types::INT32) => {
        CR2 "cr2",
    }
    system(feature::SYSTEM, types::CR3, 64).narrow_as(types::CR3_NARROW) => {
        CR3 "cr3" [.writable(Writable::Masked)],
    }
    system(feature::SYSTEM, types::CR4, 64).narrow_as(types::CR4_NARROW) => {
        CR4 "cr4" [.writable(Writable::Masked)],
    }
    system(feature::SYSTEM, types::INT64, 64).narrow_as(types::INT32) => {
        CR8 "cr8" [.writable(Writable::Masked)],
    }
    system(feature::SYSTEM, types::EFER, 64).narrow_as(types::EFER_NARROW) => {
        EFER "efer" [.writable(Writable::Masked)],
    }
    x87() => {
        ST0 "st0" [.dwarf(33).narrow_dwarf(11)],
        ST1 "st1" [.dwarf(34).narrow_dwarf(12)],
        ST2 "st2" [.dwarf(35).narrow_dwarf(13)],
        ST3 "st3" [.dwarf(36).narrow_dwarf(14)],
        ST4 "st4" [.dwarf(37).narrow_dwarf(15)],
        ST5 "st5" [.dwarf(38).narrow_dwarf(16)],
        ST6 "st6" [.dwarf(39).narrow_dwarf(17)],
        ST7 "st7" [.dwarf(40).narrow_dwarf(18)],
    }
    x87_control(16) => {
        FCTRL "fctrl" [.alt("fcw").dwarf(65).narrow_dwarf(37)],
        FSTAT "fstat" [.alt("fsw").dwarf(66).narrow_dwarf(38)],
        FTAG "ftag" [.alt("ftw")],
    }
    x87_control(32) => {
        FISEG "fiseg",
        FIOFF "fioff",
        FOSEG "foseg",
        FOOFF "fooff",
    }
    x87_control(16) => {
        FOP "fop",
    }
    vector(feature::SSE, types::VEC128, 128).narrow_unnamed(128) => {
        XMM0 "xmm0" [.dwarf(17).narrow_dwarf(21)],
        XMM1 "xmm1" [.dwarf(18).narrow_dwarf(22)],
        XMM2 "xmm2" [.dwarf(19).narrow_dwarf(23)],
        XMM3 "xmm3" [.dwarf(20).narrow_dwarf(24)],
        XMM4 "xmm4" [.dwarf(21).narrow_dwarf(25)],
        XMM5 "xmm5" [.dwarf(22).narrow_dwarf(26)],
        XMM6 "xmm6" [.dwarf(23).narrow_dwarf(27)],
        XMM7 "xmm7" [.dwarf(24).narrow_dwarf(28)],
    }
    vector(feature::SSE, types::VEC128, 128) => {
        XMM8 "xmm8" [.dwarf(25)],
        XMM9 "xmm9" [.dwarf(26)],
        XMM10 "xmm10" [.dwarf(27)],
        XMM11 "xmm11" [.dwarf(28)],
        XMM12 "xmm12" [.dwarf(29)],
        XMM13 "xmm13" [.dwarf(30)],
        XMM14 "xmm14" [.dwarf(31)],
        XMM15 "xmm15" [.dwarf(32)],
    }
    vector_control(feature::SSE, types::MXCSR, 32) => {
        MXCSR "mxcsr" [.writable(Writable::Masked).dwarf(64).narrow_dwarf(39)],
    }
    system(feature::DESCRIPTORS, types::UINT64, 64) => {
        CS_BASE "cs_base",
        SS_BASE "ss_base",
        DS_BASE "ds_base",
        ES_BASE "es_base",
    }
    system(feature::DESCRIPTORS, types::UINT32, 32) => {
        CS_LIMIT "cs_limit",
        SS_LIMIT "ss_limit",
        DS_LIMIT "ds_limit",
        ES_LIMIT "es_limit",
        FS_LIMIT "fs_limit",
        GS_LIMIT "gs_limit",
        CS_ATTRIBUTES "cs_attributes",
        SS_ATTRIBUTES "ss_attributes",
        DS_ATTRIBUTES "ds_attributes",
        ES_ATTRIBUTES "es_attributes",
        FS_ATTRIBUTES "fs_attributes",
        GS_ATTRIBUTES "gs_attributes",
    }
    system(feature::DESCRIPTORS, types::UINT16, 16) => {
        TR "tr" [.dwarf(62)],
        LDTR "ldtr" [.dwarf(63)],
    }
    system(feature::DESCRIPTORS, types::UINT64, 64) => {
        TR_BASE "tr_base",
        LDTR_BASE "ldtr_base",
    }
    system(feature::DESCRIPTORS, types::UINT32, 32) => {
        TR_LIMIT "tr_limit",
        LDTR_LIMIT "ldtr_limit",
        TR_ATTRIBUTES "tr_attributes",
        LDTR_ATTRIBUTES "ldtr_attributes",
    }
    system(feature::DESCRIPTORS, types::UINT64, 64) => {
        GDTR_BASE "gdtr_base",
        IDTR_BASE "idtr_base",
    }
    system(feature::DESCRIPTORS, types::UINT16, 16) => {
        GDTR_LIMIT "gdtr_limit",
        IDTR_LIMIT "idtr_limit",
    }
    debug(types::UINT64) => {
        DR0 "dr0",
        DR1 "dr1",
        DR2 "dr2",
        DR3 "dr3",
    }
    debug(types::DR6) => {
        DR6 "dr6" [.writable(Writable::Masked)],
    }
    debug(types::DR7) => {
        DR7 "dr7" [.writable(Writable::Masked)],
    }
    system(feature::MSR, types::UINT64, 64) => {
        APIC_BASE "apic_base" [.writable(Writable::Masked)],
    }
    msr(types::UINT64) => {
        STAR "star",
        LSTAR "lstar",
        CSTAR "cstar",
        SFMASK "sfmask",
        SYSENTER_CS "sysenter_cs",
        SYSENTER_ESP "sysenter_esp",
        SYSENTER_EIP "sysenter_eip",
        PAT "pat",
        MISC_ENABLE "misc_enable",
        DEBUGCTL "debugctl",
        TSC "tsc",
        TSC_AUX "tsc_aux",
        XSS "xss",
        SPEC_CTRL "spec_ctrl",
    }
    vector_control(feature::XSTATE, types::UINT64, 64) => {
        XCR0 "xcr0" [.writable(Writable::Masked)],
    }
    vector(feature::AVX, types::UINT128, 128).narrow_unnamed(128) => {
        YMM0H "ymm0h",
        YMM1H "ymm1h",
        YMM2H "ymm2h",
        YMM3H "ymm3h",
        YMM4H "ymm4h",
        YMM5H "ymm5h",
        YMM6H "ymm6h",
        YMM7H "ymm7h",
    }
    vector(feature::AVX, types::UINT128, 128) => {
        YMM8H "ymm8h",
        YMM9H "ymm9h",
        YMM10H "ymm10h",
        YMM11H "ymm11h",
        YMM12H "ymm12h",
        YMM13H "ymm13h",
        YMM14H "ymm14h",
        YMM15H "ymm15h",
    }
    vector(feature::AVX512, types::VEC128, 128) => {
        XMM16 "xmm16" [.dwarf(67)],
        XMM17 "xmm17" [.dwarf(68)],
        XMM18 "xmm18" [.dwarf(69)],
        XMM19 "xmm19" [.dwarf(70)],
        XMM20 "xmm20" [.dwarf(71)],
        XMM21 "xmm21" [.dwarf(72)],
        XMM22 "xmm22" [.dwarf(73)],
        XMM23 "xmm23" [.dwarf(74)],
        XMM24 "xmm24" [.dwarf(75)],
        XMM25 "xmm25" [.dwarf(76)],
        XMM26 "xmm26" [.dwarf(77)],
        XMM27 "xmm27" [.dwarf(78)],
        XMM28 "xmm28" [.dwarf(79)],
        XMM29 "xmm29" [.dwarf(80)],
        XMM30 "xmm30" [.dwarf(81)],
        XMM31 "xmm31" [.dwarf(82)],
    }
    vector(feature::AVX512, types::UINT128, 128) => {
        YMM16H "ymm16h",
        YMM17H "ymm17h",
        YMM18H "ymm18h",
        YMM19H "ymm19h",
        YMM20H "ymm20h",
        YMM21H "ymm21h",
        YMM22H "ymm22h",
        YMM23H "ymm23h",
        YMM24H "ymm24h",
        YMM25H "ymm25h",
        YMM26H "ymm26h",
        YMM27H "ymm27h",
        YMM28H "ymm28h",
        YMM29H "ymm29h",
        YMM30H "ymm30h",
        YMM31H "ymm31h",
    }
    vector_control(feature::AVX512, types::UINT64, 64) => {
        K0 "k0" [.dwarf(118).narrow_dwarf(93)],
        K1 "k1" [.dwarf(119).narrow_dwarf(94)],
        K2 "k2" [.dwarf(120).narrow_dwarf(95)],
        K3 "k3" [.dwarf(121).narrow_dwarf(96)],
        K4 "k4" [.dwarf(122).narrow_dwarf(97)],
        K5 "k5" [.dwarf(123).narrow_dwarf(98)],
        K6 "k6" [.dwarf(124).narrow_dwarf(99)],
        K7 "k7" [.dwarf(125).narrow_dwarf(100)],
    }
    vector(feature::AVX512, types::VEC256, 256).narrow_unnamed(256) => {
        ZMM0H "zmm0h",
        ZMM1H "zmm1h",
        ZMM2H "zmm2h",
        ZMM3H "zmm3h",
        ZMM4H "zmm4h",
        ZMM5H "zmm5h",
        ZMM6H "zmm6h",
        ZMM7H "zmm7h",
    }
    vector(feature::AVX512, types::VEC256, 256) => {
        ZMM8H "zmm8h",
        ZMM9H "zmm9h",
        ZMM10H "zmm10h",
        ZMM11H "zmm11h",
        ZMM12H "zmm12h",
        ZMM13H "zmm13h",
        ZMM14H "zmm14h",
        ZMM15H "zmm15h",
        ZMM16H "zmm16h",
        ZMM17H "zmm17h",
        ZMM18H "zmm18h",
        ZMM19H "zmm19h",
        ZMM20H "zmm20h",
        ZMM21H "zmm21h",
        ZMM22H "zmm22h",
        ZMM23H "zmm23h",
        ZMM24H "zmm24h",
        ZMM25H "zmm25h",
        ZMM26H "zmm26h",
        ZMM27H "zmm27h",
        ZMM28H "zmm28h",
        ZMM29H "zmm29h",
        ZMM30H "zmm30h",
        ZMM31H "zmm31h",
    }
    vector_control(feature::PKEYS, types::UINT32, 32) => {
        PKRU "pkru",
    }
}
