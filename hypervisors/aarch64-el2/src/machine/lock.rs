//! A lock that outlives its holder.
//!
//! Where the hypervisor fails on a processor that holds a lock, nobody would ever give it back, and the
//! other processors, guests and all, would wait for it one by one. So a lock remembers who has taken it,
//! and in which of its lives: one that was taken before its holder's failure is anybody's. Whoever takes
//! it over is [told](Guard::was_left), for the value may be half changed.

#![expect(unsafe_code, reason = "a lock hands out what several processors share")]

use core::cell::UnsafeCell;
use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU64, Ordering};

use super::fault;
use super::hub::affinity;

const NOBODY: u64 = u64::MAX;

/// A holder is an affinity with the number of its processor's failures above it.
const FAILURES_SHIFT: u32 = 48;

/// A value for one processor at a time.
pub(super) struct Lock<T> {
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a `Guard` only, of which there is one at a time: a processor that
// has failed executes nothing of what it did before.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").finish_non_exhaustive()
    }
}

impl<T> Lock<T> {
    /// Makes a lock that nobody holds.
    pub(super) const fn new(value: T) -> Self {
        Self {
            holder: AtomicU64::new(NOBODY),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits until nobody else holds the lock, or its holder has failed.
    pub(super) fn lock(&self) -> Guard<'_, T> {
        let affinity = affinity();
        let here = affinity | fault::count(affinity) << FAILURES_SHIFT;
        loop {
            let Err(holder) = self.try_change(NOBODY, here) else {
                return self.guard(false);
            };
            if has_failed(holder) && self.try_change(holder, here).is_ok() {
                return self.guard(true);
            }
            core::hint::spin_loop();
        }
    }

    fn try_change(&self, from: u64, to: u64) -> Result<u64, u64> {
        let (success, failure) = (Ordering::Acquire, Ordering::Relaxed);
        self.holder.compare_exchange(from, to, success, failure)
    }

    fn guard(&self, was_left: bool) -> Guard<'_, T> {
        Guard {
            lock: self,
            was_left,
        }
    }
}

fn has_failed(holder: u64) -> bool {
    let affinity = holder & ((1 << FAILURES_SHIFT) - 1);
    holder != NOBODY && fault::count(affinity) != holder >> FAILURES_SHIFT
}

/// The holder's access to the value.
#[derive(Debug)]
pub(super) struct Guard<'a, T> {
    lock: &'a Lock<T>,
    was_left: bool,
}

impl<T> Guard<'_, T> {
    /// Returns whether the holder before has failed while it had the value.
    pub(super) const fn was_left(&self) -> bool {
        self.was_left
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this is the one guard.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the one guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.holder.store(NOBODY, Ordering::Release);
    }
}
