//! The end of a guest, as its devices see it come.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use trapline_engine::GuestEnd;

use crate::{VmmError, event::Event};

/// How a guest came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// What happened.
    pub end: GuestEnd,
    /// The status that the guest wrote to the debug-exit port 0xf4.
    pub status: Option<u8>,
    /// Who ended it.
    pub by: EndedBy,
}

/// Who ended a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The guest itself, by one of its devices.
    Guest,
    /// The user, by Ctrl-A x at the console.
    Console,
}

/// Tells of the end of a guest: once, whoever asks for it first.
#[derive(Clone, Debug)]
pub struct EndEvents {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    end: Mutex<Option<End>>,
    ended: Condvar,
    event: Event,
}

impl EndEvents {
    pub(crate) fn new() -> Result<Self, VmmError> {
        let event = Event::new()?;
        Ok(Self {
            inner: Arc::new(Inner {
                end: Mutex::new(None),
                ended: Condvar::new(),
                event,
            }),
        })
    }

    /// Returns how the guest ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        *self
            .inner
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the guest has ended and returns how.
    #[must_use]
    pub fn wait(&self) -> End {
        let mut slot = self
            .inner
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(end) = *slot {
                return end;
            }
            slot = self
                .inner
                .ended
                .wait(slot)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns the descriptor that becomes readable when a device or the console ends the guest. It
    /// stays readable; nobody reads it.
    #[must_use]
    pub fn event(&self) -> &OwnedFd {
        self.inner.event.descriptor()
    }

    /// Notes the end, if it is the first.
    pub(crate) fn set(&self, end: GuestEnd, status: Option<u8>, by: EndedBy) {
        let mut slot = self
            .inner
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(End { end, status, by });
            self.inner.ended.notify_all();
            self.inner.event.set();
        }
    }
}
