//! The registers of AArch64: the table, and the order in which layouts list it.

mod builder;
mod table;
mod types;

use alloc::vec::Vec;

pub use table::*;

use super::{
    control::Pstate,
    mode,
    tags::{PacMasks, PointerTags},
};
use crate::{FeatureSet, RegisterFile, RegisterGroup, RegisterId, layout::Run};

/// The longest vector length of SVE in units of 128 bits.
///
/// Source: Arm ARM, "SVE vector length".
pub const MAX_VECTOR_QUADWORDS: u8 = 16;

/// The most breakpoints, and the most watchpoints, that a processor can have.
pub const MAX_DEBUG_SLOTS: u8 = 16;

/// Makes a register file of zeros.
#[must_use]
pub fn file() -> RegisterFile {
    RegisterFile::new(TABLE)
}

/// Returns the runs of registers of a layout in the order of their numbers.
pub(crate) fn order(features: FeatureSet) -> Vec<Run> {
    let mut runs = Vec::new();
    runs.push(Run::general(X0, CPSR));
    if features.contains(FeatureSet::SVE) {
        runs.push(Run::general(Z0, Z31));
        runs.push(Run::general(FPSR, VG));
    } else {
        runs.push(Run::general(V0, FPCR));
    }
    let has = |needs| features.contains(needs);
    let optional = [
        (
            has(FeatureSet::PAUTH),
            Run::single(PAUTH_DMASK, PAUTH_CMASK_HIGH),
        ),
        (true, Run::single(DAIF, SPSR_EL1)),
        (has(FeatureSet::TCR2), Run::single(TCR2_EL1, TCR2_EL1)),
        (has(FeatureSet::S1PIE), Run::single(PIR_EL1, PIRE0_EL1)),
        (has(FeatureSet::SVE), Run::single(ZCR_EL1, ZCR_EL1)),
        (has(FeatureSet::MTE), Run::single(RGSR_EL1, TFSRE0_EL1)),
        (true, Run::single(MDSCR_EL1, OSLSR_EL1)),
    ];
    runs.extend(
        optional
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, run)| run),
    );
    let (breakpoints, watchpoints) = features.debug_slots();
    for (first, count) in [
        (DBGBVR0_EL1, breakpoints),
        (DBGBCR0_EL1, breakpoints),
        (DBGWVR0_EL1, watchpoints),
        (DBGWCR0_EL1, watchpoints),
    ] {
        runs.extend(nth(first, count.checked_sub(1)).map(|last| Run::single(first, last)));
    }
    runs.push(Run::single(CNTKCTL_EL1, CCSIDR_EL1));
    runs
}

/// Returns the general-purpose register `number`, 0 to 30.
#[must_use]
pub fn x(number: u8) -> Option<RegisterId> {
    (number <= 30).then_some(())?;
    nth(X0, Some(number))
}

/// Returns the SIMD and floating-point register `number`, 0 to 31.
#[must_use]
pub fn v(number: u8) -> Option<RegisterId> {
    (number <= 31).then_some(())?;
    nth(V0, Some(number))
}

/// Returns the scalable vector register `number`, 0 to 31.
#[must_use]
pub fn z(number: u8) -> Option<RegisterId> {
    (number <= 31).then_some(())?;
    nth(Z0, Some(number))
}

/// Returns the predicate register `number`, 0 to 15.
#[must_use]
pub fn p(number: u8) -> Option<RegisterId> {
    (number <= 15).then_some(())?;
    nth(P0, Some(number))
}

/// Returns the register `number` places behind `first` in the table.
pub(super) fn nth(first: RegisterId, number: Option<u8>) -> Option<RegisterId> {
    first.0.checked_add(number?.into()).map(RegisterId)
}

/// Sets the registers that are views of others, after `group` was loaded or changed: `daif`, which
/// shows bits of `cpsr`, in the group `General`, and the masks of pointer authentication, which
/// follow from TCR and SCTLR, in the group `System`.
pub fn complete(registers: &mut RegisterFile, group: RegisterGroup) {
    match group {
        RegisterGroup::General => {
            registers.set_u64(DAIF, Pstate::read(registers).masks_in_place());
        }
        RegisterGroup::System => {
            PacMasks::of(&PointerTags::from_registers(registers)).write(registers);
        }
        RegisterGroup::Fpu | RegisterGroup::Debug | RegisterGroup::Msr => (),
    }
}

/// Makes the stack pointer of a changed group that of the other: after the group `General` changed,
/// the banked register of `sp`; after the group `System` changed, `sp`.
pub fn follow_stack_pointer(registers: &mut RegisterFile, changed: RegisterGroup) {
    let Some(banked) = mode::banked_sp(registers) else {
        return;
    };
    match changed {
        RegisterGroup::General => registers.set_u64(banked, registers.u64(SP)),
        RegisterGroup::System => registers.set_u64(SP, registers.u64(banked)),
        RegisterGroup::Fpu | RegisterGroup::Debug | RegisterGroup::Msr => (),
    }
}

#[cfg(test)]
mod tests;
