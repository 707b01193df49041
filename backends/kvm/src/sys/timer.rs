//! A timer that sends one thread the kick signal at intervals.
#![expect(
    unsafe_code,
    reason = "timers have no safe interface in the dependencies"
)]

use core::mem;
use core::ptr;
use core::time::Duration;
use std::io;

use super::signal::{KickSignal, ThreadId};

/// A timer of one thread. It is made by the thread it is for, and kicks that thread only.
#[derive(Debug)]
pub(crate) struct IntervalTimer {
    timer: libc::timer_t,
    owner: ThreadId,
}

// SAFETY: a timer belongs to the process, and its calls may be made by any thread.
unsafe impl Send for IntervalTimer {}

impl IntervalTimer {
    /// Creates a timer, not yet armed, for the calling thread.
    pub(crate) fn new(signal: KickSignal) -> io::Result<Self> {
        let owner = ThreadId::current();
        // SAFETY: an all-zero sigevent is a valid one.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal.number();
        event.sigev_notify_thread_id = owner.0;
        let mut timer = ptr::null_mut();
        // SAFETY: both pointers are to live values of the types the call takes.
        let result =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if result == 0 {
            Ok(Self { timer, owner })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Returns whether the calling thread is the one that the timer kicks.
    pub(crate) fn is_for_this_thread(&self) -> bool {
        self.owner == ThreadId::current()
    }

    /// Sends the signal after `interval` and again after each further one, until disarmed.
    pub(crate) fn arm(&self, interval: Duration) {
        let nanoseconds = interval.subsec_nanos();
        let seconds = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
        self.set(libc::timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        });
    }

    /// Stops the signals. One may still be under way.
    pub(crate) fn disarm(&self) {
        self.set(libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
    }

    fn set(&self, interval: libc::timespec) {
        let spec = libc::itimerspec {
            it_interval: interval,
            it_value: interval,
        };
        // SAFETY: the timer exists while `self` does, and `spec` is a live value.
        unsafe { libc::timer_settime(self.timer, 0, &raw const spec, ptr::null_mut()) };
    }
}

impl Drop for IntervalTimer {
    fn drop(&mut self) {
        // SAFETY: the timer was made by `new` and is deleted once.
        unsafe { libc::timer_delete(self.timer) };
    }
}
