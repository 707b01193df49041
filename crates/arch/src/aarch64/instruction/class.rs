//! What a stepper must know of an instruction.

use super::Instruction;
use crate::Gva;

/// A system register as instructions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SystemRegister {
    /// op0, 2 or 3.
    pub op0: u8,
    /// op1, 0 to 7.
    pub op1: u8,
    /// `CRn`, 0 to 15.
    pub crn: u8,
    /// `CRm`, 0 to 15.
    pub crm: u8,
    /// op2, 0 to 7.
    pub op2: u8,
}

/// Where a direct branch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Branch {
    /// To its target.
    Always(Gva),
    /// To its target, which returns to the next instruction.
    Call(Gva),
    /// To its target or to the next instruction.
    Conditional(Gva),
}

impl Branch {
    /// Returns the target.
    #[must_use]
    pub const fn target(self) -> Gva {
        match self {
            Self::Always(target) | Self::Call(target) | Self::Conditional(target) => target,
        }
    }
}

/// What single-stepping an instruction takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepClass {
    /// Nothing special.
    Plain,
    /// A branch to an address in a register: BR, BLR, RET and their kin.
    IndirectBranch,
    /// SVC: an exception to EL1.
    SupervisorCall,
    /// HVC: an exception to EL2.
    HypervisorCall,
    /// SMC: an exception to EL3, which a hypervisor may take.
    SecureMonitorCall,
    /// BRK.
    Breakpoint {
        /// The immediate.
        comment: u16,
    },
    /// HLT: enters debug state, or is undefined.
    Halt,
    /// ERET and its kin: PSTATE is restored from SPSR, its bit SS included.
    ExceptionReturn,
    /// WFI or WFIT: the vCPU may wait for an interrupt.
    WaitForInterrupt,
    /// WFE or WFET: the vCPU may wait for an event.
    WaitForEvent,
    /// A Load-Exclusive instruction. Stepped one by one, what follows up to the Store-Exclusive never
    /// succeeds ([`ExclusiveSequence`](super::ExclusiveSequence)).
    LoadExclusive,
    /// A Store-Exclusive instruction.
    StoreExclusive,
    /// CLREX.
    ClearExclusive,
    /// MSR to a field of PSTATE: `DAIFSet`, `DAIFClr`, `SPSel`, PAN and the like.
    WritePstateField {
        /// op1.
        op1: u8,
        /// op2, which with op1 names the field.
        op2: u8,
    },
    /// MRS.
    ReadSystemRegister(SystemRegister),
    /// MSR of a register.
    WriteSystemRegister(SystemRegister),
}

impl Instruction {
    /// Returns what stepping the instruction takes.
    #[must_use]
    pub const fn step_class(self) -> StepClass {
        if self.is(0xff00_0000, 0xd400_0000) {
            return self.exception_generation();
        }
        if self.is(0xff00_0000, 0xd500_0000) {
            return self.system();
        }
        if self.is(0xfe00_0000, 0xd600_0000) {
            // RET from an exception, with or without authentication.
            return match self.field(21, 4) {
                0b0100 => StepClass::ExceptionReturn,
                _ => StepClass::IndirectBranch,
            };
        }
        if self.is_exclusive() {
            return if self.bit(22) {
                StepClass::LoadExclusive
            } else {
                StepClass::StoreExclusive
            };
        }
        StepClass::Plain
    }

    /// Source: Arm ARM, "Exception generation".
    #[expect(clippy::cast_possible_truncation, reason = "16 bits")]
    const fn exception_generation(self) -> StepClass {
        match (self.field(21, 3), self.field(0, 5)) {
            (0b000, 0b00001) => StepClass::SupervisorCall,
            (0b000, 0b00010) => StepClass::HypervisorCall,
            (0b000, 0b00011) => StepClass::SecureMonitorCall,
            (0b001, 0b00000) => StepClass::Breakpoint {
                comment: self.field(5, 16) as u16,
            },
            (0b010, 0b00000) => StepClass::Halt,
            _ => StepClass::Plain,
        }
    }

    /// Source: Arm ARM, "System instructions", "Hints", "Barriers", "PSTATE", "System register move".
    const fn system(self) -> StepClass {
        match self.0 & !0x1f {
            0xd503_1000 => return StepClass::WaitForEvent,
            0xd503_1020 => return StepClass::WaitForInterrupt,
            _ => (),
        }
        match self.0 {
            0xd503_205f => return StepClass::WaitForEvent,
            0xd503_207f => return StepClass::WaitForInterrupt,
            _ => (),
        }
        if self.is(0xffff_f0ff, 0xd503_305f) {
            return StepClass::ClearExclusive;
        }
        if self.is(0xfff8_f01f, 0xd500_401f) {
            return StepClass::WritePstateField {
                op1: self.narrow_field(16, 3),
                op2: self.narrow_field(5, 3),
            };
        }
        if !self.bit(20) {
            return StepClass::Plain;
        }
        let register = SystemRegister {
            op0: self.narrow_field(19, 2),
            op1: self.narrow_field(16, 3),
            crn: self.narrow_field(12, 4),
            crm: self.narrow_field(8, 4),
            op2: self.narrow_field(5, 3),
        };
        match self.field(21, 3) {
            0b000 => StepClass::WriteSystemRegister(register),
            0b001 => StepClass::ReadSystemRegister(register),
            _ => StepClass::Plain,
        }
    }

    /// Returns a field of at most 8 bits.
    #[expect(clippy::cast_possible_truncation, reason = "at most eight bits")]
    const fn narrow_field(self, low: u32, bits: u32) -> u8 {
        self.field(low, bits) as u8
    }

    /// Returns whether this is a Load-Exclusive or Store-Exclusive of a register or a pair.
    ///
    /// Source: Arm ARM, "Load/store exclusive register" and "Load/store exclusive pair".
    pub(super) const fn is_exclusive(self) -> bool {
        // CASP has the bits of a pair of a size that no pair has.
        self.is(0x3fa0_0000, 0x0800_0000) || self.is(0xbfa0_0000, 0x8820_0000)
    }

    /// Returns where a direct branch at `pc` leads, or `None` if the instruction is no direct branch.
    ///
    /// Source: Arm ARM, "Branches, Exception Generating and System instructions".
    #[must_use]
    pub const fn branch(self, pc: Gva) -> Option<Branch> {
        if self.is(0x7c00_0000, 0x1400_0000) {
            let target = target(pc, self.signed_field(0, 26));
            return Some(if self.bit(31) {
                Branch::Call(target)
            } else {
                Branch::Always(target)
            });
        }
        // B.cond and BC.cond, CBZ and CBNZ; TBZ and TBNZ.
        if self.is(0xff00_0000, 0x5400_0000) || self.is(0x7e00_0000, 0x3400_0000) {
            return Some(Branch::Conditional(target(pc, self.signed_field(5, 19))));
        }
        if self.is(0x7e00_0000, 0x3600_0000) {
            return Some(Branch::Conditional(target(pc, self.signed_field(5, 14))));
        }
        None
    }
}

const fn target(pc: Gva, words: i64) -> Gva {
    Gva(pc.0.wrapping_add_signed(words.wrapping_mul(4)))
}
