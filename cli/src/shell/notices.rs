//! What happens to the guest while the user types, and what the prompt shows of it.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::client::Notice;

/// The most events that wait to be shown. More are counted, not kept.
const MAX_WAITING: usize = 200;

/// What the prompt shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GuestState {
    /// The vCPU that commands are about.
    pub(super) vcpu: u32,
    pub(super) is_running: bool,
    /// The connection has ended.
    pub(super) is_gone: bool,
}

/// An event, as far as the shell understands the server's words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// vCPUs were set going.
    Resumed,
    /// All are stopped; this one first.
    Stopped(Option<u32>),
}

/// The events of one connection, shared by the threads that receive and show them.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    state: GuestState,
    waiting: VecDeque<String>,
    left_out: usize,
    last_stop: Option<String>,
    /// The user is at the prompt, so that events are shown above it.
    is_at_prompt: bool,
}

impl Notices {
    /// Takes what the server said.
    pub(super) fn receive(&self, notice: Notice) {
        let mut inner = self.lock();
        match notice {
            Notice::Gone => inner.state.is_gone = true,
            Notice::Event(text) => inner.receive(text),
        }
        drop(inner);
        self.0.changed.notify_all();
    }

    /// Takes note of the guest's state in the words of an event, without showing it.
    pub(super) fn note_state(&self, text: &str) {
        self.lock().follow(text);
    }

    pub(super) fn state(&self) -> GuestState {
        self.lock().state
    }

    /// Takes note of what a command answered, after all events that it caused: which vCPU is chosen.
    /// Events that only say what the user knows by the answer will not be shown.
    pub(super) fn note_answer(&self, command: &str, answer: &str) {
        let mut inner = self.lock();
        if let Some((vcpu, is_running)) = chosen_vcpu(answer) {
            inner.state.vcpu = vcpu;
            inner.state.is_running = is_running.unwrap_or(inner.state.is_running);
        }
        if resumes(command) {
            inner.forget(|text| classify(text) == Event::Resumed);
        }
        inner.forget(|text| answer.starts_with(text));
    }

    /// Returns the events that were not shown yet.
    pub(super) fn take_waiting(&self) -> Vec<String> {
        self.lock().take()
    }

    /// Lets events be shown above the prompt, or not any more.
    pub(super) fn set_at_prompt(&self, is_at_prompt: bool) {
        self.lock().is_at_prompt = is_at_prompt;
        self.0.changed.notify_all();
    }

    /// Waits for events to show above the prompt, or for the connection's end.
    pub(super) fn wait_at_prompt(&self) -> (Vec<String>, GuestState) {
        let mut inner = self.lock();
        loop {
            if inner.is_at_prompt {
                let events = inner.take();
                if !events.is_empty() || inner.state.is_gone {
                    return (events, inner.state);
                }
            }
            inner = self
                .0
                .changed
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the guest is stopped or the connection has ended, at most until `deadline`, as
    /// long as `goes_on` says so. Returns the last stop's text, if there is one to tell.
    pub(super) fn wait_for_stop(
        &self,
        deadline: Option<Instant>,
        goes_on: impl Fn() -> bool,
    ) -> Waited {
        const TICK: Duration = Duration::from_millis(50);
        let mut inner = self.lock();
        loop {
            if !inner.state.is_running {
                inner.waiting.clear();
                return Waited::Stopped(inner.last_stop.clone());
            }
            if inner.state.is_gone {
                return Waited::Gone;
            }
            if !goes_on() {
                return Waited::GivenUp;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Waited::TimedOut;
            }
            inner = match self.0.changed.wait_timeout(inner, TICK) {
                Ok((inner, _)) => inner,
                Err(error) => error.into_inner().0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a wait for a stop came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The guest is stopped. The text says where, if the stop was seen.
    Stopped(Option<String>),
    TimedOut,
    GivenUp,
    Gone,
}

impl Inner {
    fn follow(&mut self, text: &str) {
        match classify(text) {
            Event::Resumed => self.state.is_running = true,
            Event::Stopped(vcpu) => {
                self.state.is_running = false;
                self.state.vcpu = vcpu.unwrap_or(self.state.vcpu);
                self.last_stop = Some(text.to_owned());
            }
        }
    }

    fn receive(&mut self, text: String) {
        self.follow(&text);
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(text);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Drops the first event that `is_known`.
    fn forget(&mut self, is_known: impl Fn(&str) -> bool) {
        if let Some(at) = self.waiting.iter().position(|text| is_known(text)) {
            self.waiting.remove(at);
        }
    }

    fn take(&mut self) -> Vec<String> {
        let mut events: Vec<String> = self.waiting.drain(..).collect();
        match core::mem::take(&mut self.left_out) {
            0 => {}
            count => events.push(format!("({count} more events are not shown)")),
        }
        events
    }
}

/// Finds out what an event's text says of the guest.
fn classify(text: &str) -> Event {
    let (vcpu, rest) = match text.split_once("vCPU ") {
        None if text.ends_with("the guest runs") => return Event::Resumed,
        None => return Event::Stopped(None),
        Some((_, rest)) => leading_number(rest),
    };
    let verb = rest.trim_start();
    let is_resume = ["runs", "steps"].iter().any(|resumed| {
        verb.strip_prefix(resumed)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([',', ';']))
    });
    if is_resume {
        Event::Resumed
    } else {
        Event::Stopped(vcpu)
    }
}

/// Reads the answer of the `vcpu` command, `vCPU 0: running`: the chosen vCPU, and whether the
/// guest runs, if that can be told.
fn chosen_vcpu(answer: &str) -> Option<(u32, Option<bool>)> {
    let (number, rest) = leading_number(answer.strip_prefix("vCPU ")?);
    let state = rest.strip_prefix(": ")?.trim_end();
    let is_running = match state.split([',', '\n']).next() {
        Some("running") => Some(true),
        Some("stopped" | "halted") => Some(false),
        _ => None,
    };
    Some((number?, is_running))
}

fn leading_number(text: &str) -> (Option<u32>, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    (digits.parse().ok(), rest)
}

/// Returns whether a command sets the guest going, so that the user knows it.
fn resumes(command: &str) -> bool {
    let name = command.split_whitespace().next().unwrap_or_default();
    let is_continue = name == "c" || (name.len() >= 3 && "continue".starts_with(name));
    let is_step = matches!(name, "s" | "si") || (name.len() >= 2 && "stepi".starts_with(name));
    is_continue || is_step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Notice {
        Notice::Event(text.into())
    }

    #[test]
    fn resumes_and_stops_are_told_apart() {
        for text in [
            "the guest runs",
            "(2 events were left out) the guest runs",
            "vCPU 0 runs, vCPU 1 steps; the others stay stopped",
            "vCPU 3 steps",
        ] {
            assert_eq!(classify(text), Event::Resumed, "{text}");
        }
        for (text, vcpu) in [
            ("vCPU 2 stopped at breakpoint 1, runs_fast+0x3", Some(2)),
            ("vCPU 12 stepped to 0x10", Some(12)),
            (
                "the guest powered off; registers and memory are as vCPU 1 left them",
                Some(1),
            ),
        ] {
            assert_eq!(classify(text), Event::Stopped(vcpu), "{text}");
        }
    }

    #[test]
    fn the_state_follows_events_and_the_choice() {
        let notices = Notices::default();
        notices.note_answer("vcpu", "vCPU 0: running\n");
        assert!(notices.state().is_running);
        notices.receive(event("vCPU 1 stopped by request, 0x10"));
        let stopped = GuestState {
            vcpu: 1,
            is_running: false,
            is_gone: false,
        };
        assert_eq!(notices.state(), stopped);
        notices.note_answer("vcpu 3", "vCPU 3: waiting to be started\n");
        assert_eq!(notices.state(), GuestState { vcpu: 3, ..stopped });
        notices.receive(Notice::Gone);
        assert!(notices.state().is_gone);
    }

    #[test]
    fn what_an_answer_said_is_not_told_again() {
        let notices = Notices::default();
        let text = "vCPU 0 stepped to 0x11";
        notices.receive(event("vCPU 0 steps"));
        notices.receive(event(text));
        notices.receive(event("the guest runs"));
        notices.note_answer("step 4", &format!("{text} (after 2 of 4 steps)\n"));
        assert_eq!(notices.take_waiting(), ["the guest runs"]);

        notices.receive(event("the guest runs"));
        notices.receive(event(text));
        notices.note_answer("continue", "running; 'interrupt' stops it\n");
        assert_eq!(notices.take_waiting(), [text]);
    }

    #[test]
    fn a_flood_of_events_is_cut_short() {
        let notices = Notices::default();
        for _ in 0..MAX_WAITING + 3 {
            notices.receive(event("vCPU 0 stopped by request"));
        }
        let shown = notices.take_waiting();
        assert_eq!(shown.len(), MAX_WAITING + 1);
        assert_eq!(shown.last().unwrap(), "(3 more events are not shown)");
    }

    #[test]
    fn a_wait_ends_with_the_stop() {
        let notices = Notices::default();
        notices.receive(event("the guest runs"));
        let past = Some(Instant::now());
        assert_eq!(notices.wait_for_stop(past, || true), Waited::TimedOut);
        assert_eq!(notices.wait_for_stop(None, || false), Waited::GivenUp);
        let stop = "vCPU 0 stopped by request";
        notices.receive(event(stop));
        let waited = notices.wait_for_stop(None, || true);
        assert_eq!(waited, Waited::Stopped(Some(stop.into())));
    }
}
