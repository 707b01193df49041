//! Taking an exception to EL1, as the processor would.
//!
//! A hypervisor that has intercepted an exception of the guest's own hands it on this way: x86 has
//! event injection for that, Arm leaves it to software.
//!
//! Source: Arm ARM, "Exception entry", "Exception vectors".

use super::{
    ExceptionLevel,
    control::{Pstate, Sctlr},
    exception::Esr,
    mode::{CpuMode, StackPointer},
    registers,
};
use crate::{Gva, RegisterFile, RegisterGroup};

/// SPSR's field M for EL1 with its own stack pointer.
const EL1H: u8 = 0b0101;

/// Where the vectors of one origin of an exception begin, relative to VBAR.
const SAME_LEVEL_SP0: u64 = 0x000;
const SAME_LEVEL: u64 = 0x200;
const LOWER_LEVEL: u64 = 0x400;
const LOWER_LEVEL_AARCH32: u64 = 0x600;

/// The length of one vector in bytes.
pub const VECTOR_BYTES: u64 = 0x80;

/// The length of the vector table in bytes.
const VECTOR_TABLE_BYTES: u64 = 0x800;

/// The low bits of VBAR that are not part of the address.
const VBAR_ALIGNMENT_BYTES: u64 = 0x800;

/// What of the processor decides how an exception changes PSTATE.
#[derive(Clone, Copy, Debug)]
struct Features {
    has_pan: bool,
    has_ssbs: bool,
    has_mte: bool,
    has_nmi: bool,
}

impl Features {
    fn of(registers: &RegisterFile) -> Self {
        let field = |id, low: u32| registers.u64(id) >> low & 0xf;
        Self {
            has_pan: field(registers::ID_AA64MMFR1_EL1, 20) != 0,
            has_ssbs: field(registers::ID_AA64PFR1_EL1, 4) != 0,
            has_mte: field(registers::ID_AA64PFR1_EL1, 8) >= 2,
            has_nmi: field(registers::ID_AA64PFR1_EL1, 36) != 0,
        }
    }
}

/// Takes a synchronous exception to EL1: saves where the vCPU is, sets the syndrome and, if given, the
/// fault address, and goes on at the vector.
///
/// All groups but `Fpu` and `Debug` must be loaded; `General` and `System` are changed. The class of
/// `esr` must fit the level that the vCPU is at, which some classes name.
pub fn take_to_el1(registers: &mut RegisterFile, esr: Esr, far: Option<Gva>) {
    let before = Pstate::read(registers);
    let vector = synchronous_vector(registers);
    registers.set_u64(registers::SPSR_EL1, before.into_bits());
    registers.set_u64(registers::ELR_EL1, registers.u64(registers::PC));
    registers.set_u64(registers::ESR_EL1, esr.into_bits());
    if let Some(far) = far {
        registers.set_u64(registers::FAR_EL1, far.0);
    }
    registers::follow_stack_pointer(registers, RegisterGroup::General);
    after(before, Sctlr::read(registers), Features::of(registers)).write(registers);
    registers::follow_stack_pointer(registers, RegisterGroup::System);
    registers.set_u64(registers::PC, vector.0);
}

/// Returns whether `pc` is the first instruction of an exception vector. The group `System` must be
/// loaded.
#[must_use]
pub fn is_vector(registers: &RegisterFile, pc: Gva) -> bool {
    let offset = pc.0.wrapping_sub(vectors(registers).0);
    offset < VECTOR_TABLE_BYTES && offset.is_multiple_of(VECTOR_BYTES)
}

/// Returns whether `pc` is the first instruction of one of the vectors of synchronous exceptions. The
/// group `System` must be loaded.
#[must_use]
pub fn is_synchronous_vector(registers: &RegisterFile, pc: Gva) -> bool {
    is_vector(registers, pc)
        && pc
            .0
            .wrapping_sub(vectors(registers).0)
            .is_multiple_of(SAME_LEVEL)
}

/// Returns where a synchronous exception that the next instruction raises leads, if it is taken to
/// EL1. The groups `General` and `System` must be loaded.
#[must_use]
pub fn synchronous_vector(registers: &RegisterFile) -> Gva {
    vectors(registers).wrapping_add(vector_offset(CpuMode::of(registers)))
}

fn vectors(registers: &RegisterFile) -> Gva {
    Gva(registers.u64(registers::VBAR_EL1)).align_down(VBAR_ALIGNMENT_BYTES)
}

fn vector_offset(mode: CpuMode) -> u64 {
    match mode {
        CpuMode::Aarch32 { .. } => LOWER_LEVEL_AARCH32,
        CpuMode::Aarch64 {
            level: ExceptionLevel::El0,
            ..
        } => LOWER_LEVEL,
        CpuMode::Aarch64 {
            stack: StackPointer::El0,
            ..
        } => SAME_LEVEL_SP0,
        CpuMode::Aarch64 { .. } | CpuMode::Illegal => SAME_LEVEL,
    }
}

/// Returns the state of the processor at the vector.
fn after(before: Pstate, sctlr: Sctlr, features: Features) -> Pstate {
    let state = before
        .with_m(EL1H)
        .with_n_rw(false)
        .with_t(false)
        .with_d(true)
        .with_a(true)
        .with_i(true)
        .with_f(true)
        .with_btype(0)
        .with_il(false)
        .with_ss(false)
        .with_uao(false);
    state
        .with_pan(features.has_pan && (before.pan() || !sctlr.span()))
        .with_ssbs(features.has_ssbs && sctlr.dssbs())
        .with_tco(features.has_mte || before.tco())
        .with_allint(features.has_nmi && !sctlr.spintmask())
}

#[cfg(test)]
mod tests;
