//! The event loop.

use core::time::Duration;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use trapline_engine::{Access, GuestEnd, SessionId, TooManySessions};

use crate::address::ListenAddress;
use crate::connection::Stream;
use crate::error::ServerError;
use crate::hub::{Aftermath, Hub};
use crate::listener::{self, Listener};
use crate::serial;

/// How much is read from a client by one system call.
const READ_BYTES: usize = 64 * 1024;

/// What a stream shows when its client has gone.
const GONE: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

/// Who may reach a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Programs on this machine.
    Loopback,
    /// Whoever reaches the address, by the user's explicit word.
    Anyone,
}

/// The event loop of a hub's clients.
#[derive(Debug)]
pub struct Server {
    hub: Arc<Hub>,
    listeners: Vec<(Listener, Access)>,
}

/// A client's stream and what to wait for on it.
pub(crate) type Watched = (SessionId, Arc<Stream>, PollFlags);

impl Server {
    /// Creates a server without listeners.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            listeners: Vec::new(),
        }
    }

    /// Listens at an address and returns it, with the port that was chosen for it.
    ///
    /// # Errors
    /// As [`ServerError`] says.
    pub fn listen(
        &mut self,
        address: &ListenAddress,
        access: Access,
        exposure: Exposure,
    ) -> Result<ListenAddress, ServerError> {
        let listener = match address {
            ListenAddress::Unix(path) => listener::listen_unix(path)?,
            ListenAddress::Tcp { host, port } => listener::listen_tcp(host, *port, exposure)?,
            ListenAddress::Serial { path, baud } => {
                let file = serial::open(path, *baud).map_err(|source| ServerError::Serial {
                    path: path.clone(),
                    source,
                })?;
                self.hub.connect(Arc::new(Stream::Serial(file)), access)?;
                return Ok(address.clone());
            }
        };
        let bound = listener.address()?;
        self.listeners.push((listener, access));
        Ok(bound)
    }

    /// Serves clients until the guest is to be torn down, and returns how it ended.
    ///
    /// # Errors
    /// [`ServerError::Poll`] if the operating system cannot wait for events.
    pub fn run(self) -> Result<GuestEnd, ServerError> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let until_work = self.hub.work();
            if let Some(end) = self.hub.ended() {
                return Ok(end);
            }
            self.close_broken();
            let sessions = self.hub.watch();
            self.serve_same(&sessions, until_work, &mut buffer)?;
        }
    }

    /// Serves clients for as long as there is nothing else to wait for: no other client, no stream
    /// that was blocked or has to be closed, and no request to go on with in the given time.
    fn serve_same(
        &self,
        sessions: &[Watched],
        until_work: Option<Duration>,
        buffer: &mut [u8],
    ) -> Result<(), ServerError> {
        let mut fds = self.poll_set(sessions);
        let first_session = self.listeners.len().saturating_add(1);
        let timeout = until_work.and_then(|time| Timespec::try_from(time).ok());
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // What was ready before this call is not told anew.
                Err(Errno::INTR) => continue,
                Err(error) => return Err(ServerError::Poll(error.into())),
            }
            let mut aftermath = Aftermath::Same;
            if fds.first().is_some_and(|waker| !waker.revents().is_empty()) {
                self.hub.waker().clear();
                aftermath = Aftermath::LookAnew;
            }
            let listening = fds.get(1..first_session).unwrap_or_default();
            if self.accept(listening) == Aftermath::LookAnew {
                aftermath = Aftermath::LookAnew;
            }
            let ready = fds.get(first_session..).unwrap_or_default();
            for ((id, stream, _), fd) in sessions.iter().zip(ready) {
                if self.serve(*id, stream, fd.revents(), buffer) == Aftermath::LookAnew {
                    aftermath = Aftermath::LookAnew;
                }
            }
            if aftermath == Aftermath::LookAnew || timeout.is_some() {
                return Ok(());
            }
        }
    }

    /// Returns what is waited for: the waker, then each listener, then each session.
    fn poll_set<'a>(&'a self, sessions: &'a [Watched]) -> Vec<PollFd<'a>> {
        let waker = PollFd::new(self.hub.waker(), PollFlags::IN);
        let listeners = self
            .listeners
            .iter()
            .map(|(socket, _)| PollFd::new(socket, PollFlags::IN));
        let streams = sessions
            .iter()
            .map(|(_, stream, flags)| PollFd::new(&**stream, *flags));
        [waker]
            .into_iter()
            .chain(listeners)
            .chain(streams)
            .collect()
    }

    /// Lets waiting clients in. One too many finds its connection closed.
    fn accept(&self, ready: &[PollFd<'_>]) -> Aftermath {
        let mut aftermath = Aftermath::Same;
        for ((listener, access), fd) in self.listeners.iter().zip(ready) {
            if !fd.revents().is_empty()
                && let Ok(Some(stream)) = listener.accept()
            {
                let _: Result<SessionId, TooManySessions> =
                    self.hub.connect(Arc::new(stream), *access);
                aftermath = Aftermath::LookAnew;
            }
        }
        aftermath
    }

    fn serve(
        &self,
        id: SessionId,
        stream: &Stream,
        flags: PollFlags,
        buffer: &mut [u8],
    ) -> Aftermath {
        if flags.is_empty() {
            return Aftermath::Same;
        }
        if flags.contains(PollFlags::OUT) {
            self.hub.flush(id);
        }
        if flags.contains(PollFlags::IN) {
            match stream.read(buffer) {
                Ok(Some(0)) | Err(_) => self.close(id),
                Ok(Some(len)) => {
                    let aftermath = self.hub.receive(id, buffer.get(..len).unwrap_or_default());
                    if !flags.contains(PollFlags::OUT) {
                        return aftermath;
                    }
                }
                Ok(None) => {}
            }
        } else if flags.intersects(GONE) {
            self.close(id);
        }
        Aftermath::LookAnew
    }

    fn close_broken(&self) {
        for id in self.hub.broken() {
            self.close(id);
        }
    }

    /// Ends a session. Nobody hangs up on a serial line: whoever is at its other end next gets a
    /// session of its own.
    fn close(&self, id: SessionId) {
        if let Some(connection) = self.hub.disconnect(id)
            && connection.stream.is_permanent()
        {
            // There is room for it: a session has just ended.
            let _: Result<SessionId, TooManySessions> =
                self.hub.connect(connection.stream, connection.access);
        }
    }
}
