//! `GICv2` with the virtualization extensions.
//!
//! The guest has the virtual CPU interface (GICV) where the device tree says the CPU interface (GICC) is. The
//! distributor knows processors by the numbers of their CPU interfaces; each tells its own when it comes up.
//!
//! An interrupt between processors carries the number of its sender, and the guest acknowledges each sender's
//! apart. A list register holds one; the next sender's of the same number waits for the end of that.
//!
//! QEMU's model (10.0) ends a linked interrupt without looking whether it has become pending again, and then
//! never signals it. There list registers are not linked, and the end comes to EL2.
//!
//! Source: Arm, "GIC Architecture Specification, GIC architecture version 2.0", "CPU interface register map",
//! "GIC virtual interface control registers".

mod interface;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use trapline_el2::distributor::{self, ICENABLER0, ISENABLER0, Sgir, permitted};
use trapline_hypervisor::Span;

use super::{OWN_PRIORITY, OWN_PRIVATE, OWN_SGI};
pub(in crate::machine) use interface::Interface;

use crate::machine::lock::Lock;
use crate::machine::mmio::Mmio;
use crate::machine::sysreg::{dsb, mrs};

/// The most CPU interfaces.
const INTERFACES: usize = 8;
/// Interrupts between processors.
const SGIS: u32 = 16;
/// No processor has this affinity.
const NOBODY: u64 = u64::MAX;

/// The affinities of the processors at the CPU interfaces.
static AFFINITIES: [AtomicU64; INTERFACES] = [const { AtomicU64::new(NOBODY) }; INTERFACES];
/// The interrupts between processors that wait: for each receiver and number, a bit for each sender.
static WAITING_SGIS: [[AtomicU8; SGIS as usize]; INTERFACES] =
    [const { [const { AtomicU8::new(0) }; SGIS as usize] }; INTERFACES];

/// Distributor registers.
mod gicd {
    pub(super) const IIDR: usize = 0x8;
    /// `GICD_IIDR` of QEMU's model: Arm as the implementer, and no product.
    pub(super) const IIDR_QEMU: u32 = 0x43b;
    pub(super) const ICACTIVER: usize = 0x380;
    pub(super) const IPRIORITYR: usize = 0x400;
    pub(super) const ITARGETSR: usize = 0x800;
    /// The targets of private interrupts: each processor reads its own interface's bit.
    pub(super) const OWN_TARGETS_END: u64 = 0x820;
    pub(super) const SGIR: usize = 0xf00;
    /// Which interrupts between processors wait: all of them are virtual.
    pub(super) const SGI_STATE: core::ops::Range<u64> = 0xf10..0xf30;
    /// `GICD_CTLR`: group 1 in the view of the non-secure state, and all of a controller without one.
    pub(super) const ENABLE: u64 = 1;
}

/// What all processors share of the controller.
#[derive(Debug)]
pub(in crate::machine) struct Gic {
    registers: Mmio,
    span: Span,
    cpu: Mmio,
    hypervisor: Mmio,
    /// The guest's end of an interrupt is the physical one's, too.
    has_links: bool,
    /// The hypervisor's own interrupts, shared and private.
    own: Vec<u32>,
    own_shared: Vec<u32>,
    /// Who makes an access that reads first.
    accesses: Lock<()>,
}

/// Where the parts of the controller are.
#[derive(Clone, Copy, Debug)]
pub(in crate::machine) struct Places {
    pub(in crate::machine) distributor: Span,
    pub(in crate::machine) cpu: Span,
    pub(in crate::machine) hypervisor: Span,
}

impl Gic {
    /// Takes the controller, and has the interrupts in `own_shared` come to the processor that runs
    /// this.
    ///
    /// # Safety
    /// The places are the controller's, and mapped as devices.
    #[expect(unsafe_code, reason = "devices are where the device tree says")]
    pub(in crate::machine) unsafe fn new(places: Places, own_shared: Vec<u32>) -> Self {
        // SAFETY: the caller's promise.
        let map =
            |span: Span| unsafe { Mmio::new(to_usize(span.start), to_usize(span.len_bytes())) };
        let registers = map(places.distributor);
        let gic = Self {
            registers,
            has_links: registers.read_32(gicd::IIDR) != gicd::IIDR_QEMU,
            span: places.distributor,
            cpu: map(places.cpu),
            hypervisor: map(places.hypervisor),
            own: OWN_PRIVATE
                .into_iter()
                .chain(own_shared.iter().copied())
                .collect(),
            own_shared,
            accesses: Lock::new(()),
        };
        let control = gic.registers.read_32(to_usize(distributor::CTLR));
        gic.registers
            .write_32(to_usize(distributor::CTLR), control | 1);
        gic.target(gic.own_bit());
        for interrupt in gic.own_shared.iter().copied() {
            gic.enable(interrupt);
        }
        gic
    }

    /// Returns the bit of this processor's CPU interface. With one processor alone the distributor names
    /// none.
    fn own_bit(&self) -> u8 {
        let targets = self.registers.read_32(gicd::ITARGETSR).to_le_bytes();
        match targets.into_iter().fold(0, |bits, byte| bits | byte) {
            0 => 1,
            bit => bit,
        }
    }

    /// Has the shared interrupts of the hypervisor's come to the CPU interface with that bit.
    fn target(&self, bit: u8) {
        for interrupt in &self.own_shared {
            let at = gicd::ITARGETSR + *interrupt as usize;
            self.registers.write_8(at, bit);
        }
    }

    fn enable(&self, interrupt: u32) {
        let at = interrupt as usize;
        self.registers.write_8(gicd::IPRIORITYR + at, OWN_PRIORITY);
        self.registers
            .write_32(to_usize(ISENABLER0) + at / 32 * 4, 1 << (interrupt % 32));
    }

    /// Has the shared interrupts of the hypervisor's come to a processor, when the one they came to
    /// goes off, or has failed with one of them in its hands.
    pub(in crate::machine) fn route_to(&self, affinity: u64) {
        for interrupt in self.own_shared.iter().copied() {
            let (word, bit) = (interrupt as usize / 32 * 4, 1 << (interrupt % 32));
            self.registers.write_32(gicd::ICACTIVER + word, bit);
        }
        if let Some(interface) = interface_of(affinity) {
            self.target(1 << interface);
        }
    }

    /// Calls a processor out of the guest.
    pub(in crate::machine) fn call(&self, affinity: u64) {
        if let Some(interface) = interface_of(affinity) {
            self.call_interface(interface);
        }
    }

    fn call_interface(&self, interface: usize) {
        let value = Sgir::new()
            .with_targets(1 << interface)
            .with_interrupt(OWN_SGI);
        dsb();
        self.registers.write_32(gicd::SGIR, value.into_bits());
    }

    /// Carries out the guest's write to `GICD_SGIR`.
    fn send_sgi(&self, value: Sgir) {
        let own_bit = self.own_bit();
        let sgi = value.interrupt() as usize;
        for (interface, waiting) in WAITING_SGIS.iter().enumerate() {
            let bit = 1 << interface;
            let Some(senders) = waiting
                .get(sgi)
                .filter(|_| value.receivers(own_bit) & bit != 0)
            else {
                continue;
            };
            let is_new = senders.fetch_or(own_bit, Ordering::SeqCst) & own_bit == 0;
            if is_new && bit != own_bit {
                self.call_interface(interface);
            }
        }
    }

    /// Makes an access of the guest's to the controller. Returns what a read gives, or `None` if the
    /// address is not the distributor's.
    pub(in crate::machine) fn access(
        &self,
        address: u64,
        len_bytes: u64,
        write: Option<u64>,
    ) -> Option<u64> {
        if !self.span.contains(address) {
            return None;
        }
        let _alone = self.accesses.lock();
        let offset = address - self.span.start;
        match write {
            Some(value) => {
                self.write(offset, len_bytes, value);
                Some(0)
            }
            None => Some(self.read(offset, len_bytes)),
        }
    }

    fn read(&self, offset: u64, len_bytes: u64) -> u64 {
        if gicd::SGI_STATE.contains(&offset) {
            return 0;
        }
        let value = self.registers.read_sized(to_usize(offset), len_bytes);
        if (gicd::ITARGETSR as u64..gicd::OWN_TARGETS_END).contains(&offset) {
            return value;
        }
        let value = value & !distributor::guarded_bits(offset, len_bytes, &self.own);
        // All interrupts between processors are virtual, and on.
        if offset == ISENABLER0 || offset == ICENABLER0 {
            value | 1 << OWN_SGI
        } else {
            value
        }
    }

    fn write(&self, offset: u64, len_bytes: u64, value: u64) {
        let at = to_usize(offset);
        if at == gicd::SGIR {
            let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
            self.send_sgi(Sgir::from_bits(value));
        } else if offset == distributor::CTLR {
            // The distributor stays on for the hypervisor's own.
            self.registers
                .write_sized(at, len_bytes, value | gicd::ENABLE);
        } else if !gicd::SGI_STATE.contains(&offset) {
            let now = self.registers.read_sized(at, len_bytes);
            let value = permitted(offset, len_bytes, value, now, &self.own);
            self.registers.write_sized(at, len_bytes, value);
        }
    }

    /// Returns a processor's own part of the controller.
    pub(in crate::machine) fn interface(&self) -> Option<Interface> {
        let number = self.own_bit().trailing_zeros() as usize;
        AFFINITIES.get(number)?.store(affinity(), Ordering::SeqCst);
        for interrupt in OWN_PRIVATE {
            self.enable(interrupt);
        }
        Some(Interface::new(number, self))
    }
}

fn affinity() -> u64 {
    mrs!("MPIDR_EL1") & 0xff_00ff_ffff
}

fn interface_of(affinity: u64) -> Option<usize> {
    let mut all = AFFINITIES.iter();
    all.position(|other| other.load(Ordering::SeqCst) == affinity)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses have 64 bits here"
)]
const fn to_usize(value: u64) -> usize {
    value as usize
}
