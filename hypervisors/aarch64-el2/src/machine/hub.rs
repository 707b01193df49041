//! The engine behind its lock, and what processors know of each other.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use trapline_arch::RegisterFile;
use trapline_el2::psci;
use trapline_engine::{Capabilities, GuestEnd, Time};
use trapline_hypervisor::lanes::{Hub, Lanes, Platform};

use super::console::{self, say};
use super::gic::Gic;
use super::guest_memory::Ram;
use super::lock::{Guard, Lock};
use super::mmio::UartRegisters;
use super::sysreg::{isb, mrs, msr, smc};

/// The engine with the serial ports of this machine.
pub(super) type MachineHub = Hub<UartRegisters, Ram>;

static SHARED: Once<Shared> = Once::new();
static HUB: Once<Lock<MachineHub>> = Once::new();

/// A processor that was called is to look at the serial ports.
static IS_SERVICE_WANTED: AtomicBool = AtomicBool::new(false);

/// What is known once the machine is set up, and does not change.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) gic: Gic,
    /// Affinities, by number.
    pub(super) processors: Vec<u64>,
    pub(super) capabilities: Capabilities,
    pub(super) lanes: Lanes,
}

/// Sets what does not change.
pub(super) fn set_shared(shared: Shared) -> &'static Shared {
    SHARED.call_once(|| shared)
}

/// Returns what does not change. The processor stays where it is if this is called before it is set.
pub(super) fn shared() -> &'static Shared {
    SHARED.wait()
}

/// Sets the hub.
pub(super) fn set_hub(hub: MachineHub) {
    HUB.call_once(|| Lock::new(hub));
}

/// Takes the hub's lock, and gives it back when the guard goes.
pub(super) fn hub() -> Guard<'static, MachineHub> {
    let mut hub = HUB.wait().lock();
    if hub.was_left() {
        hub.abandoned(&El2);
    }
    hub
}

/// Leaves what a processor does to the others: the hypervisor has failed on it. `fill` shows its registers.
pub(super) fn give_up(processor: usize, fill: impl FnOnce(&mut RegisterFile)) {
    let mut hub = hub();
    hub.fail(processor, fill, &El2);
    if let Some(next) = hand_over(&hub) {
        IS_SERVICE_WANTED.store(true, Ordering::SeqCst);
        shared().gic.call(next);
    }
}

/// Has the serial ports interrupt a processor that can look at them, and returns which.
pub(super) fn hand_over(hub: &MachineHub) -> Option<u64> {
    let next = able(hub)?;
    shared().gic.route_to(next);
    Some(next)
}

/// Returns whether there is a processor that looks at the serial ports when they interrupt it.
pub(super) fn has_server() -> bool {
    able(&hub()).is_some()
}

/// Returns a processor that is on and has not failed.
fn able(hub: &MachineHub) -> Option<u64> {
    let mut all = shared().processors.iter().enumerate();
    let found = all.find(|(number, _)| hub.is_able(*number));
    found.map(|(_, affinity)| *affinity)
}

/// Takes the wish that the serial ports be looked at.
pub(super) fn take_wish() -> bool {
    IS_SERVICE_WANTED.load(Ordering::SeqCst) && IS_SERVICE_WANTED.swap(false, Ordering::SeqCst)
}

/// Returns the number of the processor with that affinity.
pub(super) fn number_of(affinity: u64) -> Option<usize> {
    let mut all = shared().processors.iter();
    all.position(|other| *other == affinity)
}

/// Returns the number of the processor with that affinity, if the machine is set up.
pub(super) fn known_number_of(affinity: u64) -> Option<usize> {
    let mut all = SHARED.get()?.processors.iter();
    all.position(|other| *other == affinity)
}

/// Returns this processor's affinity.
pub(super) fn affinity() -> u64 {
    mrs!("MPIDR_EL1") & 0xff_00ff_ffff
}

/// This machine.
#[derive(Debug)]
pub(super) struct El2;

impl Platform for El2 {
    fn kick(&self, processor: usize) {
        let shared = shared();
        match shared.processors.get(processor) {
            Some(other) if *other != affinity() => shared.gic.call(*other),
            _ => (),
        }
    }

    fn now(&self) -> Time {
        let ticks = u128::from(mrs!("CNTPCT_EL0"));
        let frequency = u128::from(mrs!("CNTFRQ_EL0")).max(1);
        let ns = ticks.saturating_mul(1_000_000_000) / frequency;
        Time(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn end(&self, end: GuestEnd) {
        say!("{end}");
        let function = match end {
            GuestEnd::Reset => psci::SYSTEM_RESET,
            _ => psci::SYSTEM_OFF,
        };
        let mut call = [0; 18];
        call[0] = function;
        smc(&mut call);
    }

    fn log(&self) -> Option<String> {
        Some(console::log())
    }
}

/// Looks at the serial ports, and has the timer wake this processor when the engine wants to be called.
pub(super) fn serve() {
    let mut hub = hub();
    hub.serve(&El2);
    set_timer(hub.deadline());
}

/// Sets EL2's timer.
pub(super) fn set_timer(deadline: Option<Time>) {
    let Some(deadline) = deadline else {
        return;
    };
    let wait_ns = deadline
        .0
        .saturating_sub(El2.now().0)
        .clamp(1000, 1_000_000_000);
    let ticks = u128::from(wait_ns) * u128::from(mrs!("CNTFRQ_EL0")) / 1_000_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(0).max(1);
    msr!("CNTHP_CVAL_EL2", mrs!("CNTPCT_EL0") + ticks);
    msr!("CNTHP_CTL_EL2", 1);
    isb();
}
