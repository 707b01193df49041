//! A processor's own part of a `GICv2`: its CPU interface, and the virtual one that the guest has.

use alloc::collections::VecDeque;
use core::sync::atomic::Ordering;

use bitfield_struct::bitfield;

use super::{Gic, SGIS, WAITING_SGIS, gicd};
use crate::machine::gic::{MAINTENANCE, NONE_FROM, OWN_SGI, Seen, TIMER};
use crate::machine::mmio::Mmio;
use crate::machine::sysreg::{isb, msr};

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
    pub(super) fn new(number: usize, gic: &Gic) -> Self {
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

    pub(in crate::machine) fn is_idle(&self) -> bool {
        (0..self.list_registers).all(|number| self.flag(gich::ELRSR, number))
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
