//! The engine and the machine behind one lock, for the event loop and the vCPUs' threads.

use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use trapline_engine::{
    Access, Command, Engine, GuestEnd, Machine, SessionId, Start, StopReason, Time,
    TooManySessions, VcpuId,
};

use crate::connection::{Connection, Stream};
use crate::readiness::Readiness;
use crate::server::Watched;
use crate::waker::Waker;

/// How many answers to [`Command::Run`] are taken at once from [`Execute`] before clients are looked
/// at again. Steps made as one give the next command with each answer, up to a million of them, and
/// a request to end them has to be seen meanwhile (rule R3).
const MAX_ANSWERS_AT_ONCE: u32 = 64;

/// A machine that any thread may use.
pub type SharedMachine = Box<dyn Machine + Send>;

/// Carries out the engine's commands. It must not wait for long: a vCPU is set going or kicked, and
/// answers by [`Hub::vcpu_stopped`] later from its own thread, or at once by the value returned.
pub(crate) type Execute = Box<dyn Fn(Command) -> Option<StopReason> + Send + Sync>;

/// The engine of one guest, with its machine and its clients' connections.
pub struct Hub {
    inner: Mutex<Inner>,
    execute: Execute,
    waker: Waker,
    origin: Instant,
}

/// What the event loop has to do after something was done with the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aftermath {
    /// It waits for the same as before.
    Same,
    /// It looks at the connections anew, or the guest is to be torn down.
    LookAnew,
}

struct Inner {
    engine: Engine,
    machine: SharedMachine,
    connections: BTreeMap<SessionId, Connection>,
    ended: Option<GuestEnd>,
    /// Commands were left for the event loop's next turn.
    has_commands: bool,
}

impl core::fmt::Debug for Hub {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// Puts an engine and its machine together. `execute` carries out the engine's commands; it must
    /// not call the hub. For [`Command::Run`] it may return why the vCPU has stopped already, and
    /// nothing otherwise.
    ///
    /// # Errors
    /// The operating system's, if it cannot wait for events.
    pub fn new(
        engine: Engine,
        machine: SharedMachine,
        execute: impl Fn(Command) -> Option<StopReason> + Send + Sync + 'static,
    ) -> io::Result<Arc<Self>> {
        let connections = BTreeMap::new();
        Ok(Arc::new(Self {
            inner: Mutex::new(Inner {
                engine,
                machine,
                connections,
                ended: None,
                has_commands: false,
            }),
            execute: Box::new(execute),
            waker: Waker::new()?,
            origin: Instant::now(),
        }))
    }

    /// Lets the guest begin.
    pub fn start(&self, start: Start) {
        self.with(|inner, now| inner.engine.start(start, &mut *inner.machine, now));
    }

    /// Takes a vCPU's answer to [`Command::Run`]. Call it from the vCPU's own thread, holding no
    /// lock that the machine needs.
    pub fn vcpu_stopped(&self, vcpu: VcpuId, reason: StopReason) {
        self.with(|inner, now| {
            inner
                .engine
                .handle_stopped(vcpu, reason, &mut *inner.machine, now);
        });
    }

    /// Has the guest torn down, whatever it does: its user wants it gone.
    pub fn end(&self, end: GuestEnd) {
        self.lock().ended = Some(end);
        self.waker.wake();
    }

    /// Returns how the guest ended, once it is to be torn down.
    #[must_use]
    pub fn ended(&self) -> Option<GuestEnd> {
        self.lock().ended
    }

    pub(crate) fn connect(
        &self,
        stream: Arc<Stream>,
        access: Access,
    ) -> Result<SessionId, TooManySessions> {
        let mut inner = self.lock();
        let id = inner.engine.open_session(access)?;
        inner
            .connections
            .insert(id, Connection::new(stream, access));
        Ok(id)
    }

    /// Takes bytes from a client.
    pub(crate) fn receive(&self, id: SessionId, bytes: &[u8]) -> Aftermath {
        self.act(|inner, now| {
            inner
                .engine
                .handle_input(id, bytes, &mut *inner.machine, now);
        })
    }

    /// Goes on with requests and steps that take longer than a moment, for about a millisecond.
    /// Returns after what time there is more to be done, or `None` if there is nothing.
    ///
    /// Only the event loop calls it, between looking at what clients send: while such a request is
    /// under way all others are served as they come.
    pub(crate) fn work(&self) -> Option<Duration> {
        let due = self.lock().due()?;
        if due <= self.now() {
            self.act(|inner, now| {
                if inner.engine.work_due().is_some_and(|due| due <= now) {
                    inner.engine.work(&mut *inner.machine, now);
                }
            });
        }
        let due = self.lock().due()?;
        Some(Duration::from_nanos(due.0.saturating_sub(self.now().0)))
    }

    /// Takes note that the guest was reset in place and begins anew: what was known of its operating
    /// system is forgotten. A host that ends at a reset has no use for this.
    pub fn guest_reset(&self) {
        self.with(|inner, _| inner.engine.handle_reset());
    }

    /// Sends what was held back for a client whose stream was not ready.
    pub(crate) fn flush(&self, id: SessionId) {
        self.act(|inner, _| {
            if let Some(connection) = inner.connections.get_mut(&id) {
                connection.is_blocked = false;
            }
        });
    }

    /// Ends a client's session and returns its connection.
    pub(crate) fn disconnect(&self, id: SessionId) -> Option<Connection> {
        let connection = self.lock().connections.remove(&id)?;
        self.with(|inner, now| inner.engine.close_session(id, &mut *inner.machine, now));
        Some(connection)
    }

    /// Returns what is readable when the event loop has to look at the connections anew.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Returns each client's stream with what to wait for on it.
    pub(crate) fn watch(&self) -> Vec<Watched> {
        let mut inner = self.lock();
        let Inner {
            engine,
            connections,
            ..
        } = &mut *inner;
        let watched = connections.iter_mut().map(|(id, connection)| {
            connection.is_polled = engine.wants_input(*id);
            let input = if connection.is_polled {
                Readiness::IN
            } else {
                Readiness::empty()
            };
            let output = if connection.is_blocked {
                Readiness::OUT
            } else {
                Readiness::empty()
            };
            (*id, Arc::clone(&connection.stream), input | output)
        });
        watched.collect()
    }

    /// Returns the sessions whose connections are to be closed.
    pub(crate) fn broken(&self) -> Vec<SessionId> {
        let inner = self.lock();
        let broken = inner
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_broken);
        broken.map(|(id, _)| *id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked with the lock held has left the engine between two steps at worst; the
        // guest's other users are better served by going on than by a second panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the engine on a thread that is not the event loop's.
    fn with(&self, action: impl FnOnce(&mut Inner, Time)) {
        if self.act(action) == Aftermath::LookAnew {
            self.waker.wake();
        }
    }

    /// Does something with the engine, then carries out what it wants done and sends what it has to
    /// say.
    fn act(&self, action: impl FnOnce(&mut Inner, Time)) -> Aftermath {
        let now = self.now();
        let mut inner = self.lock();
        action(&mut inner, now);
        if self.drain(&mut inner, now) {
            Aftermath::LookAnew
        } else {
            Aftermath::Same
        }
    }

    /// Returns whether the event loop has to look at the connections.
    fn drain(&self, inner: &mut Inner, now: Time) -> bool {
        let mut needs_loop = false;
        let mut answer_count = 0;
        loop {
            while answer_count < MAX_ANSWERS_AT_ONCE
                && let Some(command) = inner.engine.poll_command()
            {
                needs_loop |= matches!(command, Command::End(_));
                answer_count += u32::from(self.carry_out(command, inner, now));
            }
            inner.has_commands = answer_count >= MAX_ANSWERS_AT_ONCE;
            let (has_sent, is_waiting) = inner.send(now);
            needs_loop |= is_waiting || inner.due().is_some();
            if !has_sent || inner.has_commands {
                return needs_loop;
            }
        }
    }

    /// Carries a command out. Returns whether the engine has been given an answer to it.
    fn carry_out(&self, command: Command, inner: &mut Inner, now: Time) -> bool {
        let running = match &command {
            Command::Run(vcpu, _) => Some(*vcpu),
            Command::Stop(_) => None,
            Command::End(end) => {
                inner.ended = Some(*end);
                None
            }
        };
        let Some((vcpu, reason)) = running.zip((self.execute)(command)) else {
            return false;
        };
        inner
            .engine
            .handle_stopped(vcpu, reason, &mut *inner.machine, now);
        true
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Inner {
    /// Returns when the event loop has something to go on with.
    fn due(&self) -> Option<Time> {
        if self.has_commands {
            return Some(Time(0));
        }
        self.engine.work_due()
    }

    /// Sends each client's output as far as its stream takes it. Returns whether anything was sent,
    /// and whether a stream has to be waited for or closed.
    fn send(&mut self, now: Time) -> (bool, bool) {
        let mut has_sent = false;
        let mut is_waiting = false;
        for (&id, connection) in &mut self.connections {
            let output = self.engine.output(id);
            if !output.is_empty() && !connection.is_blocked && !connection.is_broken {
                match connection.stream.write(output) {
                    Ok(written) => {
                        connection.is_blocked = written < output.len();
                        has_sent |= written > 0;
                        self.engine
                            .consume_output(id, written, &mut *self.machine, now);
                    }
                    Err(_) => connection.is_broken = true,
                }
            }
            let is_over = self.engine.is_finished(id) && self.engine.output(id).is_empty();
            connection.is_broken |= is_over;
            let is_repolled = connection.is_polled != self.engine.wants_input(id);
            is_waiting |= connection.is_blocked || connection.is_broken || is_repolled;
        }
        (has_sent, is_waiting)
    }
}
