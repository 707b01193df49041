//! The event loop.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use trapline_engine::{Access, GuestEnd, SessionId, TooManySessions};

use crate::address::ListenAddress;
use crate::connection::Stream;
use crate::error::ServerError;
use crate::hub::Hub;
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
    buffer: Vec<u8>,
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
            buffer: vec![0; READ_BYTES],
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
    pub fn run(mut self) -> Result<GuestEnd, ServerError> {
        loop {
            if let Some(end) = self.hub.ended() {
                return Ok(end);
            }
            self.close_broken();
            let sessions = self.hub.watch();
            let ready = self.wait(&sessions)?;
            if ready.first().is_some_and(|flags| !flags.is_empty()) {
                self.hub.waker().clear();
            }
            self.accept(&ready);
            let streams = ready
                .into_iter()
                .skip(self.listeners.len().saturating_add(1));
            for ((id, stream, _), flags) in sessions.iter().zip(streams) {
                self.serve(*id, stream, flags);
            }
        }
    }

    /// Waits until something is ready: the waker, then each listener, then each session.
    fn wait(&self, sessions: &[Watched]) -> Result<Vec<PollFlags>, ServerError> {
        let waker = PollFd::new(self.hub.waker(), PollFlags::IN);
        let listeners = self
            .listeners
            .iter()
            .map(|(socket, _)| PollFd::new(socket, PollFlags::IN));
        let streams = sessions
            .iter()
            .map(|(_, stream, flags)| PollFd::new(&**stream, *flags));
        let mut fds: Vec<PollFd<'_>> = [waker]
            .into_iter()
            .chain(listeners)
            .chain(streams)
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(fds.iter().map(PollFd::revents).collect()),
            Err(error) => Err(ServerError::Poll(error.into())),
        }
    }

    /// Lets waiting clients in. One too many finds its connection closed.
    fn accept(&self, ready: &[PollFlags]) {
        for ((listener, access), flags) in self.listeners.iter().zip(ready.iter().skip(1)) {
            if !flags.is_empty()
                && let Ok(Some(stream)) = listener.accept()
            {
                let _: Result<SessionId, TooManySessions> =
                    self.hub.connect(Arc::new(stream), *access);
            }
        }
    }

    fn serve(&mut self, id: SessionId, stream: &Stream, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.hub.flush(id);
        }
        if flags.contains(PollFlags::IN) {
            match stream.read(&mut self.buffer) {
                Ok(Some(0)) | Err(_) => self.close(id),
                Ok(Some(len)) => self
                    .hub
                    .receive(id, self.buffer.get(..len).unwrap_or_default()),
                Ok(None) => {}
            }
        } else if flags.intersects(GONE) {
            self.close(id);
        }
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
