//! What things cost on this machine's KVM: the limits that the debugger's own figures are compared
//! with, and the backend's share of them.
//!
//! Run it with `cargo run --release -p trapline-kvm --example raw_rates`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a program that measures stops where it cannot"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use core::time::Duration;
use std::time::Instant;

use common::{CODE, Guest, Interrupts, Machine64, request};
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use trapline_arch::Gva;
use trapline_arch::x86_64::registers;
use trapline_engine::{ResumeAction, VcpuId};
use trapline_kvm::Probe;

const ROUNDS: usize = 5_000;
/// How long a client thinks between two steps, so that idle threads fall asleep as they would.
const THINKING: Duration = Duration::from_micros(100);
/// `nop; nop; jmp` back
const LOOP: [u8; 4] = [0x90, 0x90, 0xeb, 0xfc];

fn main() {
    let report = Probe::run();
    print!("{report}");
    if report.problem().is_some() {
        return;
    }
    bare_calls();
    range_steps();
    hand_off();
}

/// Times each of [`ROUNDS`] calls and prints the median and the spread.
fn time(what: &str, pause: Duration, mut call: impl FnMut()) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let thought = Instant::now();
            while thought.elapsed() < pause {
                std::thread::yield_now();
            }
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    print(what, &mut times);
}

fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100];
    println!(
        "{what:<52} median {:>9.2?}   10 % {:>9.2?}   90 % {:>9.2?}",
        at(50),
        at(10),
        at(90)
    );
}

fn step_control() -> kvm_guest_debug {
    kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_SINGLESTEP,
        ..Default::default()
    }
}

fn run(vcpu: &mut VcpuFd) {
    match vcpu.run() {
        Ok(VcpuExit::Debug(_)) => {}
        other => panic!("not a step: {other:?}"),
    }
}

fn bare_calls() {
    let mut machine = Machine64::new(&LOOP, Interrupts::None, 1);
    let vcpu = &mut machine.vcpus[0];
    vcpu.set_guest_debug(&step_control()).unwrap();
    let none = Duration::ZERO;
    time("bare KVM_RUN step", none, || run(vcpu));
    time("KVM_SET_GUEST_DEBUG", none, || {
        vcpu.set_guest_debug(&step_control()).unwrap()
    });
    time("KVM_GET_REGS", none, || {
        let _ = vcpu.get_regs().unwrap();
    });
    time("KVM_GET_SREGS", none, || {
        let _ = vcpu.get_sregs().unwrap();
    });
    vcpu.set_sync_valid_reg(SyncReg::Register);
    vcpu.set_sync_valid_reg(SyncReg::SystemRegister);
    time(
        "bare KVM_RUN step, registers in the shared page",
        none,
        || run(vcpu),
    );
}

/// Range steps in pieces, so that the median is that of pieces nobody else disturbed.
fn range_steps() {
    const STEPS: usize = 250;
    let Some(mut guest) = Guest::new(&[0x90; STEPS], Interrupts::None, 1) else {
        return;
    };
    let end = Gva(CODE + STEPS as u64);
    let mut pieces: Vec<Duration> = (0..ROUNDS / STEPS * 10)
        .map(|_| {
            guest.set_register(0, registers::RIP, CODE);
            let range = ResumeAction::RangeStep {
                start: Gva(CODE),
                end,
            };
            let start = Instant::now();
            guest.pool.run(VcpuId(0), request(range));
            guest.stopped();
            start.elapsed() / STEPS as u32
        })
        .collect();
    print("range step, one of 250", &mut pieces);
}

fn hand_off() {
    let Some(guest) = Guest::new(&LOOP, Interrupts::None, 1) else {
        return;
    };
    let step = || request(ResumeAction::Step);
    for (pace, pause) in [
        ("back to back", Duration::ZERO),
        ("after a pause", THINKING),
    ] {
        time(&format!("step on the vCPU's thread, {pace}"), pause, || {
            guest.pool.run(VcpuId(0), step());
            guest.stopped();
        });
        time(&format!("step by run_here, {pace}"), pause, || {
            if guest.pool.run_here(VcpuId(0), step()).is_none() {
                guest.stopped();
            }
        });
    }
    time("run and stop", Duration::ZERO, || {
        guest.run(0);
        guest.pool.stop(VcpuId(0));
        guest.stopped();
    });
}
