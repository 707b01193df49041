//! System registers.

#![expect(unsafe_code, reason = "system registers are reached by instructions")]

/// Reads a system register.
macro_rules! mrs {
    ($name:expr) => {{
        #[expect(unsafe_code, reason = "system registers are reached by instructions")]
        #[inline(always)]
        fn read() -> u64 {
            let value: u64;
            // SAFETY: reading a register that exists changes nothing.
            unsafe {
                core::arch::asm!(
                    concat!("mrs {}, ", $name),
                    out(reg) value,
                    options(nostack, preserves_flags)
                );
            }
            value
        }
        read()
    }};
}
pub(super) use mrs;

/// Writes a system register. Those that the hypervisor itself depends on are written in `entry.S` and
/// in few places else, each with its reason.
macro_rules! msr {
    ($name:expr, $value:expr) => {{
        #[expect(unsafe_code, reason = "system registers are reached by instructions")]
        #[inline(always)]
        fn write(value: u64) {
            // SAFETY: the register is the guest's, or of a device whose effects end at the guest's.
            unsafe {
                core::arch::asm!(
                    concat!("msr ", $name, ", {}"),
                    in(reg) value,
                    options(nostack, preserves_flags)
                );
            }
        }
        write($value);
    }};
}
pub(super) use msr;

/// Waits until earlier changes of system registers are in force.
pub(super) fn isb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) }
}

/// Waits until earlier accesses to memory are done.
pub(super) fn dsb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Waits for an interrupt, masked or not.
pub(super) fn wfi() {
    // SAFETY: it waits.
    unsafe { core::arch::asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// Forgets what stage 2 of all guests has translated to.
pub(super) fn forget_stage_2() {
    // SAFETY: translations are read from the tables again.
    unsafe {
        core::arch::asm!(
            "dsb ishst",
            "tlbi vmalls12e1is",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Makes code that was written at `start` visible to instruction fetches, and the data to accesses that
/// bypass the caches.
pub(super) fn sync_code(start: usize, len: usize) {
    const LINE: usize = 16;
    let from = start & !(LINE - 1);
    for line in (from..start + len).step_by(LINE) {
        // SAFETY: cleaning changes no data; the address is mapped, for it was just written.
        unsafe { core::arch::asm!("dc cvac, {}", in(reg) line, options(nostack, preserves_flags)) }
    }
    // SAFETY: barriers, and invalidation of instruction caches.
    unsafe {
        core::arch::asm!(
            "dsb ish",
            "ic ialluis",
            "dsb ish",
            "isb",
            options(nostack, preserves_flags)
        );
    }
}

/// Writes back and drops what the caches have of a range, for a guest whose own are off.
pub(super) fn clean_and_drop(start: usize, len: usize) {
    const LINE: usize = 16;
    let from = start & !(LINE - 1);
    for line in (from..start + len).step_by(LINE) {
        // SAFETY: cleaning before dropping loses no data; the address is mapped.
        unsafe { core::arch::asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) }
    }
    dsb();
}

/// Calls firmware.
pub(super) fn smc(arguments: &mut [u64; 18]) {
    // SAFETY: what firmware does is the machine's; registers are passed and returned by the convention
    // (Arm, "SMC Calling Convention").
    unsafe {
        core::arch::asm!(
            "stp x29, x30, [sp, #-32]!",
            "str x19, [sp, #16]",
            "mov x19, {pointer}",
            "ldp x0, x1, [x19]",
            "ldp x2, x3, [x19, #16]",
            "ldp x4, x5, [x19, #32]",
            "ldp x6, x7, [x19, #48]",
            "ldp x8, x9, [x19, #64]",
            "ldp x10, x11, [x19, #80]",
            "ldp x12, x13, [x19, #96]",
            "ldp x14, x15, [x19, #112]",
            "ldp x16, x17, [x19, #128]",
            "smc #0",
            "stp x0, x1, [x19]",
            "stp x2, x3, [x19, #16]",
            "stp x4, x5, [x19, #32]",
            "stp x6, x7, [x19, #48]",
            "stp x8, x9, [x19, #64]",
            "stp x10, x11, [x19, #80]",
            "stp x12, x13, [x19, #96]",
            "stp x14, x15, [x19, #112]",
            "stp x16, x17, [x19, #128]",
            "ldr x19, [sp, #16]",
            "ldp x29, x30, [sp], #32",
            pointer = in(reg) arguments.as_mut_ptr(),
            out("x0") _, out("x1") _, out("x2") _, out("x3") _, out("x4") _, out("x5") _,
            out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _, out("x11") _,
            out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
        );
    }
}
