//! The engine with its clients, and the processors it sets going.
//!
//! Each processor of the machine is one vCPU, and has a lane. A [`Hub`] is behind one lock of the
//! hypervisor's; [`Lanes`] is what processors look at without it.
//!
//! ```text
//!             guest ──exit──▶ drive() ──StopReason──▶ Hub::stopped ──▶ parked
//!               ▲               │                                        │ Hub::take_request
//!               └────enter──────┘ ◀──────────────────────────────────────┘
//! ```
//!
//! - A request to stop is a flag of the lane, set before the processor is kicked. A processor looks at it
//!   after every exit and before every entry, so that no kick is lost.
//! - While a processor parks, its registers lie in the lane: whoever runs the engine reads and writes
//!   them there, and the processor takes them up when it goes on.
//! - A processor that is off has a lane as well. It is stopped and set going like any other; what it is
//!   to do waits until it is on (rule R4).

mod hub;
mod machine;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use trapline_engine::{Entry, GuestEnd, Held, Next, StopReason, Time, Vcpu, VcpuRun, VmExit};

pub use hub::{Hub, Order};

/// Nobody holds the others.
const NOBODY: usize = usize::MAX;

/// What the lanes need of the processors.
pub trait Platform {
    /// Brings a processor out of the guest, or out of waiting, soon.
    fn kick(&self, processor: usize);

    /// Returns the time.
    fn now(&self) -> Time;

    /// Carries out the guest's end: switches the machine off, or resets it.
    fn end(&self, end: GuestEnd);

    /// Returns what the hypervisor has said of itself, for `monitor log`.
    fn log(&self) -> Option<String> {
        None
    }
}

/// A processor between two entries.
pub trait Processor: Vcpu {
    /// Makes ready for an entry, which is then made once or more often.
    fn prepare(&mut self, entry: &Entry) {
        let _ = entry;
    }

    /// Enters the guest. `None` if it came out for something that is the hypervisor's alone, which was
    /// done; the entry is then made again.
    fn enter(&mut self, entry: &Entry) -> Option<VmExit>;
}

/// What processors look at without the hub's lock.
#[derive(Debug)]
pub struct Lanes {
    signals: Vec<Signals>,
    holder: AtomicUsize,
}

#[derive(Debug, Default)]
struct Signals {
    stop: AtomicBool,
    has_request: AtomicBool,
    is_in_guest: AtomicBool,
}

impl Lanes {
    /// Makes lanes for `count` processors.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            signals: (0..count).map(|_| Signals::default()).collect(),
            holder: AtomicUsize::new(NOBODY),
        }
    }

    /// Returns whether a processor is to come out of the guest.
    #[must_use]
    pub fn is_stop_asked(&self, processor: usize) -> bool {
        self.signal(processor, |signals| &signals.stop)
    }

    /// Returns whether there is something to do for a processor that parks.
    #[must_use]
    pub fn has_request(&self, processor: usize) -> bool {
        self.signal(processor, |signals| &signals.has_request)
    }

    /// Takes note that a processor is out of the guest and holds nobody: it is about to be turned off.
    pub fn leave(&self, processor: usize) {
        self.come_out(processor);
        self.release_others(processor);
    }

    fn signal(&self, processor: usize, which: impl Fn(&Signals) -> &AtomicBool) -> bool {
        let signals = self.signals.get(processor);
        signals.is_some_and(|signals| which(signals).load(Ordering::SeqCst))
    }

    fn set(&self, processor: usize, value: bool, which: impl Fn(&Signals) -> &AtomicBool) {
        if let Some(signals) = self.signals.get(processor) {
            which(signals).store(value, Ordering::SeqCst);
        }
    }

    /// Tries to go into the guest: not while another holds all others out.
    fn try_go_in(&self, processor: usize) -> bool {
        self.set(processor, true, |signals| &signals.is_in_guest);
        let holder = self.holder.load(Ordering::SeqCst);
        if holder == NOBODY || holder == processor {
            return true;
        }
        self.come_out(processor);
        false
    }

    fn come_out(&self, processor: usize) {
        self.set(processor, false, |signals| &signals.is_in_guest);
    }

    /// Holds all others out of the guest.
    fn hold_others(&self, processor: usize, platform: &dyn Platform) -> Held {
        loop {
            if self.is_stop_asked(processor) {
                return Held::Interrupted;
            }
            let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
            let taken = self
                .holder
                .compare_exchange(NOBODY, processor, success, failure);
            if taken.is_ok_and(|_| true) || taken == Err(processor) {
                break;
            }
            core::hint::spin_loop();
        }
        let others = || (0..self.signals.len()).filter(|other| *other != processor);
        let is_in = |other: &usize| self.signal(*other, |signals| &signals.is_in_guest);
        others()
            .filter(is_in)
            .for_each(|other| platform.kick(other));
        while others().any(|other| is_in(&other)) {
            core::hint::spin_loop();
        }
        Held::Held
    }

    fn release_others(&self, processor: usize) {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        // Only the holder's own is given up.
        let _ = self
            .holder
            .compare_exchange(processor, NOBODY, success, failure);
    }
}

/// Carries out a resume of a processor, on that processor, and returns why it has stopped.
pub fn drive(
    index: usize,
    run: &mut VcpuRun,
    processor: &mut dyn Processor,
    lanes: &Lanes,
    platform: &dyn Platform,
) -> StopReason {
    loop {
        match run.next(processor) {
            Next::Stop(reason) => {
                lanes.release_others(index);
                return reason;
            }
            Next::HoldOthers => run.others_held(lanes.hold_others(index, platform)),
            Next::Enter(entry) => {
                if !entry.alone {
                    lanes.release_others(index);
                }
                let exit = enter(index, &entry, processor, lanes);
                run.handle_exit(processor, exit);
            }
        }
    }
}

fn enter(index: usize, entry: &Entry, processor: &mut dyn Processor, lanes: &Lanes) -> VmExit {
    processor.prepare(entry);
    loop {
        if lanes.is_stop_asked(index) {
            return VmExit::Interrupted;
        }
        if !lanes.try_go_in(index) {
            core::hint::spin_loop();
            continue;
        }
        let exit = processor.enter(entry);
        lanes.come_out(index);
        if let Some(exit) = exit {
            return exit;
        }
    }
}
