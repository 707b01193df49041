//! Somebody who brings a vCPU out of the guest when a step takes too long for the thread it is
//! made on.
//!
//! A timer for each step would do, but to set one and to stop it takes longer than the step. So a
//! thread looks every millisecond, for as long as there are steps: one that is under way at two
//! looks is ended.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use trapline_engine::VcpuId;

use super::lane::Shared;
use super::patrol::{Look, Patrol};

/// How long a step may take at least; it may be twice as long.
pub(super) const STEP_PATIENCE: Duration = Duration::from_millis(1);

/// What the thread looks at.
#[derive(Debug, Default)]
struct Steps {
    /// How often a step began or ended: odd while one is under way.
    changes: AtomicU64,
    vcpu: AtomicU32,
    patrol: Patrol,
}

/// The watching thread.
#[derive(Debug)]
pub(super) struct Watch {
    steps: Arc<Steps>,
    thread: Option<JoinHandle<()>>,
    /// Held while a step is under way: there is one at a time.
    turn: Mutex<()>,
}

/// A step under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct WatchedStep<'a> {
    steps: &'a Steps,
    _turn: MutexGuard<'a, ()>,
}

impl Watch {
    /// Starts the thread.
    pub(super) fn start(shared: Arc<Shared>) -> io::Result<Self> {
        let steps = Arc::new(Steps::default());
        let seen = Arc::clone(&steps);
        let thread = thread::Builder::new()
            .name("step-watch".to_owned())
            .spawn(move || seen.watch(&shared))?;
        Ok(Self {
            steps,
            thread: Some(thread),
            turn: Mutex::new(()),
        })
    }

    /// Watches over a step of `vcpu` on the calling thread from now on.
    pub(super) fn step(&self, vcpu: VcpuId) -> WatchedStep<'_> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = &*self.steps;
        steps.vcpu.store(vcpu.0, Ordering::SeqCst);
        steps.changes.fetch_add(1, Ordering::SeqCst);
        steps.patrol.wake();
        WatchedStep { steps, _turn: turn }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.steps.patrol.end();
        if let Some(thread) = self.thread.take() {
            // A thread that has panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Drop for WatchedStep<'_> {
    fn drop(&mut self) {
        self.steps.changes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Steps {
    fn watch(&self, shared: &Shared) {
        let mut seen = 0;
        let look = || {
            let changes = self.changes.load(Ordering::SeqCst);
            if changes == seen && is_under_way(changes) {
                shared.kick(VcpuId(self.vcpu.load(Ordering::SeqCst)));
            }
            let is_idle = changes == seen && !is_under_way(changes);
            seen = changes;
            if is_idle { Look::Idle } else { Look::Busy }
        };
        let is_quiet = || !is_under_way(self.changes.load(Ordering::SeqCst));
        self.patrol.work(STEP_PATIENCE, look, is_quiet);
    }
}

/// Whether a step is under way after so many changes.
fn is_under_way(changes: u64) -> bool {
    changes % 2 == 1
}
