//! Registers of the host that any program may read, and that a guest sees unchanged.
#![expect(unsafe_code, reason = "reads registers that no library gives")]

use core::arch::asm;

/// Returns the frequency of the system counter in Hz (`CNTFRQ_EL0`).
pub(crate) fn counter_hz() -> u64 {
    let value;
    // SAFETY: Linux lets programs read the register, and reading has no effect.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Returns what DC ZVA zeroes (`DCZID_EL0`).
pub(crate) fn dczid() -> u64 {
    let value;
    // SAFETY: programs can always read the register, and reading has no effect.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Returns how long lines of instruction and data caches are at least, in bytes (`CTR_EL0`).
pub(crate) fn cache_line_bytes() -> (usize, usize) {
    let value: u64;
    // SAFETY: Linux lets programs read the register, and reading has no effect.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    (4 << (value & 0xf), 4 << (value >> 16 & 0xf))
}
