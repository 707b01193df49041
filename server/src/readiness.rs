//! Waiting until one of several descriptors is ready.
//!
//! It is epoll, because the set stays the same from one request to the next: poll would enter it
//! into the kernel's queues and take it out again each time.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::io::Errno;

pub(crate) use rustix::event::epoll::EventFlags as Readiness;

/// How many descriptors are told of at once.
const MAX_EVENTS: usize = 32;

/// Descriptors that are waited for. They are taken out by closing this.
pub(crate) struct WaitSet {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl WaitSet {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(MAX_EVENTS),
        })
    }

    /// Waits for `source` too, under the name `key`. That its other end is gone is told even if
    /// nothing else is waited for.
    pub(crate) fn add(&self, key: u64, source: &impl AsFd, wanted: Readiness) -> io::Result<()> {
        let data = EventData::new_u64(key);
        Ok(epoll::add(&self.epoll, source, data, wanted)?)
    }

    /// Waits until something is ready, or for the time given, and returns what is by its key.
    pub(crate) fn wait(
        &mut self,
        patience: Option<Duration>,
    ) -> io::Result<impl Iterator<Item = (u64, Readiness)> + '_> {
        let timeout = patience.and_then(|time| Timespec::try_from(time).ok());
        self.events.clear();
        loop {
            let room = spare_capacity(&mut self.events);
            match epoll::wait(&self.epoll, room, timeout.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self
            .events
            .iter()
            .map(|event| (event.data.u64(), event.flags)))
    }
}
