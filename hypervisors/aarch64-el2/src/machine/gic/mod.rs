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

mod v3;

use alloc::collections::VecDeque;
use core::sync::atomic::{AtomicU32, Ordering};

use trapline_hypervisor::Span;
use trapline_hypervisor::board::Gic as GicNode;

pub(super) use v3::{Gic, Interface};

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

/// Returns what of the controller is kept from the guest: its accesses are made by the hypervisor.
pub(super) fn guarded_spans(node: &GicNode) -> alloc::vec::Vec<Span> {
    match node {
        GicNode::V3 {
            distributor,
            redistributors,
        } => {
            let mut spans = alloc::vec![*distributor];
            spans.extend(redistributors.iter().copied());
            spans
        }
        GicNode::V2 { distributor, .. } => alloc::vec![*distributor],
    }
}
