//! The guest's registers: in the frame of the last exit, in the processor, and in a register file.

#![expect(
    unsafe_code,
    reason = "the guest's registers are reached by instructions"
)]

use trapline_arch::aarch64::debug::DebugRegisters;
use trapline_arch::aarch64::mode::banked_sp;
use trapline_arch::aarch64::registers::{self as r, follow_stack_pointer};
use trapline_arch::{RegisterFile, RegisterGroup, RegisterId};

use super::sysreg::{isb, mrs, msr};

/// What `vectors.S` stores and loads.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// x0 to x30.
    pub(super) x: [u64; 31],
    pub(super) pc: u64,
    pub(super) pstate: u64,
}

pub(super) const FRAME_PC: usize = core::mem::offset_of!(Frame, pc);

/// PSTATE.SS, which is the hypervisor's while it steps.
pub(super) const PSTATE_SS: u64 = 1 << 21;

/// Which system registers the processor has beyond the first version of the architecture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Optional {
    has_tcr2: bool,
    has_pie: bool,
    has_mte: bool,
}

impl Optional {
    pub(super) fn probe() -> Self {
        let mmfr3 = mrs!("S3_0_C0_C7_3");
        Self {
            has_tcr2: mmfr3 & 0xf != 0,
            has_pie: mmfr3 >> 8 & 0xf != 0,
            has_mte: mrs!("ID_AA64PFR1_EL1") >> 8 & 0xf >= 2,
        }
    }
}

/// Rows of `register, name for the assembler`.
macro_rules! each_system_register {
    ($macro:ident) => {
        $macro! {
            SCTLR_EL1 "SCTLR_EL1", TCR_EL1 "TCR_EL1", TTBR0_EL1 "TTBR0_EL1", TTBR1_EL1 "TTBR1_EL1",
            MAIR_EL1 "MAIR_EL1", AMAIR_EL1 "AMAIR_EL1", CPACR_EL1 "CPACR_EL1",
            CONTEXTIDR_EL1 "CONTEXTIDR_EL1", PAR_EL1 "PAR_EL1", AFSR0_EL1 "AFSR0_EL1",
            AFSR1_EL1 "AFSR1_EL1", ESR_EL1 "ESR_EL1", FAR_EL1 "FAR_EL1", SP_EL0 "SP_EL0",
            SP_EL1 "SP_EL1", TPIDR_EL0 "TPIDR_EL0", TPIDRRO_EL0 "TPIDRRO_EL0", TPIDR_EL1 "TPIDR_EL1",
            VBAR_EL1 "VBAR_EL1", ELR_EL1 "ELR_EL1", SPSR_EL1 "SPSR_EL1"
        }
    };
}

/// Registers of the group `Msr` that can be written.
macro_rules! each_timer_register {
    ($macro:ident) => {
        $macro! {
            CNTKCTL_EL1 "CNTKCTL_EL1", CNTV_CTL_EL0 "CNTV_CTL_EL0", CNTV_CVAL_EL0 "CNTV_CVAL_EL0",
            CNTP_CTL_EL0 "CNTP_CTL_EL0", CNTP_CVAL_EL0 "CNTP_CVAL_EL0"
        }
    };
}

fn load_system(file: &mut RegisterFile, optional: Optional) {
    macro_rules! load {
        ($($id:ident $name:literal),+) => { $(file.set_u64(r::$id, mrs!($name));)+ };
    }
    each_system_register!(load);
    if optional.has_tcr2 {
        file.set_u64(r::TCR2_EL1, mrs!("S3_0_C2_C0_3"));
    }
    if optional.has_pie {
        file.set_u64(r::PIR_EL1, mrs!("S3_0_C10_C2_3"));
        file.set_u64(r::PIRE0_EL1, mrs!("S3_0_C10_C2_2"));
    }
    if optional.has_mte {
        file.set_u64(r::RGSR_EL1, mrs!("S3_0_C1_C0_5"));
        file.set_u64(r::GCR_EL1, mrs!("S3_0_C1_C0_6"));
        file.set_u64(r::TFSR_EL1, mrs!("S3_0_C5_C6_0"));
        file.set_u64(r::TFSRE0_EL1, mrs!("S3_0_C5_C6_1"));
    }
}

fn store_system(file: &RegisterFile, optional: Optional) {
    macro_rules! store {
        ($($id:ident $name:literal),+) => { $(msr!($name, file.u64(r::$id));)+ };
    }
    each_system_register!(store);
    if optional.has_tcr2 {
        msr!("S3_0_C2_C0_3", file.u64(r::TCR2_EL1));
    }
    if optional.has_pie {
        msr!("S3_0_C10_C2_3", file.u64(r::PIR_EL1));
        msr!("S3_0_C10_C2_2", file.u64(r::PIRE0_EL1));
    }
    if optional.has_mte {
        msr!("S3_0_C1_C0_5", file.u64(r::RGSR_EL1));
        msr!("S3_0_C1_C0_6", file.u64(r::GCR_EL1));
        msr!("S3_0_C5_C6_0", file.u64(r::TFSR_EL1));
        msr!("S3_0_C5_C6_1", file.u64(r::TFSRE0_EL1));
    }
    isb();
}

fn load_identification(file: &mut RegisterFile) {
    macro_rules! load {
        ($($id:ident $name:literal),+) => { $(file.set_u64(r::$id, mrs!($name));)+ };
    }
    each_timer_register!(load);
    load! {
        CNTFRQ_EL0 "CNTFRQ_EL0", CNTVCT_EL0 "CNTVCT_EL0", MIDR_EL1 "MIDR_EL1", MPIDR_EL1 "MPIDR_EL1",
        REVIDR_EL1 "REVIDR_EL1", CTR_EL0 "CTR_EL0", DCZID_EL0 "DCZID_EL0", CLIDR_EL1 "CLIDR_EL1",
        ID_AA64PFR0_EL1 "ID_AA64PFR0_EL1", ID_AA64PFR1_EL1 "ID_AA64PFR1_EL1",
        ID_AA64PFR2_EL1 "S3_0_C0_C4_2", ID_AA64ZFR0_EL1 "S3_0_C0_C4_4",
        ID_AA64SMFR0_EL1 "S3_0_C0_C4_5", ID_AA64DFR0_EL1 "ID_AA64DFR0_EL1",
        ID_AA64DFR1_EL1 "ID_AA64DFR1_EL1", ID_AA64ISAR0_EL1 "ID_AA64ISAR0_EL1",
        ID_AA64ISAR1_EL1 "ID_AA64ISAR1_EL1", ID_AA64ISAR2_EL1 "S3_0_C0_C6_2",
        ID_AA64MMFR0_EL1 "ID_AA64MMFR0_EL1", ID_AA64MMFR1_EL1 "ID_AA64MMFR1_EL1",
        ID_AA64MMFR2_EL1 "ID_AA64MMFR2_EL1", ID_AA64MMFR3_EL1 "S3_0_C0_C7_3",
        ID_AA64MMFR4_EL1 "S3_0_C0_C7_4", CSSELR_EL1 "CSSELR_EL1", CCSIDR_EL1 "CCSIDR_EL1"
    }
}

fn store_identification(file: &RegisterFile) {
    macro_rules! store {
        ($($id:ident $name:literal),+) => { $(msr!($name, file.u64(r::$id));)+ };
    }
    each_timer_register!(store);
}

/// The SIMD registers as instructions store them.
#[repr(C, align(16))]
struct Simd([u128; 32]);

fn load_simd(file: &mut RegisterFile) {
    let mut simd = Simd([0; 32]);
    // SAFETY: 512 bytes are written, which is what `Simd` has. CPTR lets EL2 at the registers.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "stp q0, q1, [{0}]", "stp q2, q3, [{0}, #32]", "stp q4, q5, [{0}, #64]",
            "stp q6, q7, [{0}, #96]", "stp q8, q9, [{0}, #128]", "stp q10, q11, [{0}, #160]",
            "stp q12, q13, [{0}, #192]", "stp q14, q15, [{0}, #224]", "stp q16, q17, [{0}, #256]",
            "stp q18, q19, [{0}, #288]", "stp q20, q21, [{0}, #320]", "stp q22, q23, [{0}, #352]",
            "stp q24, q25, [{0}, #384]", "stp q26, q27, [{0}, #416]", "stp q28, q29, [{0}, #448]",
            "stp q30, q31, [{0}, #480]",
            in(reg) simd.0.as_mut_ptr(), options(nostack, preserves_flags)
        );
    }
    for (number, value) in (0..).zip(simd.0) {
        if let Some(id) = r::v(number) {
            file.bytes_mut(id).copy_from_slice(&value.to_le_bytes());
        }
    }
    file.set_u64(r::FPSR, mrs!("S3_3_C4_C4_1"));
    file.set_u64(r::FPCR, mrs!("S3_3_C4_C4_0"));
}

fn store_simd(file: &RegisterFile) {
    let mut simd = Simd([0; 32]);
    for (number, value) in (0..).zip(&mut simd.0) {
        if let Some(bytes) = r::v(number).and_then(|id| file.bytes(id).try_into().ok()) {
            *value = u128::from_le_bytes(bytes);
        }
    }
    // SAFETY: 512 bytes are read, which is what `Simd` has; the registers are the guest's, this program
    // uses none of them.
    unsafe {
        core::arch::asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            "ldp q0, q1, [{0}]", "ldp q2, q3, [{0}, #32]", "ldp q4, q5, [{0}, #64]",
            "ldp q6, q7, [{0}, #96]", "ldp q8, q9, [{0}, #128]", "ldp q10, q11, [{0}, #160]",
            "ldp q12, q13, [{0}, #192]", "ldp q14, q15, [{0}, #224]", "ldp q16, q17, [{0}, #256]",
            "ldp q18, q19, [{0}, #288]", "ldp q20, q21, [{0}, #320]", "ldp q22, q23, [{0}, #352]",
            "ldp q24, q25, [{0}, #384]", "ldp q26, q27, [{0}, #416]", "ldp q28, q29, [{0}, #448]",
            "ldp q30, q31, [{0}, #480]",
            in(reg) simd.0.as_ptr(), options(nostack, preserves_flags)
        );
    }
    msr!("S3_3_C4_C4_1", file.u64(r::FPSR));
    msr!("S3_3_C4_C4_0", file.u64(r::FPCR));
}

fn general_registers() -> impl Iterator<Item = (usize, RegisterId)> {
    (0_u8..31).filter_map(|number| Some((usize::from(number), r::x(number)?)))
}

fn load_general(frame: &Frame, file: &mut RegisterFile) {
    for (number, id) in general_registers() {
        file.set_u64(id, frame.x[number]);
    }
    file.set_u64(r::PC, frame.pc);
    file.set_u64(r::CPSR, frame.pstate);
    file.set_u64(r::SP_EL0, mrs!("SP_EL0"));
    file.set_u64(r::SP_EL1, mrs!("SP_EL1"));
    follow_stack_pointer(file, RegisterGroup::System);
}

fn store_general(frame: &mut Frame, file: &RegisterFile) {
    for (number, id) in general_registers() {
        frame.x[number] = file.u64(id);
    }
    frame.pc = file.u64(r::PC);
    frame.pstate = file.u64(r::CPSR) & 0xffff_ffff;
    match banked_sp(file) {
        Some(r::SP_EL0) => msr!("SP_EL0", file.u64(r::SP)),
        Some(r::SP_EL1) => msr!("SP_EL1", file.u64(r::SP)),
        _ => (),
    }
}

/// Fills one group of `file`.
pub(super) fn load(
    group: RegisterGroup,
    frame: &Frame,
    debug: &DebugRegisters,
    optional: Optional,
    file: &mut RegisterFile,
) {
    match group {
        RegisterGroup::General => load_general(frame, file),
        RegisterGroup::Fpu => load_simd(file),
        RegisterGroup::System => load_system(file, optional),
        RegisterGroup::Debug => debug.write(file),
        RegisterGroup::Msr => load_identification(file),
    }
}

/// Writes one group of `file`.
pub(super) fn store(
    group: RegisterGroup,
    frame: &mut Frame,
    debug: &mut DebugRegisters,
    optional: Optional,
    file: &RegisterFile,
) {
    match group {
        RegisterGroup::General => store_general(frame, file),
        RegisterGroup::Fpu => store_simd(file),
        RegisterGroup::System => store_system(file, optional),
        RegisterGroup::Debug => *debug = DebugRegisters::read(file),
        RegisterGroup::Msr => store_identification(file),
    }
}

/// Puts debug registers into the processor, of which it has so many.
pub(super) fn store_debug(debug: &DebugRegisters, breakpoints: u8, watchpoints: u8) {
    macro_rules! pairs {
        ($list:expr, $count:expr, $value:literal, $control:literal: $($n:literal)+) => { $(
            if $n < $count {
                let pair = $list[$n];
                msr!(concat!("DBG", $value, "R", $n, "_EL1"), pair.value);
                msr!(concat!("DBG", $control, "R", $n, "_EL1"), pair.control.into_bits());
            }
        )+ };
    }
    pairs!(debug.breakpoints, breakpoints, "BV", "BC": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    pairs!(debug.watchpoints, watchpoints, "WV", "WC": 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    msr!("MDSCR_EL1", debug.mdscr.into_bits());
    isb();
}
