//! Interrupts.
//!
//! All physical interrupts come to EL2. The guest's are acknowledged, their priority is dropped, and they
//! go into a list register that is linked to the physical interrupt, so that the guest's own end of
//! interrupt deactivates it: one exit for an interrupt, none for its end.
//!
//! Interrupts between processors never leave the hypervisor: the one that sends them says so in a word of
//! the target's, and one physical interrupt of the hypervisor's own ([`OWN_SGI`]) brings the target out.
//! The same one is the debugger's kick.
//!
//! Interrupts that find no list register wait in a queue until one is free.
//!
//! Source: Arm, "GIC Architecture Specification, `GICv3` and `GICv4`", "Interrupt handling and prioritization"
//! and "Virtual interrupt handling and prioritization".

mod v2;
mod v3;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use trapline_hypervisor::Span;
use trapline_hypervisor::board::Gic as GicNode;

use super::MAX_PROCESSORS;

/// The interrupt by which the hypervisor's processors call each other. Numbers from 8 on are secure by
/// custom; the guest's own interrupt of this number is virtual, like all of these.
pub(super) const OWN_SGI: u32 = 7;

/// The maintenance interrupt, by the architecture's recommendation.
pub(super) const MAINTENANCE: u32 = 25;

/// The interrupt of EL2's physical timer.
pub(super) const TIMER: u32 = 26;

/// The hypervisor's own interrupts of each processor.
pub(super) const OWN_PRIVATE: [u32; 3] = [OWN_SGI, MAINTENANCE, TIMER];

/// The priority of the hypervisor's own interrupts.
const OWN_PRIORITY: u8 = 0x80;

/// Interrupt numbers from here on mean that there is none.
const NONE_FROM: u32 = 1020;

/// Message-signalled interrupts.
const FIRST_LPI: u32 = 8192;

/// The interrupts between processors that wait for each, a bit for each number.
static WAITING_SGIS: [AtomicU32; MAX_PROCESSORS] = [const { AtomicU32::new(0) }; MAX_PROCESSORS];

/// What an interrupt at EL2 was about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// A serial port of the hypervisor's, or its timer: the hub is to be served.
    pub(super) is_for_hub: bool,
}

/// Interrupts that wait for a list register.
pub(super) type Queue = VecDeque<u32>;

/// What all processors share of the controller.
#[derive(Debug)]
pub(super) enum Gic {
    V2(v2::Gic),
    V3(v3::Gic),
}

impl Gic {
    /// Takes the controller, and has the interrupts in `own_shared` come to the processor that runs
    /// this.
    ///
    /// # Safety
    /// The node is of the machine's device tree, and all of it is mapped as devices.
    #[expect(unsafe_code, reason = "devices are where the device tree says")]
    pub(super) unsafe fn new(node: &GicNode, own_shared: Vec<u32>) -> Self {
        match node {
            GicNode::V2 {
                distributor,
                cpu,
                hypervisor,
                ..
            } => {
                let places = v2::Places {
                    distributor: *distributor,
                    cpu: *cpu,
                    hypervisor: *hypervisor,
                };
                // SAFETY: the caller's promise.
                Self::V2(unsafe { v2::Gic::new(places, own_shared) })
            }
            GicNode::V3 {
                distributor,
                redistributors,
            } => {
                // SAFETY: the caller's promise.
                Self::V3(unsafe { v3::Gic::new(*distributor, redistributors, own_shared) })
            }
        }
    }

    /// Has the shared interrupts of the hypervisor's come to a processor, when the one they came to
    /// goes off.
    pub(super) fn route_to(&self, affinity: u64) {
        match self {
            Self::V2(gic) => gic.route_to(affinity),
            Self::V3(gic) => gic.route_to(affinity),
        }
    }

    /// Calls a processor out of the guest.
    pub(super) fn call(&self, affinity: u64) {
        match self {
            Self::V2(gic) => gic.call(affinity),
            Self::V3(gic) => gic.call(affinity),
        }
    }

    /// Carries out the guest's write to `ICC_SGI1R_EL1`: `processors` are all affinities, by number.
    pub(super) fn send_sgi(&self, value: u64, here: usize, processors: &[u64]) {
        match self {
            // There is no such register: the guest has sent nothing.
            Self::V2(_) => (),
            Self::V3(gic) => gic.send_sgi(value, here, processors),
        }
    }

    /// Makes an access of the guest's to the controller. Returns what a read gives, or `None` if the
    /// address is not the controller's.
    pub(super) fn access(&self, address: u64, len_bytes: u64, write: Option<u64>) -> Option<u64> {
        match self {
            Self::V2(gic) => gic.access(address, len_bytes, write),
            Self::V3(gic) => gic.access(address, len_bytes, write),
        }
    }

    /// Returns a processor's own part of the controller; `number` is the processor's.
    pub(super) fn interface(&self, number: usize) -> Option<Interface> {
        match self {
            Self::V2(gic) => gic.interface().map(Interface::V2),
            Self::V3(gic) => gic.interface(number).map(Interface::V3),
        }
    }
}

/// A processor's own part of the controller.
#[derive(Debug)]
pub(super) enum Interface {
    V2(v2::Interface),
    V3(v3::Interface),
}

impl Interface {
    /// Takes what interrupts there are: the guest's into list registers, the hypervisor's as told.
    /// The second value is one of the hypervisor's that is to be [deactivated](Self::deactivate) when
    /// what it is for was done.
    pub(super) fn take(&mut self, gic: &Gic) -> (Seen, Option<u32>) {
        match (self, gic) {
            (Self::V2(interface), Gic::V2(gic)) => interface.take(gic),
            (Self::V3(interface), Gic::V3(gic)) => interface.take(gic),
            _ => (Seen::default(), None),
        }
    }

    /// Ends an interrupt of the hypervisor's.
    pub(super) fn deactivate(&self, interrupt: u32) {
        match self {
            Self::V2(interface) => interface.deactivate(interrupt),
            Self::V3(interface) => interface.deactivate(interrupt),
        }
    }

    /// Takes up interrupts between processors.
    pub(super) fn take_sgis(&mut self) {
        match self {
            Self::V2(interface) => interface.take_sgis(),
            Self::V3(interface) => interface.take_sgis(),
        }
    }

    /// Returns whether no interrupt is pending or active for the guest.
    pub(super) fn is_idle(&self) -> bool {
        match self {
            Self::V2(interface) => interface.is_idle(),
            Self::V3(interface) => interface.is_idle(),
        }
    }

    /// Signals nothing to the guest, or signals to it again (rule R6).
    pub(super) fn hold(&self, is_held: bool) {
        match self {
            Self::V2(interface) => interface.hold(is_held),
            Self::V3(interface) => interface.hold(is_held),
        }
    }
}

/// Marks interrupts of `mask` as sent to a processor. Returns whether it has to be called.
fn send_to(processor: usize, mask: u32) -> bool {
    WAITING_SGIS
        .get(processor)
        .is_some_and(|word| word.fetch_or(mask, Ordering::SeqCst) & mask != mask)
}

/// Takes the interrupts between processors that wait for one.
fn take_sgis(processor: usize) -> u32 {
    let word = WAITING_SGIS.get(processor);
    word.map_or(0, |word| word.swap(0, Ordering::SeqCst))
}

/// Returns what of the controller is kept from the guest: the hypervisor makes its accesses, or they go
/// [elsewhere](redirection).
pub(super) fn guarded_spans(node: &GicNode) -> Vec<Span> {
    match node {
        GicNode::V3 {
            distributor,
            redistributors,
        } => {
            let mut spans = alloc::vec![*distributor];
            spans.extend(redistributors.iter().copied());
            spans
        }
        GicNode::V2 {
            distributor,
            cpu,
            hypervisor,
            ..
        } => alloc::vec![*distributor, *cpu, *hypervisor],
    }
}

/// Returns where the guest finds something else than is there: the virtual CPU interface in place of the
/// processor's.
pub(super) fn redirection(node: &GicNode) -> Option<(Span, u64)> {
    match node {
        GicNode::V3 { .. } => None,
        GicNode::V2 {
            cpu, virtual_cpu, ..
        } => {
            let len_bytes = cpu.len_bytes().min(virtual_cpu.len_bytes());
            Some((Span::new(cpu.start, len_bytes), virtual_cpu.start))
        }
    }
}
