//! The registers of x86-64: the table, and the order in which layouts list it.

mod builder;
mod table;
mod types;

use alloc::vec::Vec;

pub use table::*;

use crate::{FeatureSet, LayoutKind, RegisterFile, RegisterId, layout::Run};

/// Makes a register file of zeros.
#[must_use]
pub fn file() -> RegisterFile {
    RegisterFile::new(TABLE)
}

/// The sixteen general-purpose registers by the number that encodes them in an instruction.
///
/// Source: SDM vol. 2A, "ModR/M and SIB Bytes".
pub const BY_ENCODING: [RegisterId; 16] = [
    RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
];

/// Returns the runs of registers of a layout in the order of their numbers.
///
/// Registers that every vCPU has come first, so that their numbers are the same in every session
/// of one kind.
pub(crate) fn order(kind: LayoutKind, features: FeatureSet) -> Vec<Run> {
    let mut runs = Vec::new();
    match kind {
        LayoutKind::X86_64 => runs.push(Run::general(RAX, MXCSR)),
        LayoutKind::I386 => {
            for id in BY_ENCODING.into_iter().take(8) {
                runs.push(Run::general(id, id));
            }
            runs.push(Run::general(RIP, MXCSR));
        }
        // A layout of another architecture lists none of these.
        LayoutKind::Aarch64 => return runs,
    }
    runs.push(Run::single(CS_BASE, TSC));
    runs.push(Run::single(XCR0, XCR0));
    let optional = [
        (FeatureSet::TSC_AUX, Run::single(TSC_AUX, TSC_AUX)),
        (FeatureSet::XSAVES, Run::single(XSS, XSS)),
        (FeatureSet::SPEC_CTRL, Run::single(SPEC_CTRL, SPEC_CTRL)),
        (FeatureSet::AVX, Run::single(YMM0H, YMM15H)),
        (
            FeatureSet::AVX | FeatureSet::AVX512,
            Run::single(XMM16, ZMM31H),
        ),
        (FeatureSet::PKU, Run::single(PKRU, PKRU)),
    ];
    runs.extend(
        optional
            .into_iter()
            .filter(|(needs, _)| features.contains(*needs))
            .map(|(_, run)| run),
    );
    runs
}

/// Returns the register `xmm` `number`, 0 to 31.
#[must_use]
pub fn xmm(number: usize) -> Option<RegisterId> {
    nth(&[(XMM0, 16), (XMM16, 16)], number)
}

/// Returns bits 255:128 of the vector register `number`, 0 to 31.
#[must_use]
pub fn ymmh(number: usize) -> Option<RegisterId> {
    nth(&[(YMM0H, 16), (YMM16H, 16)], number)
}

/// Returns bits 511:256 of the vector register `number`, 0 to 31.
#[must_use]
pub fn zmmh(number: usize) -> Option<RegisterId> {
    nth(&[(ZMM0H, 32)], number)
}

/// Returns the element `number` of the x87 stack, 0 to 7, counted from its top.
#[must_use]
pub fn st(number: usize) -> Option<RegisterId> {
    nth(&[(ST0, 8)], number)
}

/// Returns the opmask register `number`, 0 to 7.
#[must_use]
pub fn k(number: usize) -> Option<RegisterId> {
    nth(&[(K0, 8)], number)
}

/// Returns register `number` of a family that lies in runs of adjacent rows of the table.
fn nth(runs: &[(RegisterId, usize)], number: usize) -> Option<RegisterId> {
    let mut index = number;
    for (first, count) in runs {
        match index.checked_sub(*count) {
            None => {
                return first
                    .0
                    .checked_add(u16::try_from(index).ok()?)
                    .map(RegisterId);
            }
            Some(rest) => index = rest,
        }
    }
    None
}

#[cfg(test)]
mod tests;
