//! At which exception levels a breakpoint or watchpoint matches.

use super::{Dbgbcr, Dbgwcr};
use crate::aarch64::ExceptionLevel;

/// A security state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityState {
    /// Non-secure.
    NonSecure,
    /// Secure.
    Secure,
}

/// The fields HMC, SSC and PMC or PAC together.
///
/// Source: Arm ARM, "Execution conditions for which a breakpoint generates Breakpoint exceptions" and
/// "Execution conditions for which a watchpoint generates Watchpoint exceptions".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Privileges {
    /// Higher exception levels.
    pub hmc: bool,
    /// Security states, 2 bits.
    pub ssc: u8,
    /// EL1 in bit 0, EL0 in bit 1.
    pub pxc: u8,
}

impl Privileges {
    /// EL1 and EL0, in either security state: all of a guest.
    pub const EL1_AND_EL0: Self = Self {
        hmc: false,
        ssc: 0b00,
        pxc: 0b11,
    };

    /// Returns those of a breakpoint.
    #[must_use]
    pub const fn of_breakpoint(control: Dbgbcr) -> Self {
        Self {
            hmc: control.hmc(),
            ssc: control.ssc(),
            pxc: control.pmc(),
        }
    }

    /// Returns those of a watchpoint.
    #[must_use]
    pub const fn of_watchpoint(control: Dbgwcr) -> Self {
        Self {
            hmc: control.hmc(),
            ssc: control.ssc(),
            pxc: control.pac(),
        }
    }

    /// Returns a breakpoint's control register with these.
    #[must_use]
    pub const fn in_breakpoint(self, control: Dbgbcr) -> Dbgbcr {
        control
            .with_hmc(self.hmc)
            .with_ssc(self.ssc & 0b11)
            .with_pmc(self.pxc & 0b11)
    }

    /// Returns a watchpoint's control register with these.
    #[must_use]
    pub const fn in_watchpoint(self, control: Dbgwcr) -> Dbgwcr {
        control
            .with_hmc(self.hmc)
            .with_ssc(self.ssc & 0b11)
            .with_pac(self.pxc & 0b11)
    }

    /// Returns whether the combination is one that no processor gives a meaning. What such a
    /// breakpoint does is up to the processor.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        matches!(
            (self.hmc, self.ssc, self.pxc),
            (false, 0b11, 0b10)
                | (true, 0b00, 0b00 | 0b10)
                | (true, 0b01 | 0b11, 0b10)
                | (true, 0b10, 0b10)
        )
    }

    /// Returns whether code in AArch64 state at `level` matches, on a processor that has EL2 and EL3.
    ///
    /// The combination 0, 0, 0 stands for three modes of AArch32 and matches nothing here.
    #[must_use]
    pub const fn matches(self, level: ExceptionLevel, security: SecurityState) -> bool {
        let level_matches = match level {
            ExceptionLevel::El0 => self.pxc & 0b10 != 0,
            ExceptionLevel::El1 => self.pxc & 0b01 != 0,
            ExceptionLevel::El2 => {
                self.hmc && !(self.ssc == 0b10 && self.pxc == 0b00) || self.ssc == 0b11
            }
            ExceptionLevel::El3 => self.hmc && self.ssc & 1 == 0,
        };
        let security_matches = match self.ssc & 0b11 {
            0b00 => true,
            0b01 => matches!(security, SecurityState::NonSecure),
            0b10 => matches!(security, SecurityState::Secure),
            _ => self.hmc || matches!(security, SecurityState::Secure),
        };
        level_matches && security_matches
    }
}
