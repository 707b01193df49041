//! What has to be done so that a guest executes what was written to its memory.
#![expect(unsafe_code, reason = "cleans caches by address")]

use core::arch::asm;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use super::host_registers::cache_line_bytes;

/// Makes instructions that were written to guest memory visible to guests that execute them, with
/// caches on or off, on any processor.
///
/// Source: Arm ARM, "Synchronization and coherency issues between data and instruction accesses".
pub(crate) fn make_executable<B: BitmapSlice>(memory: &VolatileSlice<'_, B>) {
    let (instruction_line, data_line) = cache_line_bytes();
    let guard = memory.ptr_guard();
    let start = guard.as_ptr().addr();
    let end = start + memory.len();
    let mut line = start & !(data_line - 1);
    while line < end {
        // SAFETY: the slice is mapped, and with it the lines that overlap it; cleaning changes no
        // memory. It goes all the way to memory for a guest that has its caches off.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) };
        line += data_line;
    }
    // SAFETY: a barrier has no preconditions.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    line = start & !(instruction_line - 1);
    while line < end {
        // SAFETY: the slice is mapped; what is invalidated is fetched anew.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
        line += instruction_line;
    }
    // SAFETY: barriers have no preconditions.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}
