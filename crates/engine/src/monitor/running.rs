//! `step`, `continue`, `interrupt`.
//!
//! What one client does is in force for all (rule S1): these commands resume and stop the guest, not
//! the session's view of it. A debugger that gives them goes on believing that its target is
//! stopped; it is answered all the same, by brief pauses, and is sent no stop reply for a resume
//! that was not its own.

use alloc::format;

use super::commands::{CHANGES, Command, Completes, Family, Needs};
use super::notify::Deferred;
use super::{Call, Failure, fail, is_running, parse, stops};
use crate::contract::{PowerState, ResumeAction, StepMethod, StopReason, VcpuId};
use crate::core::Context;
use crate::session::SessionId;

/// The most steps that one command makes.
const MAX_STEPS: u64 = 1_000_000;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "continue",
        aliases: &[("c", ""), ("cont", "")],
        summary: "let all vCPUs run, for every client",
        details: "It returns at once. The guest stops at the next breakpoint of any client, or by\n\
            'interrupt'. In GDB and LLDB use their own 'continue', which waits for the stop.",
        family: Family::Running,
        run: resume,
        ..CHANGES
    },
    Command {
        name: "step",
        aliases: &[("s", ""), ("si", ""), ("stepi", "")],
        arguments: "[COUNT]",
        completes: &[Completes::Nothing],
        summary: "execute one or COUNT instructions of the chosen vCPU",
        details: "The other vCPUs stay stopped. The answer comes when the steps are done, or when a\n\
            breakpoint, a watchpoint or 'interrupt' ends them.",
        family: Family::Running,
        run: step,
        ..CHANGES
    },
    Command {
        name: "interrupt",
        aliases: &[("stop", ""), ("halt", "")],
        summary: "stop all vCPUs, for every client",
        details: "The answer comes when they have stopped and says where.",
        family: Family::Running,
        needs: Needs::Nothing,
        run: interrupt,
        ..CHANGES
    },
];

/// Several steps of one vCPU that clients see as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) session: SessionId,
    vcpu: VcpuId,
    pub(super) wanted: u64,
    pub(super) done: u64,
    pub(super) is_cancelled: bool,
}

/// Goes on with steps that are made as one. Returns whether the stop that is about to be reported
/// was such a step, so that there is nothing to report yet.
pub(crate) fn steps_on(context: &mut Context<'_>) -> bool {
    let stop = context.core.run.last_stop();
    let Some(steps) = &mut context.core.monitor.steps else {
        return false;
    };
    if stop.reason != StopReason::Step || stop.vcpu != steps.vcpu {
        return false;
    }
    steps.done = steps.done.saturating_add(1);
    if steps.done >= steps.wanted || steps.is_cancelled {
        return false;
    }
    let only = steps.vcpu;
    context
        .core
        .run
        .set_actions(|vcpu| (vcpu == only).then_some(ResumeAction::Step));
    true
}

fn resume(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    if is_running(call.context) {
        call.out
            .line("the guest is running already; 'interrupt' stops it");
        return Ok(());
    }
    need_guest(call.context)?;
    go(call, |_| Some(ResumeAction::Continue));
    call.out.line("running; 'interrupt' stops it");
    Ok(())
}

fn step(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let wanted = match call.arguments.next() {
        Some(text) => parse::count(text, "number of steps")?,
        None => 1,
    };
    call.arguments.end()?;
    call.need_stopped_guest()?;
    need_guest(call.context)?;
    if !(1..=MAX_STEPS).contains(&wanted) {
        return Err(fail!(
            "the number of steps is 1 to {MAX_STEPS}, not {wanted}"
        ));
    }
    if call.context.core.config.capabilities.step == StepMethod::None {
        return Err(fail!("this hypervisor cannot single-step; see 'info'"));
    }
    let only = call.vcpu();
    if call.context.machine.power_state(only) == PowerState::WaitingForStart {
        return Err(fail!(
            "{only} waits to be started by another vCPU; 'vcpu N' chooses one that runs"
        ));
    }
    go(call, |vcpu| (vcpu == only).then_some(ResumeAction::Step));
    call.context.core.monitor.steps = Some(Steps {
        session: call.session.id,
        vcpu: only,
        wanted,
        done: 0,
        is_cancelled: false,
    });
    call.session.monitor.deferred = Some(Deferred::Step);
    Ok(())
}

fn interrupt(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    if is_running(call.context) {
        call.context.interrupt();
        call.session.monitor.deferred = Some(Deferred::Interrupt);
        return Ok(());
    }
    let stop = call.context.core.run.last_stop();
    let text = stops::describe(stop, call.context);
    call.out
        .line(format!("the guest is stopped already: {text}"));
    Ok(())
}

/// Refuses to resume a guest that is at its end.
fn need_guest(context: &Context<'_>) -> Result<(), Failure> {
    match context.core.run.ended() {
        Some(end) => Err(fail!(
            "{end}, so it cannot go on; when the last client detaches it is removed"
        )),
        None => Ok(()),
    }
}

/// Sets vCPUs going for all clients, without a stop reply to come for this one.
fn go(call: &mut Call<'_, '_>, action: impl Fn(VcpuId) -> Option<ResumeAction>) {
    call.session.holds_stop = false;
    call.session.released_stop = true;
    call.session.monitor.resumed = true;
    call.context.core.resumer = Some(call.session.id);
    call.context.resume(action);
}
