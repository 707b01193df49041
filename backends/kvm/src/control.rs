//! How other threads reach a vCPU that may be in the guest.
//!
//! A request is never lost, whatever the vCPU's thread is doing:
//!
//! ```text
//!  who asks                              the vCPU's thread
//!  1  set the reason (stop, gate)        a  say that it is about to enter
//!  2  set immediate_exit                 b  look at the reasons; leave if there is one
//!  3  if it is about to enter: signal    c  KVM_RUN
//!                                        d  say that it is out, clear immediate_exit, go to a
//! ```
//!
//! If 1 comes after b, then 2 comes before c and `KVM_RUN` returns at once, or 3 comes after a and the
//! signal ends `KVM_RUN`, whether it executes the guest, waits in HLT or waits for SIPI. If d clears
//! what 2 has set, the next b sees what 1 has set.

use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::io;
use std::os::fd::AsRawFd;

use crate::sys::{KickSignal, RunPage, ThreadId};

/// One vCPU as other threads reach it.
#[derive(Debug)]
pub(crate) struct VcpuControl {
    page: RunPage,
    signal: KickSignal,
    stop: AtomicBool,
    woken: AtomicBool,
    in_guest: AtomicBool,
    thread: AtomicI32,
}

impl VcpuControl {
    pub(crate) fn new(vcpu: &impl AsRawFd, signal: KickSignal) -> io::Result<Self> {
        Ok(Self {
            page: RunPage::map(vcpu)?,
            signal,
            stop: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            thread: AtomicI32::new(0),
        })
    }

    /// Returns the shared page.
    pub(crate) fn page(&self) -> &RunPage {
        &self.page
    }

    /// Takes note that the calling thread will enter the guest from now on.
    pub(crate) fn adopt(&self) {
        self.thread.store(ThreadId::current().0, Ordering::SeqCst);
    }

    /// Forgets a stop request that was meant for an earlier run.
    pub(crate) fn clear_stop(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// Returns whether the vCPU is asked to stop.
    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Asks the vCPU to stop (1 to 3 above).
    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.kick();
    }

    /// Lets a vCPU that waits in HLT outside of KVM look for work again.
    pub(crate) fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.kick();
    }

    /// Returns whether the vCPU was woken since the last call.
    pub(crate) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Brings the vCPU out of `KVM_RUN`, so that it looks at the reasons (2 and 3 above).
    pub(crate) fn kick(&self) {
        self.set_immediate_exit();
        if self.in_guest.load(Ordering::SeqCst) {
            self.signal
                .send(ThreadId(self.thread.load(Ordering::SeqCst)));
        }
    }

    /// Says that `KVM_RUN` comes next (a above).
    pub(crate) fn set_in_guest(&self) {
        self.in_guest.store(true, Ordering::SeqCst);
    }

    /// Says that `KVM_RUN` has returned or was not called after all.
    pub(crate) fn clear_in_guest(&self) {
        self.in_guest.store(false, Ordering::SeqCst);
    }

    /// Returns whether the vCPU may be in the guest.
    pub(crate) fn is_in_guest(&self) -> bool {
        self.in_guest.load(Ordering::SeqCst)
    }

    /// Makes the next `KVM_RUN` return without entering the guest.
    pub(crate) fn set_immediate_exit(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Lets `KVM_RUN` enter the guest again (d above).
    pub(crate) fn clear_immediate_exit(&self) {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
    }
}
