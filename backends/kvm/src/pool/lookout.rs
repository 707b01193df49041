//! A look, from time to time, at the guest's own debug registers.
//!
//! While the debugger uses hardware slots KVM runs the guest with the debugger's debug registers. What
//! the guest writes to its own is kept and comes into force at the next entry, which may be long
//! after, since a guest with KVM's interrupt controller seldom leaves. Where KVM does not tell of
//! such a write (rule R9), a thread brings the vCPU out at intervals so that it is seen.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::OnceLock;
use std::thread::{self, Thread};

use trapline_engine::VcpuId;

/// How long a write stays unseen at most.
const INTERVAL: Duration = Duration::from_millis(4);

/// After this many intervals without a vCPU to bring out the thread sleeps until there is one.
const MAX_IDLE_LOOKS: u32 = 16;

/// Which vCPUs are to be brought out, and the thread that does it.
#[derive(Debug)]
pub(super) struct Lookout {
    wanted: Box<[AtomicBool]>,
    thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    is_over: AtomicBool,
}

impl Lookout {
    pub(super) fn new(vcpu_count: usize) -> Self {
        Self {
            wanted: (0..vcpu_count).map(|_| AtomicBool::new(false)).collect(),
            thread: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    /// Has `vcpu` brought out at intervals from now on.
    pub(super) fn start(&self, vcpu: VcpuId) {
        if let Some(wanted) = self.wanted.get(vcpu.index())
            && !wanted.swap(true, Ordering::SeqCst)
        {
            self.wake();
        }
    }

    /// Ends that.
    pub(super) fn stop(&self, vcpu: VcpuId) {
        if let Some(wanted) = self.wanted.get(vcpu.index()) {
            wanted.store(false, Ordering::SeqCst);
        }
    }

    /// Ends the thread.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// The life of the thread.
    pub(super) fn work(&self, kick: impl Fn(VcpuId)) {
        let _ = self.thread.set(thread::current());
        let mut idle_looks = MAX_IDLE_LOOKS;
        while !self.is_over.load(Ordering::SeqCst) {
            if idle_looks >= MAX_IDLE_LOOKS {
                self.sleep();
                idle_looks = 0;
            }
            thread::sleep(INTERVAL);
            idle_looks += 1;
            for vcpu in self.wanted() {
                kick(vcpu);
                idle_looks = 0;
            }
        }
    }

    fn wanted(&self) -> impl Iterator<Item = VcpuId> + '_ {
        (0..)
            .map(VcpuId)
            .zip(&self.wanted)
            .filter(|(_, wanted)| wanted.load(Ordering::SeqCst))
            .map(|(vcpu, _)| vcpu)
    }

    /// Sleeps until a vCPU is wanted, or the end. Whoever wants one says so first and looks at
    /// `is_asleep` then; here it is the other way round, so one of the two sees the other.
    fn sleep(&self) {
        self.is_asleep.store(true, Ordering::SeqCst);
        if self.wanted().next().is_none() && !self.is_over.load(Ordering::SeqCst) {
            while self.is_asleep.load(Ordering::SeqCst) {
                thread::park();
            }
        }
        self.is_asleep.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.is_asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}
