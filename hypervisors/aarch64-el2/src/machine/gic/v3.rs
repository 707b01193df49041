//! `GICv3`.

use alloc::vec::Vec;

use trapline_el2::distributor::{self, ICENABLER0, ISENABLER0, permitted};
use trapline_hypervisor::Span;

use super::{
    FIRST_LPI, MAINTENANCE, NONE_FROM, OWN_PRIORITY, OWN_PRIVATE, OWN_SGI, Queue, Seen, TIMER,
    send_to, take_sgis,
};
use crate::machine::lock::Lock;
use crate::machine::mmio::Mmio;
use crate::machine::sysreg::{dsb, isb, mrs, msr};

/// A redistributor has two frames of 64 KiB; one with virtual LPIs has four.
const FRAME_BYTES: u64 = 0x1_0000;
const TYPER: usize = 8;
const WAKER: usize = 0x14;
const SGI_FRAME: usize = 0x1_0000;
const IGROUPR0: usize = 0x80;
const ICACTIVER: usize = 0x380;
const IPRIORITYR: usize = 0x400;
/// `GICD_CTLR`: affinity routing and group 1, in the view of the non-secure state and of a controller with
/// one security state alike.
const CTLR_ARE_AND_GROUP_1: u32 = 1 << 4 | 1 << 5 | 1 << 1;
const CTLR_PENDING: u32 = 1 << 31;
const LR_HW: u64 = 1 << 61;
const LR_GROUP_1: u64 = 1 << 60;
const LR_PENDING: u64 = 1 << 62;
const LR_STATE: u64 = 0b11 << 62;
const HCR_EN: u64 = 1;
const HCR_UIE: u64 = 1 << 1;

/// What all processors share of the controller.
#[derive(Debug)]
pub(in crate::machine) struct Gic {
    distributor: Mmio,
    distributor_span: Span,
    redistributors: Vec<Redistributor>,
    /// Shared interrupts of the hypervisor's.
    own_shared: Vec<u32>,
    /// Who makes an access that reads first.
    accesses: Lock<()>,
}

#[derive(Clone, Copy, Debug)]
struct Redistributor {
    span: Span,
    registers: Mmio,
    affinity: u64,
}

/// Gives `$macro` the numbers and names of the list registers.
macro_rules! list_registers {
    ($macro:ident) => {
        $macro!(
            0 "S3_4_C12_C12_0", 1 "S3_4_C12_C12_1", 2 "S3_4_C12_C12_2", 3 "S3_4_C12_C12_3",
            4 "S3_4_C12_C12_4", 5 "S3_4_C12_C12_5", 6 "S3_4_C12_C12_6", 7 "S3_4_C12_C12_7",
            8 "S3_4_C12_C13_0", 9 "S3_4_C12_C13_1", 10 "S3_4_C12_C13_2", 11 "S3_4_C12_C13_3",
            12 "S3_4_C12_C13_4", 13 "S3_4_C12_C13_5", 14 "S3_4_C12_C13_6", 15 "S3_4_C12_C13_7"
        )
    };
}

fn read_list_register(number: u32) -> u64 {
    macro_rules! read {
        ($($n:literal $name:literal),+) => {
            match number { $($n => mrs!($name),)+ _ => 0 }
        };
    }
    list_registers!(read)
}

fn write_list_register(number: u32, value: u64) {
    macro_rules! write {
        ($($n:literal $name:literal),+) => {
            match number { $($n => msr!($name, value),)+ _ => () }
        };
    }
    list_registers!(write);
}

impl Gic {
    /// Takes the controller, and has the interrupts in `own_shared` come to the processor that runs
    /// this.
    ///
    /// # Safety
    /// The spans are the controller's, and mapped as devices.
    #[expect(unsafe_code, reason = "devices are where the device tree says")]
    pub(in crate::machine) unsafe fn new(
        distributor_span: Span,
        regions: &[Span],
        own_shared: Vec<u32>,
    ) -> Self {
        // SAFETY: the caller's promise.
        let map =
            |span: Span| unsafe { Mmio::new(to_usize(span.start), to_usize(span.len_bytes())) };
        let distributor = map(distributor_span);
        let mut redistributors = Vec::new();
        for region in regions {
            let mut start = region.start;
            while start + 2 * FRAME_BYTES <= region.end {
                let typer = map(Span::new(start, FRAME_BYTES)).read_64(TYPER);
                let frames = if typer & 2 != 0 { 4 } else { 2 };
                let span = Span::new(start, frames * FRAME_BYTES);
                redistributors.push(Redistributor {
                    span,
                    registers: map(span),
                    affinity: affinity_of_typer(typer),
                });
                start = span.end;
                if typer & 1 << 4 != 0 {
                    break;
                }
            }
        }
        let gic = Self {
            distributor,
            distributor_span,
            redistributors,
            own_shared,
            accesses: Lock::new(()),
        };
        gic.enable_own_shared();
        gic
    }

    fn enable_own_shared(&self) {
        let registers = self.distributor;
        let control = registers.read_32(0);
        registers.write_32(0, control | CTLR_ARE_AND_GROUP_1);
        self.wait_for_distributor();
        let here = mrs!("MPIDR_EL1") & 0xff_00ff_ffff;
        for interrupt in self.own_shared.iter().copied() {
            let (word, bit) = (interrupt as usize / 32 * 4, 1 << (interrupt % 32));
            let group = registers.read_32(IGROUPR0 + word);
            registers.write_32(IGROUPR0 + word, group | bit);
            registers.write_8(IPRIORITYR + interrupt as usize, OWN_PRIORITY);
            registers.write_64(0x6000 + 8 * interrupt as usize, here);
            registers.write_32(to_usize(ISENABLER0) + word, bit);
        }
    }

    fn wait_for_distributor(&self) {
        for _ in 0..1_000_000 {
            if self.distributor.read_32(0) & CTLR_PENDING == 0 {
                break;
            }
        }
    }

    /// Has the shared interrupts of the hypervisor's come to a processor, when the one they came to
    /// goes off, or has failed with one of them in its hands.
    pub(in crate::machine) fn route_to(&self, affinity: u64) {
        for interrupt in self.own_shared.iter().copied() {
            let (word, bit) = (interrupt as usize / 32 * 4, 1 << (interrupt % 32));
            self.distributor.write_32(ICACTIVER + word, bit);
            self.distributor
                .write_64(0x6000 + 8 * interrupt as usize, affinity);
        }
    }

    /// Calls a processor out of the guest.
    pub(in crate::machine) fn call(&self, affinity: u64) {
        let aff = |shift: u32| affinity >> shift & 0xff;
        let value = aff(32) << 48
            | aff(16) << 32
            | aff(8) << 16
            | (aff(0) >> 4) << 44
            | u64::from(OWN_SGI) << 24
            | 1 << (aff(0) & 0xf);
        dsb();
        msr!("S3_0_C12_C11_5", value);
        isb();
    }

    /// Carries out the guest's write to `ICC_SGI1R_EL1`: `processors` are all affinities, by number.
    pub(in crate::machine) fn send_sgi(&self, value: u64, here: usize, processors: &[u64]) {
        let field = |low: u32, bits: u32| value >> low & ((1 << bits) - 1);
        let mask = 1 << field(24, 4);
        let is_all_others = field(40, 1) != 0;
        let range = field(44, 4) * 16;
        let cluster = field(48, 8) << 32 | field(32, 8) << 16 | field(16, 8) << 8;
        for (number, affinity) in processors.iter().enumerate() {
            let is_target = if is_all_others {
                number != here
            } else {
                let low = affinity & 0xff;
                affinity & !0xff == cluster
                    && (range..range + 16).contains(&low)
                    && field(0, 16) >> (low - range) & 1 != 0
            };
            if is_target && send_to(number, mask) && number != here {
                self.call(*affinity);
            }
        }
    }

    /// Makes an access of the guest's to the controller. Returns what a read gives, or `None` if the
    /// address is not the controller's.
    pub(in crate::machine) fn access(
        &self,
        address: u64,
        len_bytes: u64,
        write: Option<u64>,
    ) -> Option<u64> {
        let _alone = self.accesses.lock();
        if self.distributor_span.contains(address) {
            let offset = address - self.distributor_span.start;
            return Some(self.access_distributor(offset, len_bytes, write));
        }
        let mut all = self.redistributors.iter();
        let found = all.find(|redistributor| redistributor.span.contains(address))?;
        let offset = address - found.span.start;
        Some(found.access(offset, len_bytes, write))
    }

    fn access_distributor(&self, offset: u64, len_bytes: u64, write: Option<u64>) -> u64 {
        let registers = self.distributor;
        let at = to_usize(offset);
        let Some(value) = write else {
            let value = registers.read_sized(at, len_bytes);
            return value & !distributor::guarded_bits(offset, len_bytes, &self.own_shared);
        };
        if offset == distributor::CTLR {
            // The distributor stays on for the hypervisor's own.
            let value = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
            registers.write_32(at, value | CTLR_ARE_AND_GROUP_1);
            return 0;
        }
        let now = registers.read_sized(at, len_bytes);
        let value = permitted(offset, len_bytes, value, now, &self.own_shared);
        registers.write_sized(at, len_bytes, value);
        0
    }

    /// Returns a processor's own part of the controller.
    pub(in crate::machine) fn interface(&self, number: usize) -> Option<Interface> {
        let affinity = mrs!("MPIDR_EL1") & 0xff_00ff_ffff;
        let mut all = self.redistributors.iter();
        let redistributor = all.find(|redistributor| redistributor.affinity == affinity)?;
        redistributor.wake();
        Some(Interface::new(number, *redistributor))
    }

    /// Returns whether an interrupt is the hypervisor's own.
    fn is_own_shared(&self, interrupt: u32) -> bool {
        self.own_shared.contains(&interrupt)
    }
}

impl Redistributor {
    fn wake(&self) {
        let registers = self.registers;
        registers.write_32(WAKER, registers.read_32(WAKER) & !0b10);
        for _ in 0..1_000_000 {
            if registers.read_32(WAKER) & 0b100 == 0 {
                break;
            }
        }
        for interrupt in OWN_PRIVATE {
            let bit = 1 << interrupt;
            let group = registers.read_32(SGI_FRAME + IGROUPR0);
            registers.write_32(SGI_FRAME + IGROUPR0, group | bit);
            registers.write_8(SGI_FRAME + IPRIORITYR + interrupt as usize, OWN_PRIORITY);
            registers.write_32(SGI_FRAME + to_usize(ISENABLER0), bit);
        }
    }

    fn access(&self, offset: u64, len_bytes: u64, write: Option<u64>) -> u64 {
        let at = to_usize(offset);
        let Some(in_frame) = offset
            .checked_sub(SGI_FRAME as u64)
            .filter(|in_frame| *in_frame < FRAME_BYTES)
        else {
            // The hypervisor's interrupts need an awake redistributor.
            return match write {
                Some(_) if at == WAKER => 0,
                Some(value) => {
                    self.registers.write_sized(at, len_bytes, value);
                    0
                }
                None => self.registers.read_sized(at, len_bytes),
            };
        };
        let now = self.registers.read_sized(at, len_bytes);
        match write {
            Some(value) => {
                let value = permitted(in_frame, len_bytes, value, now, &OWN_PRIVATE);
                self.registers.write_sized(at, len_bytes, value);
                0
            }
            // All interrupts between processors are virtual, and on.
            None if in_frame == ISENABLER0 || in_frame == ICENABLER0 => {
                now & !distributor::guarded_bits(in_frame, len_bytes, &OWN_PRIVATE) | 1 << OWN_SGI
            }
            None => now & !distributor::guarded_bits(in_frame, len_bytes, &OWN_PRIVATE),
        }
    }

    fn priority(&self, interrupt: u32) -> u64 {
        self.registers
            .read_8(SGI_FRAME + IPRIORITYR + interrupt as usize)
            .into()
    }
}

/// A processor's own part of the controller.
#[derive(Debug)]
pub(in crate::machine) struct Interface {
    number: usize,
    redistributor: Redistributor,
    list_registers: u32,
    queue: Queue,
}

impl Interface {
    fn new(number: usize, redistributor: Redistributor) -> Self {
        // ICC_SRE_EL2: system registers, for the guest too.
        msr!("S3_4_C12_C9_5", 0b1111);
        isb();
        msr!("S3_0_C12_C12_5", mrs!("S3_0_C12_C12_5") | 1);
        isb();
        // PMR, BPR1, CTLR.EOImode, IGRPEN1.
        msr!("S3_0_C4_C6_0", 0xff);
        msr!("S3_0_C12_C12_3", 0);
        msr!("S3_0_C12_C12_4", mrs!("S3_0_C12_C12_4") | 0b10);
        msr!("S3_0_C12_C12_7", 1);
        let list_registers =
            u32::try_from(mrs!("S3_4_C12_C11_1") & 0x1f).map_or(1, |last| last + 1);
        for number in 0..list_registers {
            write_list_register(number, 0);
        }
        // ICH_VMCR and ICH_HCR.
        msr!("S3_4_C12_C11_7", 0);
        msr!("S3_4_C12_C11_0", HCR_EN);
        isb();
        Self {
            number,
            redistributor,
            list_registers,
            queue: Queue::with_capacity(64),
        }
    }

    /// Takes what interrupts there are: the guest's into list registers, the hypervisor's as told.
    pub(in crate::machine) fn take(&mut self, gic: &Gic) -> (Seen, Option<u32>) {
        let mut seen = Seen::default();
        // As many as a processor can have, twice; what remains comes at once again.
        for _ in 0..64 {
            let interrupt = u32::try_from(mrs!("S3_0_C12_C12_0") & 0xff_ffff).unwrap_or(NONE_FROM);
            if (NONE_FROM..FIRST_LPI).contains(&interrupt) {
                break;
            }
            let priority = mrs!("S3_0_C12_C11_3") & 0xff;
            msr!("S3_0_C12_C12_1", u64::from(interrupt));
            match interrupt {
                OWN_SGI => self.deactivate(interrupt),
                MAINTENANCE => self.deactivate(interrupt),
                TIMER => {
                    msr!("CNTHP_CTL_EL2", 0);
                    isb();
                    self.deactivate(interrupt);
                    seen.is_for_hub = true;
                }
                // It is deactivated when the port was looked at: its line is a level.
                own if gic.is_own_shared(own) => return (Seen { is_for_hub: true }, Some(own)),
                _ => self.give(interrupt, priority),
            }
        }
        self.take_sgis();
        self.refill();
        (seen, None)
    }

    /// Ends an interrupt of the hypervisor's.
    pub(in crate::machine) fn deactivate(&self, interrupt: u32) {
        msr!("S3_0_C12_C11_1", u64::from(interrupt));
        isb();
    }

    /// Takes up interrupts between processors.
    pub(in crate::machine) fn take_sgis(&mut self) {
        let mut waiting = take_sgis(self.number);
        while waiting != 0 {
            let interrupt = waiting.trailing_zeros();
            waiting &= waiting - 1;
            self.give_software(interrupt);
        }
    }

    /// Signals nothing to the guest, or signals to it again (rule R6).
    pub(in crate::machine) fn hold(&self, is_held: bool) {
        let now = mrs!("S3_4_C12_C11_0");
        let wanted = if is_held { now & !HCR_EN } else { now | HCR_EN };
        if now != wanted {
            msr!("S3_4_C12_C11_0", wanted);
            isb();
        }
    }

    fn give(&mut self, interrupt: u32, priority: u64) {
        let is_lpi = interrupt >= FIRST_LPI;
        let link = if is_lpi {
            0
        } else {
            LR_HW | u64::from(interrupt) << 32
        };
        let value = u64::from(interrupt) | link | priority << 48 | LR_GROUP_1 | LR_PENDING;
        if is_lpi && self.make_pending(interrupt) {
            return;
        }
        match self.free() {
            Some(number) => write_list_register(number, value),
            None => self.wait(interrupt),
        }
    }

    fn give_software(&mut self, interrupt: u32) {
        if self.make_pending(interrupt) {
            return;
        }
        let priority = self.redistributor.priority(interrupt);
        let value = u64::from(interrupt) | priority << 48 | LR_GROUP_1 | LR_PENDING;
        match self.free() {
            Some(number) => write_list_register(number, value),
            None => self.wait(interrupt),
        }
    }

    /// Makes an interrupt pending that is in a list register already.
    fn make_pending(&self, interrupt: u32) -> bool {
        let mut numbers = 0..self.list_registers;
        let holds = |number: &u32| {
            let value = read_list_register(*number);
            value & LR_STATE != 0 && value & 0xffff_ffff == u64::from(interrupt)
        };
        let Some(number) = numbers.find(holds) else {
            return false;
        };
        write_list_register(number, read_list_register(number) | LR_PENDING);
        true
    }

    pub(in crate::machine) fn is_idle(&self) -> bool {
        let empty = mrs!("S3_4_C12_C11_5");
        (0..self.list_registers).all(|number| empty >> number & 1 != 0)
    }

    fn free(&self) -> Option<u32> {
        let empty = mrs!("S3_4_C12_C11_5");
        let mut numbers = 0..self.list_registers;
        numbers.find(|number| empty >> number & 1 != 0)
    }

    fn wait(&mut self, interrupt: u32) {
        if !self.queue.contains(&interrupt) {
            self.queue.push_back(interrupt);
        }
        msr!("S3_4_C12_C11_0", mrs!("S3_4_C12_C11_0") | HCR_UIE);
    }

    /// Puts what waits into list registers that have become free.
    fn refill(&mut self) {
        while !self.queue.is_empty() && self.free().is_some() {
            let Some(interrupt) = self.queue.pop_front() else {
                break;
            };
            if interrupt < 16 {
                self.give_software(interrupt);
            } else {
                let priority = if interrupt < 32 {
                    self.redistributor.priority(interrupt)
                } else {
                    0xa0
                };
                self.give(interrupt, priority);
            }
        }
        if self.queue.is_empty() {
            msr!("S3_4_C12_C11_0", mrs!("S3_4_C12_C11_0") & !HCR_UIE);
        }
    }
}

fn affinity_of_typer(typer: u64) -> u64 {
    let affinity = typer >> 32;
    affinity & 0xff_ffff | (affinity >> 24 & 0xff) << 32
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses have 64 bits here"
)]
const fn to_usize(value: u64) -> usize {
    value as usize
}
