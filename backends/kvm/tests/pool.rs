//! A pool of vCPU threads, through the crate's public interface.

mod common;

use core::time::Duration;
use std::thread;
use std::time::Instant;

use common::{CODE, COUNT, DATA, Guest, HANDLERS, Interrupts, STACK, request, runs_on_tcg};
use trapline_arch::x86_64::registers as ids;
use trapline_arch::{Gpa, Gva, RegisterGroup};
use trapline_engine::contract::{GuestMemory, Machine};
use trapline_engine::{AccessError, GuestEnd, PowerState, ResumeAction, StopReason, VcpuId};
use trapline_test_machine::this_did_not_run;

#[test]
fn every_run_has_one_answer_and_registers_are_there_with_it() {
    let Some(mut guest) = Guest::new(&COUNT, Interrupts::None, 1) else {
        return;
    };
    for _ in 0..2_000 {
        guest.run(0);
        guest.pool.stop(VcpuId(0));
        assert_eq!(guest.stopped(), (VcpuId(0), StopReason::Paused));
        let rip = guest.register(0, ids::RIP);
        assert!(
            [CODE, CODE + 3].contains(&rip),
            "{rip:#x} is inside of an instruction"
        );
    }
    // Too late, and so without effect.
    guest.pool.stop(VcpuId(0));
    assert!(
        guest
            .stops
            .lock()
            .unwrap()
            .recv_timeout(Duration::from_millis(20))
            .is_err()
    );
    guest.run(0);
    thread::sleep(Duration::from_millis(2));
    assert!(
        guest.stops.lock().unwrap().try_recv().is_err(),
        "an old stop is not for this run"
    );
    guest.pool.stop(VcpuId(0));
    assert_eq!(guest.stopped().1, StopReason::Paused);
}

#[test]
fn a_running_vcpu_has_no_registers_to_read_but_its_memory_is_open() {
    let Some(mut guest) = Guest::new(&COUNT, Interrupts::None, 1) else {
        return;
    };
    guest.run(0);
    let start = Instant::now();
    while guest.read_u64(DATA) < 1_000 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the guest does not run"
        );
    }
    let mut file = ids::file();
    let result = guest
        .machine
        .load_registers(VcpuId(0), RegisterGroup::General, &mut file);
    assert_eq!(result, Err(AccessError::Running));
    let result = guest
        .machine
        .load_registers(VcpuId(9), RegisterGroup::General, &mut file);
    assert_eq!(result, Err(AccessError::NoSuchVcpu));
    // A write is seen by the guest at once: `nop` twice in place of the jump leads to the end.
    guest.memory.write_physical(Gpa(CODE + 3), &[0x90, 0x90]);
    assert_eq!(guest.stopped().1, StopReason::Ended(GuestEnd::PowerOff));
    assert_eq!(guest.register(0, ids::RIP), CODE + 7);
}

#[test]
fn a_step_is_carried_out_on_the_callers_thread_where_it_can_be() {
    let Some(mut guest) = Guest::new(&[0x90; 64], Interrupts::None, 1) else {
        return;
    };
    let mut here = 0;
    for number in 1..=64 {
        let reason = guest.pool.run_here(VcpuId(0), request(ResumeAction::Step));
        here += u32::from(reason.is_some());
        assert_eq!(
            reason.unwrap_or_else(|| guest.stopped().1),
            StopReason::Step
        );
        assert_eq!(guest.register(0, ids::RIP), CODE + number);
    }
    println!("{here} of 64 steps were carried out on the caller's thread");
}

/// Some of these KVM may emulate in a hurry, without a look at whether the guest is stepped.
#[test]
fn a_step_over_each_write_to_an_msr_is_one_instruction() {
    let instructions = [
        &[0xb9, 0x1b, 0, 0, 0][..], // mov ecx, IA32_APIC_BASE
        &[0x0f, 0x32],              // rdmsr
        &[0x0d, 0x00, 0x0c, 0, 0],  // or eax, 0xc00: x2APIC mode
        &[0x0f, 0x30],              // wrmsr
        &[0xb9, 0x0f, 0x08, 0, 0],  // mov ecx, IA32_X2APIC_SIVR
        &[0xb8, 0xff, 0x01, 0, 0],  // mov eax, 0x1ff: on
        &[0x31, 0xd2],              // xor edx, edx
        &[0x0f, 0x30],              // wrmsr
        &[0xb9, 0x30, 0x08, 0, 0],  // mov ecx, IA32_X2APIC_ICR
        &[0xb8, 0x50, 0, 0, 0],     // mov eax, 0x50: this vector, to itself
        &[0x0f, 0x30],              // wrmsr
        &[0x90],
        &[0x90],
    ];
    let Some(mut guest) = Guest::new(&instructions.concat(), Interrupts::InKernel, 1) else {
        return;
    };
    let mut next = CODE;
    for instruction in instructions {
        next += instruction.len() as u64;
        guest.pool.run(VcpuId(0), request(ResumeAction::Step));
        assert_eq!(guest.stopped().1, StopReason::Step);
        assert_eq!(guest.register(0, ids::RIP), next, "after {instruction:x?}");
        assert_eq!(guest.register(0, ids::RFLAGS) & 0x100, 0);
    }
}

#[test]
fn a_step_that_waits_does_not_keep_the_caller() {
    // hlt with interrupts off
    let Some(guest) = Guest::new(&[0xf4], Interrupts::InKernel, 1) else {
        return;
    };
    guest.run(0);
    thread::sleep(Duration::from_millis(5));
    guest.pool.stop(VcpuId(0));
    assert_eq!(guest.stopped().1, StopReason::Paused);
    let start = Instant::now();
    let reason = guest.pool.run_here(VcpuId(0), request(ResumeAction::Step));
    assert_eq!(reason, None);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert!(guest.stops.lock().unwrap().try_recv().is_err());
    guest.pool.stop(VcpuId(0));
    assert_eq!(guest.stopped().1, StopReason::Paused);
}

#[test]
fn a_range_step_ends_where_the_range_does() {
    let Some(mut guest) = Guest::new(&[0x90; 64], Interrupts::None, 1) else {
        return;
    };
    let range = ResumeAction::RangeStep {
        start: Gva(CODE),
        end: Gva(CODE + 40),
    };
    guest.pool.run(VcpuId(0), request(range));
    assert_eq!(guest.stopped().1, StopReason::Step);
    assert_eq!(guest.register(0, ids::RIP), CODE + 40);
}

#[test]
fn the_guests_own_breakpoints_are_handled_by_the_guest() {
    // int3; inc qword [rcx]; and a handler that counts beside it
    let code = [0xcc, 0x48, 0xff, 0x01, 0xcc, 0x48, 0xff, 0x01];
    let Some(mut guest) = Guest::new(&code, Interrupts::None, 1) else {
        return;
    };
    // inc qword [rcx + 8]; iretq
    let handler = [0x48, 0xff, 0x41, 0x08, 0x48, 0xcf];
    guest
        .memory
        .write_physical(Gpa(HANDLERS + 3 * 16), &handler);
    guest.run(0);
    assert_eq!(guest.stopped().1, StopReason::Ended(GuestEnd::PowerOff));
    assert_eq!((guest.read_u64(DATA), guest.read_u64(DATA + 8)), (2, 2));
    assert_eq!(guest.register(0, ids::RSP), STACK);
}

#[test]
fn a_step_over_the_guests_own_breakpoint_ends_in_its_handler() {
    let Some(mut guest) = Guest::new(&[0x90, 0xcc, 0x90], Interrupts::None, 1) else {
        return;
    };
    if !guest.machine.capabilities().software_breakpoints {
        assert!(runs_on_tcg());
        this_did_not_run("QEMU's emulated SVM never intercepts int3");
        return;
    }
    for expected in [CODE + 1, HANDLERS + 3 * 16] {
        let reason = guest.pool.run_here(VcpuId(0), request(ResumeAction::Step));
        assert_eq!(
            reason.unwrap_or_else(|| guest.stopped().1),
            StopReason::Step
        );
        assert_eq!(guest.register(0, ids::RIP), expected);
    }
    let rsp = guest.register(0, ids::RSP);
    assert_eq!(guest.read_u64(rsp), CODE + 2);
    assert_eq!(
        guest.read_u64(rsp + 16) & 0x100,
        0,
        "the trap flag does not show"
    );
}

#[test]
fn the_pushed_flags_do_not_show_a_step() {
    // pushfq; pop rax
    let Some(mut guest) = Guest::new(&[0x9c, 0x58], Interrupts::None, 1) else {
        return;
    };
    for expected in [CODE + 1, CODE + 2] {
        let reason = guest.pool.run_here(VcpuId(0), request(ResumeAction::Step));
        assert_eq!(
            reason.unwrap_or_else(|| guest.stopped().1),
            StopReason::Step
        );
        assert_eq!(guest.register(0, ids::RIP), expected);
    }
    assert_eq!(guest.register(0, ids::RAX) & 0x100, 0);
}

#[test]
fn a_pool_ends_whatever_its_vcpus_are_doing() {
    // One runs, one waits for SIPI.
    let Some(guest) = Guest::new(&COUNT, Interrupts::InKernel, 2) else {
        return;
    };
    guest.run(0);
    guest.run(1);
    thread::sleep(Duration::from_millis(5));
    drop(guest);
    // One is halted in KVM, one was never started.
    let Some(guest) = Guest::new(&[0xf4], Interrupts::InKernel, 2) else {
        return;
    };
    guest.run(0);
    thread::sleep(Duration::from_millis(5));
    drop(guest);
    // All are halted outside of KVM.
    let Some(guest) = Guest::new(&[0xf4], Interrupts::None, 3) else {
        return;
    };
    (0..3).for_each(|vcpu| guest.run(vcpu));
    thread::sleep(Duration::from_millis(5));
}

#[test]
fn vcpus_that_wait_for_sipi_are_listed_and_not_started() {
    let Some(mut guest) = Guest::new(&COUNT, Interrupts::InKernel, 2) else {
        return;
    };
    assert_eq!(guest.machine.power_state(VcpuId(0)), PowerState::On);
    assert_eq!(
        guest.machine.power_state(VcpuId(1)),
        PowerState::WaitingForStart
    );
    (0..2).for_each(|vcpu| guest.run(vcpu));
    thread::sleep(Duration::from_millis(20));
    (0..2).for_each(|vcpu| guest.pool.stop(VcpuId(vcpu)));
    let mut stopped = [guest.stopped(), guest.stopped()];
    stopped.sort_by_key(|(vcpu, _)| *vcpu);
    assert_eq!(
        stopped,
        [
            (VcpuId(0), StopReason::Paused),
            (VcpuId(1), StopReason::Paused)
        ]
    );
    assert!(guest.read_u64(DATA) > 0);
    assert_eq!(
        guest.read_u64(DATA + 8),
        0,
        "the second has executed nothing"
    );
    assert_eq!(
        guest.machine.power_state(VcpuId(1)),
        PowerState::WaitingForStart
    );
}

#[test]
fn four_vcpus_run_and_stop_together() {
    let Some(mut guest) = Guest::new(&COUNT, Interrupts::None, 4) else {
        return;
    };
    for _ in 0..200 {
        (0..4).for_each(|vcpu| guest.run(vcpu));
        (0..4).for_each(|vcpu| guest.pool.stop(VcpuId(vcpu)));
        let mut stopped: Vec<_> = (0..4).map(|_| guest.stopped().0.0).collect();
        stopped.sort_unstable();
        assert_eq!(stopped, [0, 1, 2, 3]);
    }
    assert!((0..4).all(|vcpu| guest.register(vcpu, ids::RIP) >= CODE));
}

#[test]
fn registers_written_while_stopped_are_what_runs() {
    let Some(mut guest) = Guest::new(&COUNT, Interrupts::None, 1) else {
        return;
    };
    guest.set_register(0, ids::RCX, DATA + 0x100);
    guest.run(0);
    let start = Instant::now();
    while guest.read_u64(DATA + 0x100) == 0 {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the guest does not run"
        );
    }
    guest.pool.stop(VcpuId(0));
    assert_eq!(guest.stopped().1, StopReason::Paused);
    assert_eq!(guest.read_u64(DATA), 0);
}

#[test]
fn a_vcpu_in_the_wrong_place_is_refused() {
    use trapline_kvm::KvmError;
    let Some(guest) = Guest::new(&COUNT, Interrupts::None, 1) else {
        return;
    };
    let lent = guest.pool.with_vcpu(VcpuId(0), |vcpu| vcpu.id());
    assert_eq!(lent, Ok(VcpuId(0)));
    assert_eq!(
        guest.pool.with_vcpu(VcpuId(1), |vcpu| vcpu.id()),
        Err(AccessError::NoSuchVcpu)
    );
    let error = KvmError::OutOfOrder {
        vcpu: VcpuId(3),
        expected: 1,
    };
    assert_eq!(error.to_string(), "vCPU 3 stands where vCPU 1 belongs");
}
