//! Tiny guests of x86-64 and, in [`aarch64`], of AArch64, one for each rule where a whole kernel is too coarse.
//!
//! Each is a static ELF image with symbols, so that GDB and LLDB can take it as their file, and starts
//! by the boot contract of a plain 64-bit ELF image that `trapline-vmm` documents. A guest checks
//! itself: it writes status 0 to the debug-exit port 0xf4 if all was as it should be, or the number
//! of the check that failed (0xee: an exception that it did not expect).
//!
//! The variable `rounds` of each guest says how often its main loop runs. With a command line that
//! starts with `endless` it runs until it is stopped from outside. What a guest is for and which
//! labels it has is in the header of its source, `asm/NAME.S`.

mod image;

pub use image::{Ending, Guest, Needs};

macro_rules! guests {
    ($folder:literal: $($(#[$doc:meta])* $constant:ident = $name:literal, $ending:ident, $needs:ident;)*) => {
        $(
            $(#[$doc])*
            pub const $constant: $crate::Guest = $crate::Guest {
                name: $name,
                elf: include_bytes!(concat!(env!("OUT_DIR"), "/", $folder, "/", $name, ".elf")),
                ending: $crate::Ending::$ending,
                needs: $crate::Needs::$needs,
            };
        )*

        /// Returns all guests of this architecture.
        #[must_use]
        pub const fn all() -> &'static [$crate::Guest] {
            &[$($constant),*]
        }
    };
}

pub mod aarch64;
pub mod mach;

guests! { "x86_64":
    /// More than a thousand small functions, for many breakpoints.
    BIG = "big", Passed, AnyKvm;
    /// A loop with functions and variables of known names: interrupts from outside, breakpoints,
    /// false conditions, watchpoints, steps.
    COUNTER = "counter", Passed, AnyKvm;
    /// Instructions that store, load or mask the flags, as the guest sees them.
    FLAGS = "flags", Passed, Hardware;
    /// HLT with the timer on; with the command line `idle`, then with nothing left to wake it.
    HALT = "halt", Passed, AnyKvm;
    /// Kernel and user with two page tables each, as Linux has with page-table isolation.
    KPTI = "kpti", Passed, Hardware;
    /// Application processors that are started late, put back by INIT and started again.
    LATE_AP = "late_ap", Passed, AnyKvm;
    /// Real mode, 16- and 32-bit protected mode, compatibility mode and 64-bit mode.
    MODES = "modes", Passed, AnyKvm;
    /// A guest that uses the debug registers, single-steps, INT3 and ICEBP itself.
    OWN_DEBUG = "own_debug", Passed, Hardware;
    /// Debug registers of the guest's own, set where nothing leaves the guest for long.
    OWN_DEBUG_BUSY = "own_debug_busy", Passed, Hardware;
    /// An instruction that faults, and a handler that maps the page and returns.
    PAGE_FAULT = "page_fault", Passed, AnyKvm;
    /// Every paging mode that the processor has.
    PAGING = "paging", Passed, Hardware;
    /// Instructions that the hypervisor emulates: ports, MMIO, CPUID, MSRs.
    PORT_MMIO = "port_mmio", Passed, AnyKvm;
    /// Power-off by the ACPI control register.
    POWER_OFF = "power_off", PowerOff, AnyKvm;
    /// Repeated string instructions.
    REP_STRING = "rep_string", Passed, AnyKvm;
    /// Reset by the keyboard controller; with the command line `pci`, by port 0xcf9.
    RESET = "reset", Reset, AnyKvm;
    /// Code that rewrites itself.
    SELF_MODIFYING = "self_modifying", Passed, AnyKvm;
    /// All vCPUs call the same function at the same moment, then one after the other.
    SMP_PING_PONG = "smp_ping_pong", Passed, AnyKvm;
    /// A loop with interrupts off.
    SPIN_MASKED = "spin_masked", Passed, AnyKvm;
    /// User code that makes nothing but system calls.
    SYSCALL_HEAVY = "syscall_heavy", Passed, Hardware;
    /// Straight code under a fast periodic interrupt.
    TIMER = "timer", Passed, AnyKvm;
    /// A triple fault at a known label.
    TRIPLE_FAULT = "triple_fault", TripleFault, AnyKvm;
}
