//! The exception syndrome in words.

use core::fmt;

use super::{Esr, ExceptionClass};
use crate::aarch64::instruction::SystemRegister;

/// The fault status of an abort: what failed, and at which level of the tables.
///
/// Source: Arm ARM, "ISS encoding for an exception from a Data Abort", field DFSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct FaultStatus(pub u8);

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.0 & 0b11;
        match self.0 {
            0b00_0000..=0b00_0011 => write!(f, "address size fault, level {level}"),
            0b00_0100..=0b00_0111 => write!(f, "translation fault, level {level}"),
            0b00_1000..=0b00_1011 => write!(f, "access flag fault, level {level}"),
            0b00_1100..=0b00_1111 => write!(f, "permission fault, level {level}"),
            0b01_0000 => f.write_str("synchronous external abort"),
            0b01_0001 => f.write_str("synchronous tag check fault"),
            0b01_0011 => f.write_str("synchronous external abort on a table walk, level -1"),
            0b01_0100..=0b01_0111 => {
                write!(
                    f,
                    "synchronous external abort on a table walk, level {level}"
                )
            }
            0b01_1000 => f.write_str("synchronous parity or ECC error"),
            0b01_1011 => f.write_str("synchronous parity or ECC error on a table walk, level -1"),
            0b01_1100..=0b01_1111 => {
                write!(
                    f,
                    "synchronous parity or ECC error on a table walk, level {level}"
                )
            }
            0b10_0001 => f.write_str("alignment fault"),
            0b10_0010 => f.write_str("debug exception"),
            0b10_1001 => f.write_str("address size fault, level -1"),
            0b10_1011 => f.write_str("translation fault, level -1"),
            0b11_0000 => f.write_str("TLB conflict"),
            0b11_0001 => f.write_str("unsupported atomic hardware update"),
            0b11_0100 => f.write_str("lockdown"),
            0b11_0101 => f.write_str("unsupported exclusive or atomic access"),
            other => write!(f, "fault status {other:#04x}"),
        }
    }
}

/// The part of an abort's syndrome that instruction and data aborts have in common, and what a data
/// abort has besides.
///
/// Source: Arm ARM, "ISS encoding for an exception from a Data Abort".
struct Abort(u32);

impl Abort {
    fn status(&self) -> FaultStatus {
        FaultStatus(self.0.to_le_bytes()[0] & 0x3f)
    }

    const fn has(&self, bit: u32) -> bool {
        self.0 >> bit & 1 == 1
    }

    const fn is_write(&self) -> bool {
        self.has(6)
    }

    const fn is_of_a_walk(&self) -> bool {
        self.has(7)
    }

    const fn is_cache_maintenance(&self) -> bool {
        self.has(8)
    }

    const fn has_no_address(&self) -> bool {
        self.has(10)
    }
}

/// Source: Arm ARM, "ISS encoding for an exception from MSR, MRS, or System instruction execution in
/// AArch64 state".
fn system_register(iss: u32) -> (SystemRegister, bool) {
    let field = |low: u32, bits: u32| {
        let mask = 0xff_u32.unbounded_shr(8_u32.saturating_sub(bits));
        (iss.unbounded_shr(low) & mask).to_le_bytes()[0]
    };
    let register = SystemRegister {
        op0: field(20, 2),
        op1: field(14, 3),
        crn: field(10, 4),
        crm: field(1, 4),
        op2: field(17, 3),
    };
    (register, iss & 1 == 1)
}

impl fmt::Display for Esr {
    /// Writes the class and what the class says besides, such as
    /// `data abort from the same level: translation fault, level 2, of a write`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.ec(), origin(self.ec()))?;
        let (iss, abort) = (self.iss(), Abort(self.iss()));
        match self.ec() {
            ExceptionClass::SVC32
            | ExceptionClass::SVC64
            | ExceptionClass::HVC64
            | ExceptionClass::SMC64
            | ExceptionClass::BRK64
            | ExceptionClass::BKPT32 => write!(f, " #{:#x}", iss & 0xffff),
            ExceptionClass::INSTRUCTION_ABORT_LOWER | ExceptionClass::INSTRUCTION_ABORT_SAME => {
                write!(f, ": {}", abort.status())?;
                walk(&abort, f)
            }
            ExceptionClass::DATA_ABORT_LOWER | ExceptionClass::DATA_ABORT_SAME => {
                write!(f, ": {}", abort.status())?;
                walk(&abort, f)?;
                access(&abort, f)
            }
            ExceptionClass::WATCHPOINT_LOWER | ExceptionClass::WATCHPOINT_SAME => access(&abort, f),
            ExceptionClass::SYSTEM_REGISTER => {
                let (register, is_read) = system_register(iss);
                let SystemRegister {
                    op0,
                    op1,
                    crn,
                    crm,
                    op2,
                } = register;
                let direction = if is_read { "read" } else { "write" };
                write!(f, ": {direction} of s{op0}_{op1}_c{crn}_c{crm}_{op2}")
            }
            ExceptionClass::UNKNOWN => Ok(()),
            _ if iss != 0 => write!(f, ", iss {iss:#x}"),
            _ => Ok(()),
        }
    }
}

/// Returns where an exception came from, for the classes that come in pairs.
fn origin(class: ExceptionClass) -> &'static str {
    match class {
        ExceptionClass::INSTRUCTION_ABORT_LOWER
        | ExceptionClass::DATA_ABORT_LOWER
        | ExceptionClass::BREAKPOINT_LOWER
        | ExceptionClass::STEP_LOWER
        | ExceptionClass::WATCHPOINT_LOWER => " from a lower level",
        ExceptionClass::INSTRUCTION_ABORT_SAME
        | ExceptionClass::DATA_ABORT_SAME
        | ExceptionClass::BREAKPOINT_SAME
        | ExceptionClass::STEP_SAME
        | ExceptionClass::WATCHPOINT_SAME => " from the same level",
        _ => "",
    }
}

fn walk(abort: &Abort, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if abort.is_of_a_walk() {
        f.write_str(", in stage 2 for a walk of stage 1")?;
    }
    if abort.has_no_address() {
        f.write_str(", address not known")?;
    }
    Ok(())
}

fn access(abort: &Abort, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(match (abort.is_cache_maintenance(), abort.is_write()) {
        (true, _) => ", of cache maintenance",
        (false, true) => ", of a write",
        (false, false) => ", of a read",
    })
}
