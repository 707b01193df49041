//! A thread that looks at something at intervals, and sleeps while there is nothing to see.
//!
//! Waking it costs those it works for nothing while it is awake: no system call, one exchange of a
//! flag.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::OnceLock;
use std::thread::{self, Thread};

/// After this many looks at nothing the thread sleeps until it is woken.
const MAX_IDLE_LOOKS: u32 = 16;

/// What a look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// There was nothing to see.
    Idle,
    /// There was something.
    Busy,
}

/// How others reach the thread.
#[derive(Debug, Default)]
pub(super) struct Patrol {
    thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    is_over: AtomicBool,
}

impl Patrol {
    /// The life of the thread. It asks `is_quiet` before it sleeps: what makes that false must be
    /// done before [`wake`](Self::wake) is called.
    pub(super) fn work(
        &self,
        interval: Duration,
        mut look: impl FnMut() -> Look,
        is_quiet: impl Fn() -> bool,
    ) {
        let _ = self.thread.set(thread::current());
        let mut idle_looks = MAX_IDLE_LOOKS;
        while !self.is_over.load(Ordering::SeqCst) {
            if idle_looks >= MAX_IDLE_LOOKS {
                self.sleep(&is_quiet);
                idle_looks = 0;
            }
            thread::sleep(interval);
            idle_looks = match look() {
                Look::Idle => idle_looks + 1,
                Look::Busy => 0,
            };
        }
    }

    /// Has the thread look again, if it sleeps.
    pub(super) fn wake(&self) {
        if self.is_asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Sleeps until the thread is woken. Whoever wakes it has something seen first and looks at
    /// `is_asleep` then; here it is the other way round, so one of the two sees the other.
    fn sleep(&self, is_quiet: impl Fn() -> bool) {
        self.is_asleep.store(true, Ordering::SeqCst);
        if is_quiet() && !self.is_over.load(Ordering::SeqCst) {
            while self.is_asleep.load(Ordering::SeqCst) {
                thread::park();
            }
        }
        self.is_asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU32;
    use std::sync::mpsc::channel;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(1);

    #[test]
    fn falls_asleep_and_is_woken_for_each_thing_to_see() {
        let (patrol, wanted) = (Patrol::default(), AtomicU32::new(0));
        let (sender, looks) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let sender = sender;
                let look = || match wanted.swap(0, Ordering::SeqCst) {
                    0 => Look::Idle,
                    found => {
                        sender.send(found).unwrap();
                        Look::Busy
                    }
                };
                patrol.work(INTERVAL, look, || wanted.load(Ordering::SeqCst) == 0);
            });
            for number in 1..4 {
                while !patrol.is_asleep.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                wanted.store(number, Ordering::SeqCst);
                patrol.wake();
                assert_eq!(looks.recv(), Ok(number));
            }
            patrol.end();
        });
    }

    #[test]
    fn ends_whether_it_sleeps_or_has_not_begun() {
        let patrol = Patrol::default();
        patrol.end();
        patrol.work(INTERVAL, || Look::Idle, || true);
    }
}
