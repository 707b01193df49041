//! Processors that are turned on and off.

#![expect(unsafe_code, reason = "assembly and firmware call into this")]

use alloc::boxed::Box;

use trapline_arch::RegisterFile;
use trapline_arch::aarch64::registers::{self as r};
use trapline_el2::psci;
use trapline_engine::PowerState;

use super::MAX_PROCESSORS;
use super::hub::{self, El2, affinity, hub, shared};
use super::lock::Lock;
use super::registers::FRAME_PC;
use super::run_loop;
use super::sysreg::{mrs, smc};
use super::traps::Context;

/// PSTATE at a processor's first instruction: EL1 with its own stack, everything masked.
const FIRST_PSTATE: u64 = 0x3c5;

const STACK_BYTES: usize = 64 * 1024;

/// What a processor begins with; `entry.S` knows the first three.
#[repr(C)]
struct Startup {
    tables: u64,
    stack_end: u64,
    index: u64,
}

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

/// The stacks that were made, by processor: one that goes off and on again has the same.
static STARTUPS: Lock<[Option<&'static Startup>; MAX_PROCESSORS]> =
    Lock::new([None; MAX_PROCESSORS]);

core::arch::global_asm!(include_str!("entry.S"));
core::arch::global_asm!(include_str!("vectors.S"), PC = const FRAME_PC);

unsafe extern "C" {
    static _secondary: u8;
}

fn startup(index: usize) -> Option<&'static Startup> {
    let mut startups = STARTUPS.lock();
    let place = startups.get_mut(index)?;
    if place.is_none() {
        let stack: &'static mut Stack = Box::leak(Box::new(Stack([0; STACK_BYTES])));
        let start = (&raw const *stack) as u64;
        *place = Some(Box::leak(Box::new(Startup {
            tables: mrs!("TTBR0_EL2"),
            stack_end: start + STACK_BYTES as u64,
            index: index as u64,
        })));
    }
    *place
}

/// Sets the registers of a processor before its first instruction.
pub(super) fn begin_at(file: &mut RegisterFile, entry: u64, context: u64) {
    for number in 0..31 {
        if let Some(id) = r::x(number) {
            file.set_u64(id, 0);
        }
    }
    file.set_u64(r::X0, context);
    file.set_u64(r::PC, entry);
    file.set_u64(r::SP, 0);
    file.set_u64(r::CPSR, FIRST_PSTATE);
}

/// Turns a processor on for the guest, and returns what PSCI answers.
pub(super) fn turn_on(target: u64, entry: u64, context: u64) -> u64 {
    let Some(index) = hub::number_of(target & 0xff_00ff_ffff) else {
        return psci::INVALID_PARAMETERS;
    };
    let Some(startup) = startup(index) else {
        return psci::INVALID_PARAMETERS;
    };
    {
        let mut hub = hub();
        if hub.power(index) != PowerState::WaitingForStart {
            return psci::ALREADY_ON;
        }
        hub.set_registers(index, |file| begin_at(file, entry, context));
    }
    let mut call = [0; 18];
    call[0] = psci::CPU_ON;
    call[1] = target;
    // SAFETY: only the address is taken.
    call[2] = (&raw const _secondary) as u64;
    call[3] = (&raw const *startup) as u64;
    // The other processor reads this with its caches off.
    super::sysreg::clean_and_drop((&raw const *startup) as usize, size_of::<Startup>());
    smc(&mut call);
    call[0]
}

/// Turns this processor off, as the guest has asked. Returns if firmware refuses.
pub(super) fn turn_off(context: &Context) -> u64 {
    let index = context.index;
    shared().lanes.leave(index);
    {
        let mut hub = hub();
        hub.turn_off(index, |file| context.show(file), &El2);
        hub::hand_over(&hub);
    }
    let mut call = [0; 18];
    call[0] = psci::CPU_OFF;
    smc(&mut call);
    hub().stays_on(index);
    call[0]
}

/// Called by `entry.S` on a processor that was turned on.
///
/// # Safety
/// Only `entry.S` calls it.
#[unsafe(no_mangle)]
unsafe extern "C" fn secondary_main(index: usize) -> ! {
    let _ = affinity();
    run_loop::run(Context::new(index))
}
