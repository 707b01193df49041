use alloc::string::String;

use super::*;

const HIT: StopReason = StopReason::HardwareBreakpoint { address: Gva(0x10) };

fn commands(run: &mut RunControl) -> Vec<String> {
    core::iter::from_fn(|| run.poll_command())
        .map(|command| match command {
            Command::Run(vcpu, request) => {
                alloc::format!("run {} {:?}", vcpu.0, request.pass_first)
            }
            Command::Stop(vcpu) => alloc::format!("stop {}", vcpu.0),
            Command::End(_) => "end".into(),
        })
        .collect()
}

/// Resumes the vCPUs that `action` names and returns the commands.
fn resume(
    run: &mut RunControl,
    action: impl Fn(VcpuId) -> Option<ResumeAction>,
    mut still_counts: impl FnMut(VcpuId) -> bool,
) -> (Settled, Vec<String>) {
    run.set_actions(action);
    let settled = run.settle(|vcpu, _| still_counts(vcpu));
    if settled == Settled::Answer {
        take_up(run);
    }
    (settled, commands(run))
}

fn take_up(run: &mut RunControl) {
    for vcpu in run.vcpu_ids() {
        let pass = run.pass_first(vcpu, Some(Gva(0x10)));
        run.run(vcpu, pass, Arc::default());
    }
}

fn all(_: VcpuId) -> Option<ResumeAction> {
    Some(ResumeAction::Continue)
}

fn running(vcpu_count: u32) -> RunControl {
    let mut run = RunControl::new(vcpu_count);
    resume(&mut run, all, |_| true);
    run
}

#[test]
fn each_vcpu_is_asked_to_stop_once() {
    let mut run = running(3);
    assert_eq!(run.phase(), Phase::Running);
    run.pause();
    assert_eq!(commands(&mut run), ["stop 0", "stop 1", "stop 2"]);
    run.interrupt();
    assert_eq!(run.handle_stopped(VcpuId(1), HIT), Progress::None);
    assert_eq!(commands(&mut run), [""; 0]);
    assert_eq!(run.phase(), Phase::Stopping);
}

#[test]
fn an_answer_that_was_not_asked_for_is_nothing() {
    let mut run = RunControl::new(1);
    assert_eq!(run.handle_stopped(VcpuId(0), HIT), Progress::None);
    assert_eq!(run.handle_stopped(VcpuId(7), HIT), Progress::None);
    assert_eq!(run.pending(VcpuId(0)), None);
}

#[test]
fn hits_are_reported_in_the_order_in_which_they_came() {
    let mut run = running(3);
    run.handle_stopped(VcpuId(2), HIT);
    run.handle_stopped(VcpuId(0), StopReason::Paused);
    assert_eq!(run.handle_stopped(VcpuId(1), HIT), Progress::AllStopped);
    assert_eq!(run.settle(|_, _| true), Settled::Report);
    assert_eq!(run.last_stop().vcpu, VcpuId(2));
    commands(&mut run);
    let (settled, commands) = resume(&mut run, all, |_| true);
    assert_eq!((settled, commands.len()), (Settled::Report, 0));
    assert_eq!(run.last_stop().vcpu, VcpuId(1));
    assert_eq!(resume(&mut run, all, |_| true).0, Settled::Answer);
}

#[test]
fn a_hit_of_a_vcpu_that_is_not_resumed_waits() {
    let mut run = running(2);
    run.handle_stopped(VcpuId(0), HIT);
    run.handle_stopped(VcpuId(1), HIT);
    run.settle(|_, _| true);
    commands(&mut run);
    let only = |vcpu: VcpuId| (vcpu.0 == 0).then_some(ResumeAction::Step);
    assert_eq!(resume(&mut run, only, |_| true).1, ["run 0 No"]);
    assert_eq!(run.pending(VcpuId(1)), Some(HIT));
    run.handle_stopped(VcpuId(0), StopReason::Step);
    run.settle(|_, _| true);
    assert_eq!(run.last_stop().reason, StopReason::Step);
    assert_eq!(resume(&mut run, all, |_| true).0, Settled::Report);
    assert_eq!(run.last_stop().vcpu, VcpuId(1));
}

#[test]
fn a_hit_that_counts_no_more_ends_the_stop_and_not_the_run() {
    let mut run = running(2);
    run.handle_stopped(VcpuId(0), HIT);
    run.handle_stopped(VcpuId(1), StopReason::Paused);
    assert_eq!(run.settle(|_, _| false), Settled::Answer);
    assert_eq!(run.phase(), Phase::Pausing);
    commands(&mut run);
    take_up(&mut run);
    assert_eq!(commands(&mut run).len(), 2);
}

#[test]
fn the_end_of_a_step_is_forgotten_by_the_next_resume() {
    let mut run = running(2);
    run.handle_stopped(VcpuId(0), HIT);
    run.handle_stopped(VcpuId(1), StopReason::Step);
    run.settle(|_, _| true);
    commands(&mut run);
    assert_eq!(resume(&mut run, all, |_| true).0, Settled::Answer);
}

#[test]
fn a_told_breakpoint_is_passed_once() {
    let mut run = running(1);
    run.handle_stopped(VcpuId(0), HIT);
    run.settle(|_, _| true);
    run.set_told_pc(VcpuId(0), Some(Gva(0x10)));
    commands(&mut run);
    assert_eq!(resume(&mut run, all, |_| true).1, ["run 0 Yes"]);
    // Only the vCPU knows whether it has passed it before the pause.
    run.pause();
    run.handle_stopped(VcpuId(0), StopReason::Paused);
    run.settle(|_, _| true);
    commands(&mut run);
    take_up(&mut run);
    assert_eq!(commands(&mut run), ["run 0 Still"]);
    run.handle_stopped(VcpuId(0), HIT);
    assert_eq!(run.pass_first(VcpuId(0), Some(Gva(0x10))), PassFirst::No);
}

#[test]
fn a_withheld_stop_is_told_before_anything_runs() {
    let mut run = running(1);
    run.handle_stopped(VcpuId(0), StopReason::Ended(GuestEnd::Reset));
    assert_eq!(run.settle(|_, _| true), Settled::Report);
    run.withhold();
    assert!(!run.is_end_told());
    commands(&mut run);
    let (settled, commands) = resume(&mut run, all, |_| true);
    assert_eq!((settled, commands.len()), (Settled::Report, 0));
    assert!(run.is_end_told());
    // An attaching client is told by its `?`.
    run.withhold();
    run.tell_withheld();
    assert!(run.is_end_told());
    assert_eq!(run.settle(|_, _| true), Settled::Answer);
}

#[test]
fn an_interrupt_is_of_a_vcpu_that_was_resumed() {
    let mut run = RunControl::new(3);
    let only = |vcpu: VcpuId| (vcpu.0 == 2).then_some(ResumeAction::Continue);
    resume(&mut run, only, |_| true);
    run.interrupt();
    run.handle_stopped(VcpuId(2), StopReason::Paused);
    assert_eq!(run.settle(|_, _| true), Settled::Report);
    assert_eq!(run.last_stop().vcpu, VcpuId(2));
}

#[test]
fn the_vcpus_of_a_client_that_is_gone_run_freely() {
    let mut run = RunControl::new(2);
    let only = |vcpu: VcpuId| (vcpu.0 == 0).then_some(ResumeAction::Step);
    resume(&mut run, only, |_| true);
    run.interrupt();
    commands(&mut run);
    run.set_free(true);
    assert_eq!(run.phase(), Phase::Stopping);
    run.handle_stopped(VcpuId(0), StopReason::Paused);
    assert_eq!(run.settle(|_, _| true), Settled::Answer);
    take_up(&mut run);
    assert_eq!(commands(&mut run).len(), 2);
    assert_eq!(run.action(VcpuId(0)), Some(ResumeAction::Continue));
}
