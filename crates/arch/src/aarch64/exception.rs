//! The exception syndrome: why an exception was taken.

mod describe;

use core::fmt;

use bitfield_struct::bitfield;

pub use describe::FaultStatus;

use super::{control::stored_in, registers};
use crate::{RegisterFile, RegisterId};

stored_in! { Esr: ESR_EL1 }

/// An exception syndrome register, of any exception level.
///
/// Source: Arm ARM, "`ESR_EL1`, Exception Syndrome Register (EL1)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Esr {
    /// What more there is to say, in a form that depends on the class.
    #[bits(25)]
    pub iss: u32,
    /// The instruction has 32 bits.
    pub il: bool,
    /// Why the exception was taken.
    #[bits(6)]
    pub ec: ExceptionClass,
    /// More of the syndrome.
    #[bits(24)]
    pub iss2: u32,
    __: u8,
}

/// The class of an exception: ESR's field EC. Values without a name survive.
///
/// Source: Arm ARM, "`ESR_EL1`, Exception Syndrome Register (EL1)", field EC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ExceptionClass(u8);

impl ExceptionClass {
    /// Unknown reason.
    pub const UNKNOWN: Self = Self(0x00);
    /// WFI, WFE, WFIT or WFET.
    pub const WFX: Self = Self(0x01);
    /// Access to SVE, SIMD or floating point.
    pub const FP: Self = Self(0x07);
    /// Use of pointer authentication.
    pub const PAUTH: Self = Self(0x09);
    /// Branch target exception.
    pub const BRANCH_TARGET: Self = Self(0x0d);
    /// Illegal execution state.
    pub const ILLEGAL_STATE: Self = Self(0x0e);
    /// SVC in AArch32 state.
    pub const SVC32: Self = Self(0x11);
    /// SVC.
    pub const SVC64: Self = Self(0x15);
    /// HVC.
    pub const HVC64: Self = Self(0x16);
    /// SMC.
    pub const SMC64: Self = Self(0x17);
    /// MSR, MRS or a system instruction.
    pub const SYSTEM_REGISTER: Self = Self(0x18);
    /// Access to SVE.
    pub const SVE: Self = Self(0x19);
    /// ERET.
    pub const ERET: Self = Self(0x1a);
    /// Pointer authentication failure.
    pub const PAC_FAIL: Self = Self(0x1c);
    /// Instruction abort from a lower exception level.
    pub const INSTRUCTION_ABORT_LOWER: Self = Self(0x20);
    /// Instruction abort from the same exception level.
    pub const INSTRUCTION_ABORT_SAME: Self = Self(0x21);
    /// PC alignment fault.
    pub const PC_ALIGNMENT: Self = Self(0x22);
    /// Data abort from a lower exception level.
    pub const DATA_ABORT_LOWER: Self = Self(0x24);
    /// Data abort from the same exception level.
    pub const DATA_ABORT_SAME: Self = Self(0x25);
    /// SP alignment fault.
    pub const SP_ALIGNMENT: Self = Self(0x26);
    /// Memory copy and set instructions.
    pub const MOPS: Self = Self(0x27);
    /// Floating-point exception of AArch64.
    pub const FP_EXCEPTION: Self = Self(0x2c);
    /// `SError`.
    pub const SERROR: Self = Self(0x2f);
    /// Breakpoint from a lower exception level.
    pub const BREAKPOINT_LOWER: Self = Self(0x30);
    /// Breakpoint from the same exception level.
    pub const BREAKPOINT_SAME: Self = Self(0x31);
    /// Software step from a lower exception level.
    pub const STEP_LOWER: Self = Self(0x32);
    /// Software step from the same exception level.
    pub const STEP_SAME: Self = Self(0x33);
    /// Watchpoint from a lower exception level.
    pub const WATCHPOINT_LOWER: Self = Self(0x34);
    /// Watchpoint from the same exception level.
    pub const WATCHPOINT_SAME: Self = Self(0x35);
    /// BKPT in AArch32 state.
    pub const BKPT32: Self = Self(0x38);
    /// Vector catch of AArch32.
    pub const VECTOR_CATCH: Self = Self(0x3a);
    /// BRK.
    pub const BRK64: Self = Self(0x3c);

    /// Makes the class of a value, of which the low 6 bits count.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & 0x3f)
    }

    /// Returns the value.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        self.0
    }

    /// Returns the class in words, if it is one of the named ones.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::UNKNOWN => "unknown reason",
            Self::WFX => "WFI or WFE",
            Self::FP => "access to SIMD or floating point",
            Self::PAUTH => "use of pointer authentication",
            Self::BRANCH_TARGET => "branch target exception",
            Self::ILLEGAL_STATE => "illegal execution state",
            Self::SVC32 | Self::SVC64 => "SVC",
            Self::HVC64 => "HVC",
            Self::SMC64 => "SMC",
            Self::SYSTEM_REGISTER => "MSR, MRS or system instruction",
            Self::SVE => "access to SVE",
            Self::ERET => "ERET",
            Self::PAC_FAIL => "pointer authentication failure",
            Self::INSTRUCTION_ABORT_LOWER | Self::INSTRUCTION_ABORT_SAME => "instruction abort",
            Self::PC_ALIGNMENT => "PC alignment fault",
            Self::DATA_ABORT_LOWER | Self::DATA_ABORT_SAME => "data abort",
            Self::SP_ALIGNMENT => "SP alignment fault",
            Self::MOPS => "memory copy or set",
            Self::FP_EXCEPTION => "floating-point exception",
            Self::SERROR => "SError",
            Self::BREAKPOINT_LOWER | Self::BREAKPOINT_SAME => "breakpoint",
            Self::STEP_LOWER | Self::STEP_SAME => "software step",
            Self::WATCHPOINT_LOWER | Self::WATCHPOINT_SAME => "watchpoint",
            Self::BKPT32 => "BKPT",
            Self::VECTOR_CATCH => "vector catch",
            Self::BRK64 => "BRK",
            _ => return None,
        })
    }
}

impl fmt::Display for ExceptionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "exception class {:#04x}", self.0),
        }
    }
}

/// The syndrome of a software step exception.
///
/// Source: Arm ARM, "ISS encoding for an exception from a Software Step exception".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StepSyndrome {
    /// The fault status code of debug exceptions.
    #[bits(6)]
    pub ifsc: u8,
    /// A Load-Exclusive instruction was stepped. Valid if `isv` is set.
    pub ex: bool,
    #[bits(17)]
    __: u32,
    /// `ex` is valid: an instruction was stepped, and not only the state entered or left.
    pub isv: bool,
    #[bits(7)]
    __: u8,
}

/// The syndrome of a watchpoint exception.
///
/// Source: Arm ARM, "ISS encoding for an exception from a Watchpoint exception".
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WatchpointSyndrome {
    /// The fault status code of debug exceptions.
    #[bits(6)]
    pub dfsc: u8,
    /// A write, or a cache maintenance instruction. Atomics report a write if a watchpoint for
    /// writes would have hit.
    pub w_n_r: bool,
    __: bool,
    /// A cache maintenance or address translation instruction, DC ZVA excepted.
    pub cm: bool,
    __: bool,
    /// FAR is not valid.
    pub fn_v: bool,
    #[bits(4)]
    __: u8,
    /// FAR is not precise: the access may have been anywhere in the block around it.
    pub fn_p: bool,
    /// The hit may be a false one, of an access near by.
    pub wpf: bool,
    /// `wpt` is valid.
    pub wptv: bool,
    /// The number of the watchpoint that hit.
    #[bits(6)]
    pub wpt: u8,
    __: u8,
}

/// A debug exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugException {
    /// A hardware breakpoint matched the instruction at ELR, which has not executed.
    Breakpoint,
    /// One instruction was stepped. ELR is the next one.
    SoftwareStep(StepSyndrome),
    /// A watchpoint matched an access of the instruction at ELR, which has not executed.
    Watchpoint(WatchpointSyndrome),
    /// BRK, or BKPT in AArch32 state, at ELR.
    BreakpointInstruction {
        /// The instruction's immediate.
        comment: u16,
    },
    /// An AArch32 vector catch.
    VectorCatch,
}

impl Esr {
    /// Returns what debug exception this is the syndrome of, if it is one.
    #[must_use]
    pub const fn debug_exception(self) -> Option<DebugException> {
        Some(match self.ec() {
            ExceptionClass::BREAKPOINT_LOWER | ExceptionClass::BREAKPOINT_SAME => {
                DebugException::Breakpoint
            }
            ExceptionClass::STEP_LOWER | ExceptionClass::STEP_SAME => {
                DebugException::SoftwareStep(StepSyndrome::from_bits(self.iss()))
            }
            ExceptionClass::WATCHPOINT_LOWER | ExceptionClass::WATCHPOINT_SAME => {
                DebugException::Watchpoint(WatchpointSyndrome::from_bits(self.iss()))
            }
            ExceptionClass::BRK64 | ExceptionClass::BKPT32 => {
                DebugException::BreakpointInstruction {
                    comment: low_16(self.iss()),
                }
            }
            ExceptionClass::VECTOR_CATCH => DebugException::VectorCatch,
            _ => return None,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
const fn low_16(value: u32) -> u16 {
    value as u16
}

#[cfg(test)]
mod tests;
