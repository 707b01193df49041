//! Commands that resume and stop the guest, breakpoints, and what sessions are told.

use trapline_arch::x86_64::registers as x86;
use trapline_arch::{Gpa, Gva};

use super::world::{CAPABILITIES, CODE, CODE_GPA, World};
use super::{expect, expect_parts};
use crate::contract::{
    Capabilities, GuestEnd, PowerState, ResumeAction, StepMethod, StopReason, Time,
};
use crate::session::Access;

pub(super) const OPENAT2: u64 = CODE + 0x140;

/// Lets a vCPU meet the software breakpoint at `address`.
pub(super) fn hit(world: &mut World, vcpu: u32, address: u64) {
    world.vm.files[vcpu as usize].set_u64(x86::RIP, address);
    let reason = StopReason::SoftwareBreakpoint {
        address: Gva(address),
        gpa: Some(Gpa(address - CODE + CODE_GPA)),
    };
    world.stop(vcpu, reason);
}

#[test]
fn continue_and_interrupt_are_for_all_vcpus() {
    let mut world = World::new();
    expect(&mut world, "continue", "running; 'interrupt' stops it");
    assert_eq!(world.vm.running, [Some(ResumeAction::Continue); 2]);
    expect(
        &mut world,
        "c",
        "the guest is running already; 'interrupt' stops it",
    );
    expect_parts(
        &mut world,
        "vcpus",
        &["*  0     running", "   1     running"],
    );
    assert_eq!(
        world.vm.running,
        [Some(ResumeAction::Continue); 2],
        "it was a pause"
    );
    expect(
        &mut world,
        "interrupt",
        "vCPU 0 stopped by request, start_kernel+0x0",
    );
    assert_eq!(world.vm.running, [None; 2]);
    expect(
        &mut world,
        "interrupt",
        "the guest is stopped already: vCPU 0 stopped by request, start_kernel+0x0",
    );
}

#[test]
fn commands_that_need_no_vcpu_do_not_pause_the_guest() {
    let mut world = World::new();
    world.monitor("continue");
    let line = b"$qRcmd,6d656d6f7279#97";
    world
        .engine
        .handle_input(world.id, line, &mut world.vm, Time::default());
    assert!(world.engine.poll_command().is_none());
    assert!(world.text(world.id).contains("256 KiB in all"));
}

#[test]
fn what_needs_a_stopped_guest_says_so() {
    let mut world = World::new();
    world.monitor("continue");
    for line in ["step", "set rax 1"] {
        expect(
            &mut world,
            line,
            "error: the guest is running; 'interrupt' stops it",
        );
    }
}

#[test]
fn several_steps_are_answered_when_they_are_done() {
    let mut world = World::new();
    world.monitor("vcpu 1");
    expect(&mut world, "step", "vCPU 1 stepped to start_kernel+0x1");
    expect(&mut world, "step 1000", "vCPU 1 stepped to schedule+0x1e9");
    assert_eq!(world.vm.files[0].u64(x86::RIP), CODE, "the other stays");
    expect(
        &mut world,
        "step 0",
        "error: the number of steps is 1 to 1000000, not 0",
    );
    expect_parts(
        &mut world,
        "step many",
        &["error: 'many' is no number of steps"],
    );
}

#[test]
fn steps_are_ended_by_an_interrupt() {
    let mut world = World::new();
    let line = b"$qRcmd,7374657020313030#f0";
    world
        .engine
        .handle_input(world.id, line, &mut world.vm, Time::default());
    assert_eq!(world.text(world.id), "", "the answer comes later");
    world
        .engine
        .handle_input(world.id, b"\x03", &mut world.vm, Time::default());
    world.pump();
    assert_eq!(
        world.text(world.id),
        "vCPU 0 stepped to start_kernel+0x1 (after 1 of 100 steps)\n"
    );
}

#[test]
fn steps_are_ended_by_a_breakpoint() {
    let mut world = World::new();
    world.monitor("break pc+1");
    let line = b"$qRcmd,7374657020313030#f0";
    world
        .engine
        .handle_input(world.id, line, &mut world.vm, Time::default());
    while world.engine.poll_command().is_some() {}
    hit(&mut world, 0, CODE + 1);
    assert_eq!(
        world.text(world.id),
        "vCPU 0 stopped at breakpoint 1, start_kernel+0x1 (after 0 of 100 steps)\n"
    );
}

#[test]
fn a_request_behind_a_step_is_answered_behind_it() {
    let mut world = World::new();
    // step 2, then qC.
    world.send(world.id, b"$qRcmd,737465702032#8f$qC#b4");
    let output = world.take_output(world.id);
    let step = output.find("764350552030").expect("the step's answer");
    let thread = output.find("$QC1#").expect("the thread");
    assert!(step < thread, "{output}");
}

#[test]
fn what_cannot_be_stepped_or_resumed_says_why() {
    let none = Capabilities {
        step: StepMethod::None,
        ..CAPABILITIES
    };
    let mut world = World::with(none, true);
    expect(
        &mut world,
        "step",
        "error: this hypervisor cannot single-step; see 'info'",
    );
    let mut world = World::new();
    world.vm.power[0] = PowerState::WaitingForStart;
    expect_parts(
        &mut world,
        "step",
        &["error: vCPU 0 waits to be started by another vCPU"],
    );
    world.vm.power[0] = PowerState::On;
    world.monitor("continue");
    world.stop(0, StopReason::Ended(GuestEnd::TripleFault));
    expect_parts(
        &mut world,
        "continue",
        &["error: the guest ended in a triple fault, so it cannot go on"],
    );
    expect_parts(
        &mut world,
        "info",
        &[
            "state                      the guest ended in a triple fault; registers and memory are as vCPU 0 left them, at start_kernel+0x0",
        ],
    );
}

#[test]
fn a_debugger_is_not_told_of_a_stop_that_it_did_not_ask_for() {
    let mut world = World::new();
    let gdb = world.connect(Access::Full);
    world.packet(gdb, "?");
    assert!(world.take_output(gdb).starts_with("$T05"));
    assert_eq!(
        world.monitor_of(gdb, "continue"),
        "running; 'interrupt' stops it\n"
    );
    world.monitor("interrupt");
    assert_eq!(world.take_output(gdb), "");
    // Its own resume is answered by the next stop.
    world.packet(gdb, "vCont;c");
    world.monitor("interrupt");
    assert!(world.take_output(gdb).starts_with("$T02"));
}

#[test]
fn events_tell_of_stops_and_resumes() {
    let mut world = World::new();
    expect(
        &mut world,
        "events on",
        "events are sent; vCPU 0 is held before its first instruction, start_kernel+0x0",
    );
    assert_eq!(
        world.monitor("continue"),
        "running; 'interrupt' stops it\n% the guest runs\n"
    );
    expect(
        &mut world,
        "vcpu",
        "vCPU 0: running, 64-bit mode, ring 0, at start_kernel+0x0",
    );
    assert_eq!(
        world.monitor("interrupt"),
        "vCPU 0 stopped by request, start_kernel+0x0\n\
         % vCPU 0 stopped by request, start_kernel+0x0\n"
    );
    assert_eq!(
        world.monitor("step 3"),
        "% vCPU 0 steps; the others stay stopped\n\
         vCPU 0 stepped to start_kernel+0x3\n\
         % vCPU 0 stepped to start_kernel+0x3\n"
    );
    expect(&mut world, "events off", "events are not sent");
    expect(&mut world, "continue", "running; 'interrupt' stops it");
}

#[test]
fn a_slow_client_is_sent_a_bounded_number_of_events() {
    let mut world = World::new();
    let slow = world.connect(Access::Full);
    world.monitor_of(slow, "events on");
    for _ in 0..500 {
        world.monitor("continue");
        world.monitor("interrupt");
    }
    assert!(world.engine.output(slow).len() < 20_000);
    world.take_output(slow);
    world.monitor("continue");
    let text = world.text(slow);
    assert!(
        text.starts_with("% (") && text.contains("events were left out) the guest runs"),
        "{text}"
    );
}

#[test]
fn a_shell_that_goes_lets_the_guest_run_on() {
    let mut world = World::new();
    let shell = world.connect(Access::Full);
    world.monitor_of(shell, "break do_sys_openat2");
    world.monitor_of(shell, "continue");
    hit(&mut world, 0, OPENAT2);
    assert_eq!(world.vm.running, [None; 2]);
    world
        .engine
        .close_session(shell, &mut world.vm, Time::default());
    world.pump();
    assert_eq!(world.vm.running, [Some(ResumeAction::Continue); 2]);
    assert_ne!(
        world.vm.ram.byte(CODE_GPA + 0x140),
        0xcc,
        "nothing is left behind"
    );
}

#[test]
fn the_detach_policy_can_be_to_stay_stopped() {
    let mut world = World::new();
    expect(
        &mut world,
        "detach-policy stop",
        "when the last client goes, a stopped guest stays stopped",
    );
    world.monitor("continue");
    world.monitor("interrupt");
    let id = world.id;
    world
        .engine
        .close_session(id, &mut world.vm, Time::default());
    world.pump();
    assert_eq!(world.vm.running, [None; 2]);
    world.id = world.connect(Access::Full);
    expect(
        &mut world,
        "detach-policy",
        "when the last client goes, a stopped guest stays stopped",
    );
    expect(
        &mut world,
        "detach-policy no",
        "error: 'no' is no policy; they are run and stop",
    );
}
