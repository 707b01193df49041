//! Being woken in time.
#![expect(
    unsafe_code,
    reason = "the scheduler's attributes have no safe interface in the dependencies"
)]

use core::mem;

/// How long the calling thread's turns are to be, in nanoseconds: the least that Linux takes.
const TURN_NS: u64 = 100_000;

/// Asks the scheduler to let the calling thread run as soon as it is woken. It is meant for the
/// thread that serves debuggers, where vCPUs that never rest share the processors with it: else
/// each request may wait for a vCPU's turn to end, milliseconds later.
///
/// Linux decides whose turn it is by how long turns are to be, so the thread asks for short ones; its
/// share of the processors stays the same. Linux before 6.12 does nothing. A scheduling policy that
/// somebody has chosen is left alone. Threads that the calling thread starts later inherit the wish.
///
/// Source: sched(7), "`SCHED_OTHER`" and "EEVDF" in the kernel's
/// Documentation/scheduler.
pub fn wake_promptly() {
    // SAFETY: an all-zero sched_attr is a valid one.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    let size = u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0);
    // SAFETY: the pointer is to a live value of the size given; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if result != 0 || i64::from(attributes.sched_policy) != i64::from(libc::SCHED_OTHER) {
        return;
    }
    attributes.size = size;
    attributes.sched_runtime = TURN_NS;
    // SAFETY: the pointer is to a live value of the size that it says. A refusal changes nothing.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}
