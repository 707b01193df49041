//! What a session is told later: the answer to a command that waited for a stop, and, where it
//! asked for them, stops and resumes as they happen.
//!
//! ```text
//! %Trapline:7643505520312073746f70706564…#cs     one line of text as hexadecimal digits
//! ```
//!
//! The protocol lets a server send notifications that a client does not know, and both debuggers
//! ignore them, but only a client that asked by `events on` gets these.

use alloc::format;
use alloc::string::String;

use trapline_rsp::{Encoder, PACKET_SIZE_BYTES, RunLength};

use super::{Shared, stops};
use crate::contract::{ResumeAction, StopReason, VcpuId};
use crate::core::Context;
use crate::points::PointOwner;
use crate::session::{Access, Client, Session, SessionId};

/// The name of the notification.
const NAME: &str = "Trapline";

/// Unsent output beyond which a client is sent no more notifications (rule S3). How many were left
/// out is said in the next.
const UNSENT_LIMIT_BYTES: usize = 16 * 1024;

/// What a session's commands have chosen.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The vCPU that commands are about, if it was chosen since the last stop.
    pub(super) vcpu: Option<VcpuId>,
    /// A command waits for a stop.
    pub(super) deferred: Option<Deferred>,
    /// Stops and resumes are told.
    pub(super) wants_events: bool,
    /// Notifications that found no room.
    pub(super) dropped: u32,
    /// This session resumed the guest by a command, so the next stop is its to hold.
    pub(super) resumed: bool,
    /// Where `read` and `x` without an address go on.
    pub(super) next_address: Option<u64>,
    /// The format of the last `x`.
    pub(super) format: super::memory::Format,
}

/// A command that is answered at the next stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deferred {
    Interrupt,
    Step,
}

impl State {
    /// Returns whether a command of the session waits for a stop.
    pub(crate) fn is_deferred(&self) -> bool {
        self.deferred.is_some()
    }

    /// Returns whether the session asked for events.
    pub(crate) fn wants_events(&self) -> bool {
        self.wants_events
    }
}

/// Counts a stop that is about to be reported.
pub(crate) fn note_stop(context: &mut Context<'_>) {
    let reason = context.core.run.last_stop().reason;
    if let Some(key) = stops::key_of(reason, context) {
        let shared = &mut context.core.monitor;
        shared.numbers.note_stop(key, &context.core.points);
    }
}

/// Tells a client of a stop, if a command of its waits for it or it asked for events. Returns whether
/// the client now holds the guest stopped.
pub(crate) fn tell_stop(client: &mut Client, context: &mut Context<'_>) -> bool {
    let stop = context.core.run.last_stop();
    let session = &mut client.session;
    session.monitor.vcpu = Some(stop.vcpu);
    let deferred = session.monitor.deferred.take();
    let is_concerned = deferred.is_some()
        | core::mem::take(&mut session.monitor.resumed)
        | session.monitor.wants_events
        | has_planted(session, stop.reason, context);
    let holds = is_concerned && session.access == Access::Full;
    session.holds_stop |= holds;
    if let Some(deferred) = deferred {
        let text = answer(deferred, context);
        let session = &client.session;
        client.wire.reply(|out| session.say(&text, out));
    }
    if client.session.monitor.wants_events {
        let text = stops::describe(stop, context);
        notify(client, &text);
    }
    holds
}

/// Tells a client that the guest was resumed, if it asked for events.
pub(crate) fn tell_resume(client: &mut Client, text: &str) {
    if client.session.monitor.wants_events {
        notify(client, text);
    }
}

/// Returns what is told of a resume that nobody was told of yet.
pub(crate) fn take_resume(context: &mut Context<'_>) -> Option<String> {
    core::mem::take(&mut context.core.monitor.announces_resume).then(|| describe_resume(context))
}

fn describe_resume(context: &Context<'_>) -> String {
    let run = &context.core.run;
    let is_free = |vcpu: &VcpuId| run.action(*vcpu) == Some(ResumeAction::Continue);
    if run.vcpu_ids().all(|vcpu| is_free(&vcpu)) {
        return "the guest runs".into();
    }
    let mut parts = String::new();
    for vcpu in run.vcpu_ids() {
        let verb = match run.action(vcpu) {
            Some(ResumeAction::Continue) => "runs",
            Some(ResumeAction::Step | ResumeAction::RangeStep { .. }) => "steps",
            None => continue,
        };
        let separator = if parts.is_empty() { "" } else { ", " };
        parts.push_str(&format!("{separator}{vcpu} {verb}"));
    }
    if run.vcpu_ids().any(|vcpu| run.action(vcpu).is_none()) {
        parts.push_str("; the others stay stopped");
    }
    parts
}

/// Returns the text of an answer that was put off until now.
fn answer(deferred: Deferred, context: &mut Context<'_>) -> String {
    let stop = context.core.run.last_stop();
    let text = stops::describe(stop, context);
    let steps = match deferred {
        Deferred::Step => context.core.monitor.steps.take(),
        Deferred::Interrupt => None,
    };
    match steps.filter(|steps| steps.done < steps.wanted) {
        Some(steps) => format!("{text} (after {} of {} steps)\n", steps.done, steps.wanted),
        None => format!("{text}\n"),
    }
}

/// Returns whether a command of the session planted what was hit.
fn has_planted(session: &Session, reason: StopReason, context: &Context<'_>) -> bool {
    stops::key_of(reason, context).is_some_and(|key| {
        let owner = PointOwner::Monitor(session.id);
        context.core.points.is_claimed_by(owner, key)
    })
}

/// Sends one line as a notification, if the client keeps up.
fn notify(client: &mut Client, text: &str) {
    let state = &mut client.session.monitor;
    if client.wire.output().len() > UNSENT_LIMIT_BYTES {
        state.dropped = state.dropped.saturating_add(1);
        return;
    }
    let dropped = core::mem::take(&mut state.dropped);
    client.wire.notify(|out| {
        let mut encoder = Encoder::notification(out, NAME, PACKET_SIZE_BYTES);
        if dropped > 0 {
            encoder.hex_text(&format!("({dropped} events were left out) "));
        }
        encoder.hex_text(text);
        finish(encoder);
    });
}

/// Completes a packet of one line, which is far shorter than the limit.
fn finish(encoder: Encoder<'_>) {
    let finished = encoder.finish(RunLength::Off);
    debug_assert_eq!(finished, Ok(()), "a line outgrew the packet size");
}

impl Shared {
    /// Takes note that vCPUs were set going by a request. Steps made as one are over then.
    pub(crate) fn note_resume(&mut self) {
        self.announces_resume = true;
        self.steps = None;
    }

    /// Forgets a session. Steps made as one for it end with the present one.
    pub(crate) fn close_session(&mut self, id: SessionId) {
        self.roster.remove(id);
        if self.steps.is_some_and(|steps| steps.session == id) {
            self.end_steps();
        }
    }

    /// Lets the step under way be the last of those made as one.
    pub(crate) fn end_steps(&mut self) {
        if let Some(steps) = &mut self.steps {
            steps.is_cancelled = true;
        }
    }
}
