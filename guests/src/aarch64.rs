//! Tiny guests of AArch64.
//!
//! Each is at once an ELF image and, from its first loaded byte on, an Image as arm64 Linux is one; it
//! runs wherever it is loaded. It starts by the boot protocol of arm64 Linux and ends by the debug-exit
//! device that `trapline-vmm` has, or, where there is none, by `status NN` on the console and PSCI
//! `SYSTEM_OFF`. Labels are those of the x86-64 guest of the same name where there is one. Images are empty
//! where this workspace was built without a C compiler for AArch64 ([`are_built`]).

/// Returns whether the guests were built.
#[must_use]
pub const fn are_built() -> bool {
    !COUNTER.elf.is_empty()
}

guests! { "aarch64":
    /// More than a thousand small functions, for many breakpoints.
    BIG = "big", Passed, Hardware;
    /// A loop with functions and variables of known names: interrupts from outside, breakpoints,
    /// false conditions, watchpoints, steps.
    COUNTER = "counter", Passed, Hardware;
    /// Sequences of exclusive accesses.
    EXCLUSIVE = "exclusive", Passed, Hardware;
    /// WFI with the timer on; with the command line `idle`, then with nothing left to wake it.
    HALT = "halt", Passed, Hardware;
    /// A vCPU that is started late by PSCI, turns itself off and is started again.
    LATE_CPU = "late_cpu", Passed, Hardware;
    /// Instructions that the hypervisor emulates: MMIO and identification registers.
    MMIO = "mmio", Passed, Hardware;
    /// A guest that uses BRK, a hardware breakpoint and a watchpoint itself.
    OWN_DEBUG = "own_debug", Passed, Hardware;
    /// Power-off by PSCI.
    POWER_OFF = "power_off", PowerOff, Hardware;
    /// Reset by PSCI.
    RESET = "reset", Reset, Hardware;
    /// Code that rewrites itself.
    SELF_MODIFYING = "self_modifying", Passed, Hardware;
    /// All vCPUs call the same function at the same moment, then one after the other.
    SMP_PING_PONG = "smp_ping_pong", Passed, Hardware;
    /// A loop with all exceptions masked.
    SPIN_MASKED = "spin_masked", Passed, Hardware;
    /// PSCI `CPU_SUSPEND` to a state of standby with the timer on; it must not return before the timer is there.
    SUSPEND = "suspend", Passed, Hardware;
    /// Straight code under a fast periodic interrupt.
    TIMER = "timer", Passed, Hardware;
    /// Reads, writes and calls memory that is the hypervisor's.
    TRESPASS = "trespass", Passed, Hardware;
}
