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

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bitfield_struct::bitfield;
use spin::Mutex;
use trapline_el2::distributor::{self, ICENABLER0, ISENABLER0, Sgir, permitted};
use trapline_hypervisor::Span;

use super::{MAINTENANCE, NONE_FROM, OWN_PRIORITY, OWN_PRIVATE, OWN_SGI, Seen, TIMER};
use crate::machine::mmio::Mmio;
use crate::machine::sysreg::{dsb, isb, mrs, msr};

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

/// CPU interface registers.
mod gicc {
    pub(super) const CTLR: usize = 0x0;
    pub(super) const PMR: usize = 0x4;
    pub(super) const BPR: usize = 0x8;
    pub(super) const IAR: usize = 0xc;
    pub(super) const EOIR: usize = 0x10;
    pub(super) const RPR: usize = 0x14;
    pub(super) const DIR: usize = 0x1000;
    /// How interrupts pass a CPU interface that is off, which firmware has chosen.
    pub(super) const CTLR_BYPASS: u32 = 0x1e0;
    /// On, and the end of an interrupt only drops its priority.
    pub(super) const CTLR_ENABLE_AND_EOI_MODE: u32 = 1 | 1 << 9;
}

/// Virtual interface control registers.
mod gich {
    pub(super) const HCR: usize = 0x0;
    pub(super) const VTR: usize = 0x4;
    pub(super) const VMCR: usize = 0x8;
    pub(super) const EISR: usize = 0x20;
    pub(super) const ELRSR: usize = 0x30;
    pub(super) const APR: usize = 0xf0;
    pub(super) const LR: usize = 0x100;
    pub(super) const HCR_EN: u32 = 1;
    pub(super) const HCR_UIE: u32 = 1 << 1;
}

/// A list register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
struct ListRegister {
    /// The interrupt, as the guest sees it.
    #[bits(10)]
    interrupt: u32,
    /// The physical interrupt that it is linked to. Without a link: bits 0 to 2 are an SGI's sender, bit 9
    /// asks for a maintenance interrupt at its end.
    #[bits(10)]
    link: u32,
    #[bits(3)]
    __: u8,
    /// The upper bits of its priority.
    #[bits(5)]
    priority: u8,
    is_pending: bool,
    is_active: bool,
    is_group_1: bool,
    is_linked: bool,
}

const LINK_TELL_END: u32 = 1 << 9;

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
    accesses: Mutex<()>,
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
            accesses: Mutex::new(()),
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
    /// goes off.
    pub(in crate::machine) fn route_to(&self, affinity: u64) {
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

/// An interrupt that is for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given {
    interrupt: u32,
    /// An SGI's sender.
    sender: Option<u32>,
    priority: u8,
}

impl Given {
    fn list_register(self, has_links: bool) -> ListRegister {
        let link = match self.sender {
            Some(sender) => sender,
            None if has_links => self.interrupt,
            None => LINK_TELL_END,
        };
        ListRegister::new()
            .with_interrupt(self.interrupt)
            .with_link(link)
            .with_is_linked(has_links && self.sender.is_none())
            .with_priority(self.priority >> 3)
            .with_is_pending(true)
    }
}

/// A processor's own part of the controller.
#[derive(Debug)]
pub(in crate::machine) struct Interface {
    number: usize,
    distributor: Mmio,
    cpu: Mmio,
    hypervisor: Mmio,
    list_registers: usize,
    has_links: bool,
    queue: VecDeque<Given>,
}

impl Interface {
    fn new(number: usize, gic: &Gic) -> Self {
        let (cpu, hypervisor) = (gic.cpu, gic.hypervisor);
        let list_registers = hypervisor.read_32(gich::VTR) as usize & 0x3f;
        let interface = Self {
            number,
            distributor: gic.registers,
            cpu,
            hypervisor,
            list_registers: list_registers + 1,
            has_links: gic.has_links,
            queue: VecDeque::with_capacity(64),
        };
        for number in 0..interface.list_registers {
            interface.set_list_register(number, ListRegister::new());
        }
        hypervisor.write_32(gich::VMCR, 0);
        hypervisor.write_32(gich::APR, 0);
        hypervisor.write_32(gich::HCR, gich::HCR_EN);
        cpu.write_32(gicc::PMR, 0xff);
        cpu.write_32(gicc::BPR, 0);
        let bypass = cpu.read_32(gicc::CTLR) & gicc::CTLR_BYPASS;
        cpu.write_32(gicc::CTLR, bypass | gicc::CTLR_ENABLE_AND_EOI_MODE);
        interface
    }

    /// Takes what interrupts there are: the guest's into list registers, the hypervisor's as told.
    pub(in crate::machine) fn take(&mut self, gic: &Gic) -> (Seen, Option<u32>) {
        let mut seen = Seen::default();
        // As many as a processor can have, twice; what remains comes at once again.
        for _ in 0..64 {
            let acknowledged = self.cpu.read_32(gicc::IAR);
            let (interrupt, sender) = (acknowledged & 0x3ff, acknowledged >> 10 & 7);
            if interrupt >= NONE_FROM {
                break;
            }
            let priority = self.cpu.read_32(gicc::RPR).to_le_bytes()[0];
            self.cpu.write_32(gicc::EOIR, acknowledged);
            match interrupt {
                MAINTENANCE => {
                    self.clear_ended();
                    self.refill();
                    self.deactivate(acknowledged);
                }
                TIMER => {
                    msr!("CNTHP_CTL_EL2", 0);
                    isb();
                    self.deactivate(acknowledged);
                    seen.is_for_hub = true;
                }
                OWN_SGI => self.deactivate(acknowledged),
                sgi if sgi < SGIS => {
                    self.deactivate(acknowledged);
                    self.give_software(sgi, sender);
                }
                // It is deactivated when the port was looked at: its line is a level.
                own if gic.own_shared.contains(&own) => {
                    return (Seen { is_for_hub: true }, Some(own));
                }
                interrupt => self.give(Given {
                    interrupt,
                    sender: None,
                    priority,
                }),
            }
        }
        self.take_sgis();
        self.refill();
        (seen, None)
    }

    /// Ends an interrupt of the hypervisor's, as it was acknowledged.
    pub(in crate::machine) fn deactivate(&self, acknowledged: u32) {
        self.cpu.write_32(gicc::DIR, acknowledged);
    }

    /// Takes up interrupts between processors.
    pub(in crate::machine) fn take_sgis(&mut self) {
        let Some(waiting) = WAITING_SGIS.get(self.number) else {
            return;
        };
        for (sgi, senders) in (0..).zip(waiting) {
            if senders.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let senders = senders.swap(0, Ordering::SeqCst);
            for sender in (0..8).filter(|sender| senders >> sender & 1 != 0) {
                self.give_software(sgi, sender);
            }
        }
    }

    /// Signals nothing to the guest, or signals to it again (rule R6).
    pub(in crate::machine) fn hold(&self, is_held: bool) {
        let now = self.hypervisor.read_32(gich::HCR);
        let wanted = if is_held {
            now & !gich::HCR_EN
        } else {
            now | gich::HCR_EN
        };
        if now != wanted {
            self.hypervisor.write_32(gich::HCR, wanted);
        }
    }

    fn give_software(&mut self, sgi: u32, sender: u32) {
        let priority = self.distributor.read_8(gicd::IPRIORITYR + sgi as usize);
        self.give(Given {
            interrupt: sgi,
            sender: Some(sender),
            priority,
        });
    }

    fn give(&mut self, given: Given) {
        if given
            .sender
            .is_some_and(|sender| self.merges(given.interrupt, sender))
        {
            return;
        }
        let same = self
            .holder_of(given.interrupt)
            .filter(|_| given.sender.is_some());
        match self.free().filter(|_| same.is_none()) {
            Some(number) => self.set_list_register(number, given.list_register(self.has_links)),
            None => self.wait(given, same),
        }
    }

    /// Makes an SGI pending that is in a list register, from the same sender, already.
    fn merges(&self, sgi: u32, sender: u32) -> bool {
        let Some(number) = self.holder_of(sgi) else {
            return false;
        };
        let now = self.list_register(number);
        let is_same = now.link() & !LINK_TELL_END == sender;
        if is_same {
            self.set_list_register(number, now.with_is_pending(true));
        }
        is_same
    }

    /// Returns the list register that holds an interrupt that has not ended.
    fn holder_of(&self, interrupt: u32) -> Option<usize> {
        let mut numbers = 0..self.list_registers;
        numbers.find(|number| {
            let register = self.list_register(*number);
            register.interrupt() == interrupt && (register.is_pending() || register.is_active())
        })
    }

    fn wait(&mut self, given: Given, same: Option<usize>) {
        if !self.queue.contains(&given) {
            self.queue.push_back(given);
        }
        match same {
            Some(number) => {
                let now = self.list_register(number);
                self.set_list_register(number, now.with_link(now.link() | LINK_TELL_END));
            }
            None => self.want_underflow(true),
        }
    }

    fn want_underflow(&self, is_wanted: bool) {
        let now = self.hypervisor.read_32(gich::HCR);
        let wanted = if is_wanted {
            now | gich::HCR_UIE
        } else {
            now & !gich::HCR_UIE
        };
        if now != wanted {
            self.hypervisor.write_32(gich::HCR, wanted);
        }
    }

    /// Empties list registers whose interrupt has ended and that were to tell so.
    fn clear_ended(&self) {
        for number in 0..self.list_registers {
            if !self.flag(gich::EISR, number) {
                continue;
            }
            let ended = self.list_register(number).interrupt();
            self.set_list_register(number, ListRegister::new());
            if ended >= SGIS {
                self.deactivate(ended);
            }
        }
    }

    /// Puts what waits into list registers that have become free.
    fn refill(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        self.want_underflow(false);
        // What still finds no place goes to the end of the queue, and asks to be told again.
        for _ in 0..self.queue.len() {
            if let Some(given) = self.queue.pop_front() {
                self.give(given);
            }
        }
    }

    fn free(&self) -> Option<usize> {
        (0..self.list_registers).find(|number| self.flag(gich::ELRSR, *number))
    }

    /// Reads a list register's bit in a pair of status registers.
    fn flag(&self, registers: usize, number: usize) -> bool {
        let bits = self.hypervisor.read_32(registers + number / 32 * 4);
        bits >> (number % 32) & 1 != 0
    }

    fn list_register(&self, number: usize) -> ListRegister {
        ListRegister::from_bits(self.hypervisor.read_32(gich::LR + 4 * number))
    }

    fn set_list_register(&self, number: usize, value: ListRegister) {
        self.hypervisor
            .write_32(gich::LR + 4 * number, value.into_bits());
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses have 64 bits here"
)]
const fn to_usize(value: u64) -> usize {
    value as usize
}
