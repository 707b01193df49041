//! Why the guest came out.
//!
//! Source: Arm ARM, "ISS encoding for an exception from a Data Abort", "ISS encoding for an exception from
//! MSR, MRS, or System instruction execution in AArch64 state".

use bitfield_struct::bitfield;
use trapline_arch::aarch64::exception::{Esr, ExceptionClass};

/// What an exception to EL2 is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// An access to memory that stage 2 does not map.
    DataAbort(DataAbort),
    /// A fetch of an instruction from memory that stage 2 does not map.
    InstructionAbort,
    /// MRS or MSR.
    SystemRegister(SystemRegisterAccess),
    /// SMC, which the guest means for firmware.
    SecureMonitorCall,
    /// HVC.
    HypervisorCall,
    /// WFI or WFE.
    Wait,
    /// BRK.
    BreakpointInstruction,
    /// A hardware breakpoint.
    Breakpoint,
    /// A watchpoint.
    Watchpoint,
    /// The software step is done.
    Step,
    /// Something that was not to be trapped.
    Unexpected(ExceptionClass),
}

/// The syndrome of a data abort.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DataAbort {
    /// The fault status code.
    #[bits(6)]
    pub dfsc: u8,
    /// A write.
    pub w_n_r: bool,
    /// The abort was met while tables of stage 1 were walked.
    pub s1ptw: bool,
    /// Cache maintenance.
    pub cm: bool,
    /// External abort type.
    pub ea: bool,
    /// FAR is not valid.
    pub fn_v: bool,
    #[bits(3)]
    __: u8,
    /// Acquire or release.
    pub ar: bool,
    /// The register has 64 bits.
    pub sf: bool,
    /// The register.
    #[bits(5)]
    pub srt: u8,
    /// The value is extended by its sign.
    pub sse: bool,
    /// The binary logarithm of the size in bytes.
    #[bits(2)]
    pub sas: u8,
    /// The fields about the register are valid.
    pub isv: bool,
    #[bits(7)]
    __: u8,
}

impl DataAbort {
    /// Returns whether nothing is mapped: a translation fault.
    #[must_use]
    pub const fn is_translation(self) -> bool {
        self.dfsc() & 0b11_1100 == 0b00_0100
    }

    /// Returns the value that a load puts into its register.
    #[must_use]
    pub const fn extended(self, value: u64) -> u64 {
        let bits = 8_u32 << self.sas();
        let unused = 64_u32.saturating_sub(bits);
        let value = value << unused >> unused;
        if !self.sse() {
            return value;
        }
        let signed = ((value << unused).cast_signed() >> unused).cast_unsigned();
        if self.sf() {
            signed
        } else {
            signed & 0xffff_ffff
        }
    }
}

/// The syndrome of MRS and MSR.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SystemRegisterAccess {
    /// A read.
    pub is_read: bool,
    /// `CRm`.
    #[bits(4)]
    pub crm: u8,
    /// The general register.
    #[bits(5)]
    pub rt: u8,
    /// `CRn`.
    #[bits(4)]
    pub crn: u8,
    /// op1.
    #[bits(3)]
    pub op1: u8,
    /// op2.
    #[bits(3)]
    pub op2: u8,
    /// op0.
    #[bits(2)]
    pub op0: u8,
    #[bits(10)]
    __: u16,
}

impl Trap {
    /// Takes an exception apart.
    #[must_use]
    pub const fn from_esr(esr: Esr) -> Self {
        match esr.ec() {
            ExceptionClass::DATA_ABORT_LOWER => Self::DataAbort(DataAbort::from_bits(esr.iss())),
            ExceptionClass::INSTRUCTION_ABORT_LOWER => Self::InstructionAbort,
            ExceptionClass::SYSTEM_REGISTER => {
                Self::SystemRegister(SystemRegisterAccess::from_bits(esr.iss()))
            }
            ExceptionClass::SMC64 => Self::SecureMonitorCall,
            ExceptionClass::HVC64 => Self::HypervisorCall,
            ExceptionClass::WFX => Self::Wait,
            ExceptionClass::BRK64 | ExceptionClass::BKPT32 => Self::BreakpointInstruction,
            ExceptionClass::BREAKPOINT_LOWER => Self::Breakpoint,
            ExceptionClass::WATCHPOINT_LOWER => Self::Watchpoint,
            ExceptionClass::STEP_LOWER => Self::Step,
            other => Self::Unexpected(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_to_a_device_is_decoded() {
        // str w3, [x0], a translation fault of level 3.
        let esr = Esr::from_bits(0x9383_0047);
        let Trap::DataAbort(abort) = Trap::from_esr(esr) else {
            panic!("no data abort");
        };
        assert!(abort.isv() && abort.w_n_r() && abort.is_translation());
        assert_eq!((abort.srt(), abort.sas(), abort.sf()), (3, 2, false));
    }

    #[test]
    fn loads_extend_what_they_read() {
        let load = DataAbort::new().with_sas(0);
        assert_eq!(load.extended(0x1ff), 0xff);
        assert_eq!(load.with_sse(true).extended(0x80), 0xffff_ff80);
        assert_eq!(load.with_sse(true).with_sf(true).extended(0x80), !0x7f);
        assert_eq!(load.with_sas(3).extended(u64::MAX), u64::MAX);
        assert_eq!(load.with_sas(2).with_sse(true).extended(7), 7);
    }

    #[test]
    fn a_software_interrupt_of_the_guest_is_decoded() {
        // msr icc_sgi1r_el1, x2
        let access = SystemRegisterAccess::from_bits(0x003a_3056);
        assert_eq!(access.op0(), 3);
        assert_eq!((access.crn(), access.crm(), access.op2()), (12, 11, 5));
    }
}
