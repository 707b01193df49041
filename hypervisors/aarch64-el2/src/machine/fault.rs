//! When the hypervisor itself fails: it says so, and the processor stays where it is. The others go on, and
//! answer debuggers as long as the engine's lock is free.

#![expect(unsafe_code, reason = "assembly calls into this")]

use core::panic::PanicInfo;

use trapline_arch::aarch64::exception::Esr;

use super::console::say;
use super::sysreg::{mrs, wfi};

fn stay() -> ! {
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
    say!(
        "failure in the hypervisor: {kind} ({class}) at {elr:#x}, ESR {esr:#x}, FAR {far:#x}, SP {sp:#x}, \
         processor {:#x}; this processor stops here",
        mrs!("MPIDR_EL1") & 0xff_00ff_ffff
    );
    stay()
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    say!("failure in the hypervisor: {info}; this processor stops here");
    stay()
}
