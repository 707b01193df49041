//! The engine: one guest, all its vCPUs, all its clients.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::contract::{
    Command, GuestEnd, GuestOs, Machine, ResumeAction, StopReason, Time, VcpuId,
};
use crate::core::{Context, Core, GuestConfig};
use crate::monitor;
use crate::run_control::{Phase, Settled};
use crate::session::{Access, Client, Intake, SessionId, Until};

/// The most clients at once (rule S3).
pub const MAX_SESSIONS: usize = 64;

/// How long vCPUs run between two turns of a request that takes longer than a moment.
const WORK_REST_NS: u64 = 2_000_000;

/// How long a client that has detached may take to read the reply and to acknowledge it: what GDB
/// itself allows a packet if it is not told otherwise (`remotetimeout`).
const LAST_REPLY_NS: u64 = 2_000_000_000;

/// How a guest begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It runs as soon as there are commands to be taken.
    Running,
    /// Every vCPU is held before its first instruction until a client resumes it.
    Held,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySessions;

impl core::fmt::Display for TooManySessions {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "there are {MAX_SESSIONS} clients already")
    }
}

impl core::error::Error for TooManySessions {}

/// The debug engine of one guest.
///
/// Feed it with [`handle_input`](Self::handle_input) and [`handle_stopped`](Self::handle_stopped);
/// after each call take all of [`poll_command`](Self::poll_command) and, for every session,
/// [`output`](Self::output). When [`work_due`](Self::work_due) says so, call [`work`](Self::work).
/// It has no clock, no thread and no socket.
pub struct Engine {
    core: Core,
    /// Boxed, since a client is taken out of the map while it is served.
    clients: BTreeMap<SessionId, Box<Client>>,
    next_session: u32,
}

impl core::fmt::Debug for Engine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Engine")
            .field("run", &self.core.run)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Creates the engine of a guest whose vCPUs are all stopped before their first instruction.
    #[must_use]
    pub fn new(config: GuestConfig, os: Option<Box<dyn GuestOs>>) -> Self {
        Self {
            core: Core::new(config, os),
            clients: BTreeMap::new(),
            next_session: 1,
        }
    }

    /// Lets the guest begin.
    pub fn start(&mut self, start: Start, machine: &mut dyn Machine, now: Time) {
        if start == Start::Running {
            self.context(machine, now)
                .resume(|_| Some(ResumeAction::Continue));
            self.settle(machine, now);
        }
    }

    /// Lets a client in.
    ///
    /// # Errors
    /// [`TooManySessions`]; the connection should be closed.
    pub fn open_session(&mut self, access: Access) -> Result<SessionId, TooManySessions> {
        if self.clients.len() >= MAX_SESSIONS {
            return Err(TooManySessions);
        }
        let id = SessionId(self.next_session);
        self.next_session = self.next_session.wrapping_add(1);
        self.clients.insert(id, Box::new(Client::new(id, access)));
        self.core.monitor.roster.add(id, access);
        Ok(id)
    }

    /// Takes a client's departure, expected or not: what it planted is removed, and if it was the
    /// last one to hold the guest stopped the guest runs on (rule R10).
    pub fn close_session(&mut self, id: SessionId, machine: &mut dyn Machine, now: Time) {
        if let Some(client) = self.clients.remove(&id) {
            self.let_go(id, client.session.holds_stop, machine, now);
        }
    }

    /// Takes note that a call has not come back: the hypervisor has failed in the midst of it, on one of
    /// several processors. The client that was being served is taken for gone.
    pub fn handle_failure(&mut self, machine: &mut dyn Machine, now: Time) {
        let open = self.core.monitor.roster.ids();
        for id in open
            .filter(|id| !self.clients.contains_key(id))
            .collect::<Vec<_>>()
        {
            self.let_go(id, true, machine, now);
        }
    }

    /// Removes what a client has left, that has held the guest stopped or not.
    fn let_go(&mut self, id: SessionId, holds: bool, machine: &mut dyn Machine, now: Time) {
        self.core.points.release(id);
        self.core.monitor.close_session(id);
        if self.core.resumer == Some(id) && !self.core.stays_stopped {
            // It may have been a step, or of some vCPUs only, and nobody waits for its end.
            self.core.resumer = None;
            let mut others = self.clients.values();
            let is_awaited = others.any(|client| client.session.awaits_stop);
            self.core.run.set_free(!is_awaited);
        }
        let mut context = self.context(machine, now);
        context.publish_points();
        if !context.is_stopped() {
            // The breakpoints stand in a guest that runs: they are taken out in a pause.
            context.core.run.pause();
        } else if holds && self.core.has_started && !self.core.stays_stopped {
            self.run_on(machine, now);
        }
        self.settle(machine, now);
    }

    /// Takes bytes that a client has sent.
    pub fn handle_input(
        &mut self,
        id: SessionId,
        bytes: &[u8],
        machine: &mut dyn Machine,
        now: Time,
    ) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.wire.receive(bytes);
        }
        self.serve(id, machine, now);
        self.settle(machine, now);
    }

    /// Takes a vCPU's answer to [`Command::Run`].
    pub fn handle_stopped(
        &mut self,
        vcpu: VcpuId,
        reason: StopReason,
        machine: &mut dyn Machine,
        now: Time,
    ) {
        self.core.handle_stopped(vcpu, reason);
        self.settle(machine, now);
    }

    /// Takes note that the guest was reset and begins anew, with its vCPUs stopped or running as they
    /// are: what was known of its operating system is forgotten. Its breakpoints stay, and are put
    /// back at the next resume where the reset has taken them out of memory (rule B3).
    ///
    /// This is for a host that resets a guest in place. One that ends at a reset, with
    /// [`GuestEnd::Reset`], leaves memory and what is known of it to be inspected.
    pub fn handle_reset(&mut self) {
        if let Some(os) = &mut self.core.os {
            os.forget();
        }
    }

    /// Returns when [`work`](Self::work) is to be called, which is at once if that has passed.
    /// `None`: no request is under way that takes longer than a moment, and nothing is waited for.
    ///
    /// While vCPUs run there is a rest between two turns, for a turn may pause them.
    #[must_use]
    pub fn work_due(&self) -> Option<Time> {
        let (_, last) = self.core.last_turn;
        let turn = if self.core.run.phase() == Phase::Stopped {
            Time(0)
        } else {
            last.after(WORK_REST_NS)
        };
        let due = self.clients.values().filter_map(|client| {
            let has_turn = client.wire.waits_for() == Some(Until::Turn);
            let given_up = give_up_time(client);
            has_turn.then_some(turn).into_iter().chain(given_up).min()
        });
        due.min()
    }

    /// Goes on with a request that takes longer than a moment, for about a millisecond: with each in
    /// turn. Gives up clients that have detached and do not take the last reply. As after every call,
    /// take the commands and the output.
    pub fn work(&mut self, machine: &mut dyn Machine, now: Time) {
        for client in self.clients.values_mut() {
            if give_up_time(client).is_some_and(|time| time <= now) {
                client.wire.give_up();
            }
        }
        let (last, _) = self.core.last_turn;
        let is_due = |(_, client): &(&SessionId, &mut Box<Client>)| {
            client.wire.waits_for() == Some(Until::Turn)
        };
        let mut due: Vec<_> = self.clients.iter_mut().filter(is_due).collect();
        let next = due.iter().position(|(id, _)| **id > last).unwrap_or(0);
        let Some((id, client)) = due.get_mut(next) else {
            return;
        };
        let id = **id;
        client.wire.give_turn();
        self.serve(id, machine, now);
        self.settle(machine, now);
    }

    /// Returns the next thing the hypervisor is to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.core.run.poll_command()
    }

    /// Returns the sessions that are open.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.clients.keys().copied()
    }

    /// Returns the bytes that are ready for a client.
    #[must_use]
    pub fn output(&self, id: SessionId) -> &[u8] {
        self.clients
            .get(&id)
            .map_or(&[], |client| client.wire.output())
    }

    /// Takes the first `len_bytes` of a client's output as sent. What the client sent meanwhile and
    /// was not looked at for want of room is looked at now.
    pub fn consume_output(
        &mut self,
        id: SessionId,
        len_bytes: usize,
        machine: &mut dyn Machine,
        now: Time,
    ) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        if client.wire.consume(len_bytes) {
            self.serve(id, machine, now);
            self.settle(machine, now);
        }
    }

    /// Returns whether more input of a client should be read. If not, its earlier requests wait
    /// for a pause of the guest or for room in its output.
    #[must_use]
    pub fn wants_input(&self, id: SessionId) -> bool {
        self.clients
            .get(&id)
            .is_some_and(|client| client.wire.has_room())
    }

    /// Returns whether a client has ended its session and its connection can be closed once all
    /// output is sent.
    ///
    /// A client that acknowledges has acknowledged the last reply by then: GDB takes a connection
    /// that is closed before it can do so for a failed detach. One that never does is given up after
    /// two seconds, for the guest that it has let go waits for that.
    #[must_use]
    pub fn is_finished(&self, id: SessionId) -> bool {
        self.clients
            .get(&id)
            .is_none_or(|client| client.session.detached.is_some() && !client.wire.awaits_ack())
    }

    /// Returns how the guest ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<GuestEnd> {
        self.core.run.ended()
    }

    /// Answers a client's requests until its input is used up or one has to wait.
    fn serve(&mut self, id: SessionId, machine: &mut dyn Machine, now: Time) {
        let Some(mut client) = self.clients.remove(&id) else {
            return;
        };
        while client.intake(&mut self.context(machine, now)) == Intake::More {
            self.tell_others(&mut client);
        }
        self.tell_others(&mut client);
        self.core.monitor.roster.note(id, client.session.kind());
        self.clients.insert(id, client);
    }

    /// Lets the other clients know what a request did to them.
    fn tell_others(&mut self, client: &mut Client) {
        if core::mem::take(&mut client.session.released_stop) {
            for other in self.clients.values_mut() {
                other.session.holds_stop = false;
            }
        }
    }

    /// Carries completed stops and pauses through until vCPUs run or clients have been told.
    fn settle(&mut self, machine: &mut dyn Machine, now: Time) {
        while self.is_collected() {
            self.core.points.publish_changes(machine.memory());
            let mut context = self.context(machine, now);
            let settled = context.settle();
            context.refresh_os(VcpuId(0));
            if settled == Settled::Report && !monitor::steps_on(&mut self.context(machine, now)) {
                self.report(machine, now);
            }
            self.serve_waiting(machine, now);
            // A request may have ended the pause in a stop, or resumed the guest: then a hit that is
            // pending comes first.
            if self.core.run.phase() == Phase::Pausing && !self.core.run.is_resumed_anew() {
                self.context(machine, now).take_up();
                if self.core.run.phase() == Phase::Pausing {
                    self.core.run.rest();
                }
                self.announce_resume(machine, now);
            }
        }
    }

    fn is_collected(&self) -> bool {
        self.core.run.all_out() && matches!(self.core.run.phase(), Phase::Stopping | Phase::Pausing)
    }

    /// Tells every client that waits for it of the stop.
    fn report(&mut self, machine: &mut dyn Machine, now: Time) {
        monitor::notify::note_stop(&mut self.context(machine, now));
        let mut is_told = false;
        let ids: Vec<SessionId> = self.clients.keys().copied().collect();
        for id in ids {
            let Some(mut client) = self.clients.remove(&id) else {
                continue;
            };
            is_told |= client.report_stop(&mut self.context(machine, now));
            self.clients.insert(id, client);
        }
        if !is_told {
            self.keep_or_run_on(machine, now);
        }
    }

    /// Decides about a stop that no client waits for. What happened in the guest is kept for the
    /// clients that are there: whoever resumes first is told. A pause or the end of a step was only
    /// for a client that is gone.
    fn keep_or_run_on(&mut self, machine: &mut dyn Machine, now: Time) {
        let reason = self.core.run.last_stop().reason;
        let is_event = reason.is_of_a_point()
            || matches!(reason, StopReason::Ended(_) | StopReason::Failed(_));
        let mut is_kept = false;
        for client in self.clients.values_mut() {
            let sees_it = is_event && client.session.access == Access::Full;
            client.session.holds_stop |= sees_it;
            is_kept |= sees_it;
        }
        if is_kept {
            self.core.run.withhold();
        } else if !self.core.stays_stopped {
            self.run_on(machine, now);
        }
    }

    /// Tells the clients that want to know it of a resume.
    fn announce_resume(&mut self, machine: &mut dyn Machine, now: Time) {
        let Some(text) = monitor::notify::take_resume(&mut self.context(machine, now)) else {
            return;
        };
        for client in self.clients.values_mut() {
            monitor::notify::tell_resume(client, &text);
        }
    }

    fn serve_waiting(&mut self, machine: &mut dyn Machine, now: Time) {
        let waiting: Vec<SessionId> = self
            .clients
            .iter()
            .filter(|(_, client)| client.wire.waits_for() == Some(Until::Paused))
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            self.serve(id, machine, now);
        }
    }

    /// Lets a stopped guest run on after a client has gone, unless another still holds it.
    fn run_on(&mut self, machine: &mut dyn Machine, now: Time) {
        if self
            .clients
            .values()
            .any(|client| client.session.holds_stop)
        {
            return;
        }
        if let Some(end) = self.core.run.ended() {
            self.core.run.push_command(Command::End(end));
            return;
        }
        self.context(machine, now)
            .resume(|_| Some(ResumeAction::Continue));
    }

    fn context<'a>(&'a mut self, machine: &'a mut dyn Machine, now: Time) -> Context<'a> {
        Context {
            core: &mut self.core,
            machine,
            now,
        }
    }
}

/// Returns when a client that has detached is given up, if it has not taken all replies.
fn give_up_time(client: &Client) -> Option<Time> {
    let owes = client.wire.awaits_ack() || !client.wire.output().is_empty();
    let detached = client.session.detached.filter(|_| owes)?;
    Some(detached.after(LAST_REPLY_NS))
}
