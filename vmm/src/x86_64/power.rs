//! The ACPI power-management registers (ACPI specification 6.5, "PM1 Event Grouping", "PM1 Control
//! Grouping", "Power Management Timer") and the reset control register of a PC.

use std::time::Instant;

use trapline_engine::GuestEnd;

/// Frequency of the power-management timer in Hz.
const TIMER_HZ: u128 = 3_579_545;
/// PM1 control: ACPI mode is on. It always is here.
const SCI_ENABLE: u16 = 1 << 0;
/// PM1 control: go to sleep now.
const SLEEP_ENABLE: u16 = 1 << 13;
/// PM1 control: the kind of sleep. Only 0 exists, which the DSDT calls S5 (off).
const SLEEP_TYPE: u16 = 0b111 << 10;
/// Reset control register: reset the processor now.
const RESET_CPU: u8 = 1 << 2;

/// The power-management registers.
#[derive(Debug)]
pub(crate) struct PowerRegisters {
    started: Instant,
    enable: u16,
    control: u16,
}

impl PowerRegisters {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            enable: 0,
            control: SCI_ENABLE,
        }
    }

    /// Returns the status and enable registers, as one word. No event ever happens.
    pub(crate) fn events(&self) -> u32 {
        u32::from(self.enable) << 16
    }

    /// Writes the enable register. The status register's bits are cleared by writing them, and
    /// none is ever set.
    pub(crate) fn set_enable(&mut self, value: u16) {
        self.enable = value;
    }

    pub(crate) fn control(&self) -> u16 {
        self.control
    }

    /// Writes the control register and says whether that powers the machine off.
    pub(crate) fn set_control(&mut self, value: u16) -> Option<GuestEnd> {
        self.control = value & !SLEEP_ENABLE | SCI_ENABLE;
        let off = value & SLEEP_ENABLE != 0 && value & SLEEP_TYPE == 0;
        off.then_some(GuestEnd::PowerOff)
    }

    /// Returns the timer, which goes on while the guest is stopped, as the hardware's does.
    pub(crate) fn timer(&self) -> u32 {
        let ticks = self.started.elapsed().as_nanos() * TIMER_HZ / 1_000_000_000;
        u32::try_from(ticks & u128::from(u32::MAX)).unwrap_or(0)
    }
}

/// Says whether a write to the reset control register resets the machine.
pub(crate) fn reset_control(value: u8) -> Option<GuestEnd> {
    (value & RESET_CPU != 0).then_some(GuestEnd::Reset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sleep_enable_with_type_0_powers_off() {
        let mut registers = PowerRegisters::new();
        assert_eq!(registers.set_control(0), None);
        assert_eq!(registers.set_control(SLEEP_ENABLE | 1 << 10), None);
        assert_eq!(
            registers.set_control(SLEEP_ENABLE),
            Some(GuestEnd::PowerOff)
        );
        assert_eq!(registers.control(), SCI_ENABLE);
    }

    #[test]
    fn the_reset_register_wants_its_bit() {
        assert_eq!(reset_control(2), None);
        assert_eq!(reset_control(6), Some(GuestEnd::Reset));
    }
}
