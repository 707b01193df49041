//! A look, from time to time, at the guest's own debug registers.
//!
//! While the debugger uses hardware slots KVM runs the guest with the debugger's debug registers. What
//! the guest writes to its own is kept and comes into force at the next entry, which may be long
//! after, since a guest with KVM's interrupt controller seldom leaves. Where KVM does not tell of
//! such a write (rule R9), a thread brings the vCPU out at intervals so that it is seen.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use trapline_engine::VcpuId;

use super::patrol::{Look, Patrol};

/// How long a write stays unseen at most.
const INTERVAL: Duration = Duration::from_millis(4);

/// Which vCPUs are to be brought out, and the thread that does it.
#[derive(Debug)]
pub(super) struct Lookout {
    wanted: Box<[AtomicBool]>,
    patrol: Patrol,
}

impl Lookout {
    pub(super) fn new(vcpu_count: usize) -> Self {
        Self {
            wanted: (0..vcpu_count).map(|_| AtomicBool::new(false)).collect(),
            patrol: Patrol::default(),
        }
    }

    /// Has `vcpu` brought out at intervals from now on.
    pub(super) fn start(&self, vcpu: VcpuId) {
        if let Some(wanted) = self.wanted.get(vcpu.index())
            && !wanted.swap(true, Ordering::SeqCst)
        {
            self.patrol.wake();
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
        self.patrol.end();
    }

    /// The life of the thread.
    pub(super) fn work(&self, kick: impl Fn(VcpuId)) {
        let look = || {
            let mut look = Look::Idle;
            for vcpu in self.wanted() {
                kick(vcpu);
                look = Look::Busy;
            }
            look
        };
        let is_quiet = || self.wanted().next().is_none();
        self.patrol.work(INTERVAL, look, is_quiet);
    }

    fn wanted(&self) -> impl Iterator<Item = VcpuId> + '_ {
        (0..)
            .map(VcpuId)
            .zip(&self.wanted)
            .filter(|(_, wanted)| wanted.load(Ordering::SeqCst))
            .map(|(vcpu, _)| vcpu)
    }
}
