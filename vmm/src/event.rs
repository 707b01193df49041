//! Events between threads: eventfd, as a descriptor that can be waited for.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::eventfd::EventFd;

/// An event that stays set until it is cleared.
#[derive(Debug)]
pub(crate) struct Event(OwnedFd);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(
            0,
            EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC,
        )?))
    }

    /// Returns another handle on the same event.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sets the event.
    pub(crate) fn set(&self) {
        // The write is refused only when the counter is full, and then the event is set.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Clears the event, which need not be set.
    pub(crate) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(crate) const fn descriptor(&self) -> &OwnedFd {
        &self.0
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Borrows the descriptor of an event that KVM sets.
#[expect(
    unsafe_code,
    reason = "vmm-sys-util's EventFd has no safe way to borrow its descriptor"
)]
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `event`, whose lifetime the result has.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
