//! When the hypervisor itself fails on a processor: it says so, and that processor stays where it is, with
//! the guest's registers as they were. The others go on, and answer debuggers.
//!
//! Where there are no others it goes on answering debuggers, and does nothing else.
//!
//! What the processor held is left to the others ([`lock`](super::lock)). A debugger is told of a stop, with
//! this as the reason; without one the guest goes on, and finds that one of its processors no longer
//! answers.

#![expect(unsafe_code, reason = "assembly calls into this")]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU64, Ordering};

use trapline_arch::aarch64::exception::Esr;

use super::console::say;
use super::hub::{self, affinity, known_number_of, shared};
use super::sysreg::wfi;
use super::{HEAP, MAX_PROCESSORS, run_loop};

/// How often a processor says that it has failed: it may do so in saying it.
const MAX_MESSAGES: u64 = 3;

/// How often a processor may fail and still answer debuggers.
const MAX_FAILURES: u64 = 16;

/// How often the hypervisor has failed on each processor.
static FAILURES: [AtomicU64; MAX_PROCESSORS] = [const { AtomicU64::new(0) }; MAX_PROCESSORS];

/// Returns how often the hypervisor has failed on a processor.
pub(super) fn count(affinity: u64) -> u64 {
    let place = known_number_of(affinity).and_then(|number| FAILURES.get(number));
    place.map_or(0, |failures| failures.load(Ordering::SeqCst))
}

/// Takes note of a failure here: the locks that this processor has are no longer its own.
fn note() -> u64 {
    let place = known_number_of(affinity()).and_then(|number| FAILURES.get(number));
    place.map_or(1, |failures| failures.fetch_add(1, Ordering::SeqCst) + 1)
}

/// Leaves the machine to the other processors, if there are any.
fn leave(failures: u64) -> ! {
    if let Some(number) = known_number_of(affinity()) {
        HEAP.open_reserve();
        shared().lanes.leave(number);
        // Later ones are failures in here.
        if failures == 1 {
            hub::give_up(number, |file| run_loop::show_last(number, file));
        }
        while failures <= MAX_FAILURES && !hub::has_server() {
            // The interrupt controller may be what has failed.
            hub::serve();
        }
    }
    loop {
        wfi();
    }
}

/// Called by `vectors.S` for an exception that EL2 itself has raised.
///
/// # Safety
/// Only `vectors.S` calls it.
#[unsafe(no_mangle)]
unsafe extern "C" fn hypervisor_fault(vector: u64, sp: u64, elr: u64, esr: u64, far: u64) -> ! {
    let kind = match vector {
        0 => "synchronous exception",
        1 => "IRQ",
        2 => "FIQ",
        _ => "SError",
    };
    let class = Esr::from_bits(esr).ec();
    let failures = note();
    if failures <= MAX_MESSAGES {
        say!(
            "failure in the hypervisor: {kind} ({class}) at {elr:#x}, ESR {esr:#x}, FAR {far:#x}, SP {sp:#x}, \
             processor {:#x}; this processor stops here",
            affinity()
        );
    }
    leave(failures)
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let failures = note();
    if failures <= MAX_MESSAGES {
        say!(
            "failure in the hypervisor: {info}, processor {:#x}; this processor stops here",
            affinity()
        );
    }
    leave(failures)
}
