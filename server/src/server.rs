//! The event loop.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use trapline_engine::{Access, GuestEnd, SessionId, TooManySessions};

use crate::address::ListenAddress;
use crate::connection::Stream;
use crate::error::ServerError;
use crate::hub::{Aftermath, Hub};
use crate::listener::{self, Listener};
use crate::readiness::{Readiness, WaitSet};
use crate::serial;

/// How much is read from a client by one system call.
const READ_BYTES: usize = 64 * 1024;

/// What a stream shows when its client has gone.
const GONE: Readiness = Readiness::HUP.union(Readiness::ERR);

/// Who may reach a TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Programs on this machine.
    Loopback,
    /// Whoever reaches the address, by the user's explicit word.
    Anyone,
}

/// The waker's key in a [`WaitSet`].
const WAKER_KEY: u64 = 0;

/// The event loop of a hub's clients.
#[derive(Debug)]
pub struct Server {
    hub: Arc<Hub>,
    listeners: Vec<(Listener, Access)>,
}

/// A client's stream and what to wait for on it.
pub(crate) type Watched = (SessionId, Arc<Stream>, Readiness);

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
        let mut set = self.wait_set(sessions)?;
        let mut aftermath = Aftermath::Same;
        while aftermath == Aftermath::Same {
            if until_work.is_some() {
                aftermath = Aftermath::LookAnew;
            }
            for (key, ready) in set.wait(until_work)? {
                if self.serve_key(key, sessions, ready, buffer) == Aftermath::LookAnew {
                    aftermath = Aftermath::LookAnew;
                }
            }
        }
        Ok(())
    }

    /// Returns what is waited for: the waker, then each listener, then each session. Their keys are
    /// their places in this order.
    fn wait_set(&self, sessions: &[Watched]) -> io::Result<WaitSet> {
        let set = WaitSet::new()?;
        set.add(WAKER_KEY, self.hub.waker(), Readiness::IN)?;
        let mut keys = WAKER_KEY.saturating_add(1)..;
        for ((listener, _), key) in self.listeners.iter().zip(keys.by_ref()) {
            set.add(key, listener, Readiness::IN)?;
        }
        for ((_, stream, wanted), key) in sessions.iter().zip(keys) {
            set.add(key, &**stream, *wanted)?;
        }
        Ok(set)
    }

    /// Serves what [`wait_set`](Self::wait_set) knows by `key`.
    fn serve_key(
        &self,
        key: u64,
        sessions: &[Watched],
        ready: Readiness,
        buffer: &mut [u8],
    ) -> Aftermath {
        if key == WAKER_KEY {
            self.hub.waker().clear();
            return Aftermath::LookAnew;
        }
        let place = usize::try_from(key.saturating_sub(1)).unwrap_or(usize::MAX);
        if let Some((listener, access)) = self.listeners.get(place) {
            return self.accept(listener, *access);
        }
        match sessions.get(place.saturating_sub(self.listeners.len())) {
            Some((id, stream, _)) => self.serve(*id, stream, ready, buffer),
            None => Aftermath::LookAnew,
        }
    }

    /// Lets a waiting client in. One too many finds its connection closed.
    fn accept(&self, listener: &Listener, access: Access) -> Aftermath {
        let Ok(Some(stream)) = listener.accept() else {
            return Aftermath::Same;
        };
        let _: Result<SessionId, TooManySessions> = self.hub.connect(Arc::new(stream), access);
        Aftermath::LookAnew
    }

    fn serve(
        &self,
        id: SessionId,
        stream: &Stream,
        flags: Readiness,
        buffer: &mut [u8],
    ) -> Aftermath {
        if flags.is_empty() {
            return Aftermath::Same;
        }
        if flags.contains(Readiness::OUT) {
            self.hub.flush(id);
        }
        if flags.contains(Readiness::IN) {
            match stream.read(buffer) {
                Ok(Some(0)) | Err(_) => self.close(id),
                Ok(Some(len)) => {
                    let aftermath = self.hub.receive(id, buffer.get(..len).unwrap_or_default());
                    if !flags.contains(Readiness::OUT) {
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
