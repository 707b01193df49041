//! The engine behind its lock, and what processors know of each other.

use alloc::string::String;
use alloc::vec::Vec;

use spin::{Mutex, MutexGuard, Once};
use trapline_el2::psci;
use trapline_engine::{Capabilities, GuestEnd, Time};
use trapline_hypervisor::lanes::{Hub, Lanes, Platform};

use super::console::{self, say};
use super::gic::Gic;
use super::guest_memory::Ram;
use super::mmio::UartRegisters;
use super::sysreg::{isb, mrs, msr, smc};

/// The engine with the serial ports of this machine.
pub(super) type MachineHub = Hub<UartRegisters, Ram>;

static SHARED: Once<Shared> = Once::new();
static HUB: Once<Mutex<MachineHub>> = Once::new();

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
    HUB.call_once(|| Mutex::new(hub));
}

/// Takes the hub's lock, and gives it back when the guard goes.
pub(super) fn hub() -> MutexGuard<'static, MachineHub> {
    HUB.wait().lock()
}

/// Returns the number of the processor with that affinity.
pub(super) fn number_of(affinity: u64) -> Option<usize> {
    let mut all = shared().processors.iter();
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
