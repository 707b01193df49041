//! A point in time by which something must have happened.

use core::time::Duration;
use std::{
    sync::{Condvar, MutexGuard, PoisonError},
    time::Instant,
};

/// The last `limit` bytes of `text`, for messages.
pub(crate) fn tail(text: &str, limit: usize) -> &str {
    let start = text.len().saturating_sub(limit);
    let start = (start..=text.len()).find(|&at| text.is_char_boundary(at));
    start.and_then(|at| text.get(at..)).unwrap_or(text)
}

/// Waits on `condition` until `ready` yields a value or `limit` has passed, then yields `None`.
pub(crate) fn wait_until<'a, State, Value>(
    condition: &Condvar,
    mut state: MutexGuard<'a, State>,
    limit: Duration,
    mut ready: impl FnMut(&mut State) -> Option<Value>,
) -> (MutexGuard<'a, State>, Option<Value>) {
    let start = Instant::now();
    loop {
        if let Some(value) = ready(&mut state) {
            return (state, Some(value));
        }
        let Some(left) = limit.checked_sub(start.elapsed()) else {
            return (state, None);
        };
        // A poisoned lock means that another thread of the test panicked. The text it guards is
        // still whole, and it is what explains that panic.
        state = condition
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}
