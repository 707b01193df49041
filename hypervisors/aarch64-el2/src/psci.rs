//! The calls of power management that the hypervisor must see.
//!
//! Source: Arm, "Power State Coordination Interface", "PSCI functions".

/// What a guest asks of firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Standby of this processor until an interrupt, or power down, which may be carried out as that.
    Suspend,
    /// This processor off.
    Off,
    /// Another processor on.
    On {
        /// Its affinity.
        target: u64,
        /// Where it begins.
        entry: u64,
        /// What it finds in x0.
        context: u64,
    },
    /// The machine off.
    SystemOff,
    /// The machine reset.
    SystemReset,
    /// What is [hidden](is_hidden).
    Hidden,
    /// Whether a function is there.
    Features {
        /// The function.
        function: u32,
    },
    /// Whatever else firmware can do.
    Other,
}

/// The call succeeded.
pub const SUCCESS: u64 = 0;
/// There is no such function.
pub const NOT_SUPPORTED: u64 = u64::MAX;
/// A parameter is wrong.
pub const INVALID_PARAMETERS: u64 = (-2_i64).cast_unsigned();
/// The processor is on.
pub const ALREADY_ON: u64 = (-4_i64).cast_unsigned();

/// The function that turns a processor on, called with 64-bit parameters.
pub const CPU_ON: u64 = 0xc400_0003;
/// The function that turns this processor off.
pub const CPU_OFF: u64 = 0x8400_0002;
/// The function that turns the machine off.
pub const SYSTEM_OFF: u64 = 0x8400_0008;
/// The function that resets the machine.
pub const SYSTEM_RESET: u64 = 0x8400_0009;

impl Call {
    /// Takes a call from x0 to x3.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "function numbers have 32 bits"
    )]
    pub const fn from_registers(x: [u64; 4]) -> Self {
        let [function, first, second, third] = x;
        let low = u32::MAX as u64;
        if is_hidden(function as u32) {
            return Self::Hidden;
        }
        match function as u32 {
            0x8400_0001 | 0xc400_0001 => Self::Suspend,
            0x8400_0002 => Self::Off,
            0x8400_0003 => Self::On {
                target: first & low,
                entry: second & low,
                context: third & low,
            },
            0xc400_0003 => Self::On {
                target: first,
                entry: second,
                context: third,
            },
            0x8400_0008 => Self::SystemOff,
            // SYSTEM_RESET, SYSTEM_RESET2.
            0x8400_0009 | 0x8400_0012 | 0xc400_0012 => Self::SystemReset,
            0x8400_000a => Self::Features {
                function: first as u32,
            },
            _ => Self::Other,
        }
    }
}

/// Returns whether the guest is told that a function is missing although firmware has it.
#[must_use]
pub const fn is_hidden(function: u32) -> bool {
    // SYSTEM_SUSPEND, CPU_DEFAULT_SUSPEND and CPU_FREEZE lose the hypervisor's state.
    matches!(
        function,
        0x8400_000e | 0xc400_000e | 0x8400_000b | 0x8400_000c | 0xc400_000c
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_both_widths_are_known() {
        let wide = Call::from_registers([CPU_ON, 1 << 32 | 1, 0x4000_0000, 7]);
        let expected = Call::On {
            target: 1 << 32 | 1,
            entry: 0x4000_0000,
            context: 7,
        };
        assert_eq!(wide, expected);
        let narrow = Call::from_registers([0x8400_0003, 1 << 32 | 1, 1 << 32 | 0x4000_0000, 7]);
        let expected = Call::On {
            target: 1,
            entry: 0x4000_0000,
            context: 7,
        };
        assert_eq!(narrow, expected);
        assert_eq!(Call::from_registers([CPU_OFF, 0, 0, 0]), Call::Off);
        assert_eq!(
            Call::from_registers([SYSTEM_RESET, 0, 0, 0]),
            Call::SystemReset
        );
        assert_eq!(Call::from_registers([0x8600_ff01, 0, 0, 0]), Call::Other);
    }

    #[test]
    fn what_would_lose_the_hypervisor_is_hidden() {
        assert!(is_hidden(0xc400_000e));
        for function in [0xc400_000e, 0x8400_000b, 0xc400_000c] {
            let call = Call::from_registers([function, 0, 0, 0]);
            assert_eq!(call, Call::Hidden, "{function:#x}");
        }
        assert!(!is_hidden(0xc400_0003));
    }
}
