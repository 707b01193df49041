//! The gate through which every vCPU enters the guest, and which one vCPU can close to the others.
//!
//! A step over a breakpoint instruction puts the original byte back for as long as the step takes.
//! No other vCPU may execute meanwhile, or it would run past the breakpoint. So the vCPU that is to
//! step holds the others: it closes the gate, brings everybody out and steps.

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use trapline_engine::Held;
use trapline_engine::VcpuId;

use crate::control::VcpuControl;

/// The value of [`Gate::holder`] that names nobody.
const OPEN: u32 = u32::MAX;

/// Whether a vCPU may enter the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It may, and counts as being in the guest until [`Gate::leave`].
    Admitted,
    /// It is asked to stop.
    Stopped,
}

/// The gate of one guest.
///
/// `holder` is the vCPU that has closed the gate. It changes only under the lock, and whoever waits
/// does so on `changed`: for the gate to open, for a vCPU to leave, or to be stopped or woken.
#[derive(Debug)]
pub(crate) struct Gate {
    holder: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
    /// How many wait on `changed`, or have not seen yet that they need not. It grows under the lock,
    /// and spares a system call where nobody waits.
    waiting: AtomicU32,
    vcpus: Box<[VcpuControl]>,
}

impl Gate {
    pub(crate) fn new(vcpus: Vec<VcpuControl>) -> Self {
        Self {
            holder: AtomicU32::new(OPEN),
            lock: Mutex::new(()),
            changed: Condvar::new(),
            waiting: AtomicU32::new(0),
            vcpus: vcpus.into_boxed_slice(),
        }
    }

    /// Returns the vCPU's control, if there is such a vCPU.
    pub(crate) fn control(&self, vcpu: VcpuId) -> Option<&VcpuControl> {
        self.vcpus.get(vcpu.index())
    }

    /// Lets `vcpu` into the guest, after the gate has opened.
    pub(crate) fn enter(&self, vcpu: VcpuId) -> Admission {
        let Some(control) = self.control(vcpu) else {
            return Admission::Stopped;
        };
        loop {
            control.set_in_guest();
            if control.stop_requested() {
                self.leave(vcpu);
                return Admission::Stopped;
            }
            if self.is_open_to(vcpu) {
                return Admission::Admitted;
            }
            self.leave(vcpu);
            let mut guard = self.lock();
            while !self.is_open_to(vcpu) && !control.stop_requested() {
                guard = self.wait(guard);
            }
        }
    }

    /// Says that `vcpu` is out of the guest.
    pub(crate) fn leave(&self, vcpu: VcpuId) {
        if let Some(control) = self.control(vcpu) {
            control.clear_in_guest();
        }
        if !self.is_open_to(vcpu) {
            self.announce();
        }
    }

    /// Closes the gate to all but `vcpu` and waits until the others are out. If several ask at
    /// once they take turns.
    pub(crate) fn hold(&self, vcpu: VcpuId) -> Held {
        let Some(control) = self.control(vcpu) else {
            return Held::Interrupted;
        };
        let mut guard = self.lock();
        while !self.is_open_to(vcpu) {
            if control.stop_requested() {
                return Held::Interrupted;
            }
            guard = self.wait(guard);
        }
        self.holder.store(vcpu.0, Ordering::SeqCst);
        let others = || {
            let numbered = self.vcpus.iter().enumerate();
            numbered
                .filter(|(index, _)| *index != vcpu.index())
                .map(|(_, control)| control)
        };
        others()
            .filter(|other| other.is_in_guest())
            .for_each(VcpuControl::kick);
        while others().any(VcpuControl::is_in_guest) {
            if control.stop_requested() {
                self.open(&guard);
                return Held::Interrupted;
            }
            guard = self.wait(guard);
        }
        Held::Held
    }

    /// Opens the gate, if it was `vcpu` that had closed it.
    pub(crate) fn release(&self, vcpu: VcpuId) {
        if self.holder.load(Ordering::SeqCst) == vcpu.0 {
            let guard = self.lock();
            self.open(&guard);
        }
    }

    /// Waits until `vcpu`, which is halted outside of KVM, is woken or asked to stop.
    #[cfg_attr(
        target_arch = "aarch64",
        expect(dead_code, reason = "KVM always waits by itself there")
    )]
    pub(crate) fn wait_halted(&self, vcpu: VcpuId) -> Admission {
        let Some(control) = self.control(vcpu) else {
            return Admission::Stopped;
        };
        let mut guard = self.lock();
        loop {
            if control.stop_requested() {
                return Admission::Stopped;
            }
            if control.take_woken() {
                return Admission::Admitted;
            }
            guard = self.wait(guard);
        }
    }

    /// Asks `vcpu` to stop, wherever it waits.
    pub(crate) fn request_stop(&self, vcpu: VcpuId) {
        if let Some(control) = self.control(vcpu) {
            control.request_stop();
            self.announce();
        }
    }

    /// Wakes `vcpu` from a halt outside of KVM.
    pub(crate) fn wake(&self, vcpu: VcpuId) {
        if let Some(control) = self.control(vcpu) {
            control.wake();
            self.announce();
        }
    }

    fn is_open_to(&self, vcpu: VcpuId) -> bool {
        let holder = self.holder.load(Ordering::SeqCst);
        holder == OPEN || holder == vcpu.0
    }

    fn open(&self, guard: &MutexGuard<'_, ()>) {
        self.holder.store(OPEN, Ordering::SeqCst);
        self.notify(guard);
    }

    /// Makes all that wait look again. The lock is taken so that none is between its look and its
    /// wait.
    fn announce(&self) {
        let guard = self.lock();
        self.notify(&guard);
    }

    fn notify(&self, _: &MutexGuard<'_, ()>) {
        if self.waiting.load(Ordering::SeqCst) != 0 {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, ()>) -> MutexGuard<'a, ()> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = self
            .changed
            .wait(guard)
            .unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        guard
    }
}
