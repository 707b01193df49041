//! The bounded queue between a vCPU that writes and the console's thread.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::PATIENCE;
use crate::event::Event;

/// The most bytes that wait. The queue grows to it only if the reader stays behind.
const CAPACITY: usize = 64 << 10;

/// The vCPUs' end of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    room: Condvar,
    /// Readable when there is something to take.
    filled: Event,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Nobody takes anything: bytes are dropped without waiting.
    stalled: bool,
    /// There is no console: bytes are dropped at once.
    closed: bool,
}

impl Output {
    pub(crate) fn new() -> io::Result<Self> {
        let shared = Shared {
            state: Mutex::default(),
            room: Condvar::new(),
            filled: Event::new()?,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Drops everything from now on.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.bytes.clear();
    }

    /// Returns the descriptor that is readable when there may be something to take.
    pub(crate) fn filled(&self) -> &Event {
        &self.shared.filled
    }

    /// Takes up to `most` bytes.
    pub(crate) fn take(&self, most: usize) -> Vec<u8> {
        let mut state = self.lock();
        let count = state.bytes.len().min(most);
        let bytes = state.bytes.drain(..count).collect();
        state.stalled = false;
        if state.bytes.is_empty() {
            self.shared.filled.clear();
        }
        self.shared.room.notify_all();
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits once for room.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let full = |state: &mut State| state.bytes.len() >= CAPACITY && !state.closed;
        let waited = self.shared.room.wait_timeout_while(state, PATIENCE, full);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.stalled = state.bytes.len() >= CAPACITY;
        state
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.bytes.len() >= CAPACITY && !state.stalled && !state.closed {
            state = self.wait(state);
        }
        if !state.closed && state.bytes.len() < CAPACITY {
            let was_empty = state.bytes.is_empty();
            state.bytes.extend(bytes);
            if was_empty {
                self.shared.filled.set();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::time::Instant;

    use super::*;

    #[test]
    fn bytes_come_out_in_order() {
        let mut output = Output::new().expect("an eventfd");
        output.write_all(b"hello ").expect("room");
        output.write_all(b"world").expect("room");
        assert_eq!(output.take(6), b"hello ");
        assert_eq!(output.take(100), b"world");
        assert!(output.take(100).is_empty());
    }

    #[test]
    fn a_reader_that_stays_behind_holds_the_writer_up_only_once() {
        let mut output = Output::new().expect("an eventfd");
        for _ in 0..CAPACITY {
            output.write_all(b"x").expect("room");
        }
        let start = Instant::now();
        for _ in 0..1000 {
            output.write_all(b"y").expect("dropped");
        }
        assert!(start.elapsed() < PATIENCE * 10 + Duration::from_secs(1));
        assert_eq!(output.take(usize::MAX).len(), CAPACITY);
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let mut output = Output::new().expect("an eventfd");
        output.close();
        output.write_all(b"x").expect("dropped");
        assert!(output.take(1).is_empty());
    }
}
