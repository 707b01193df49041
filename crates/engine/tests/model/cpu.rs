//! One vCPU's processor: instructions, exceptions, debug registers and the trap flag, as the
//! manuals have them.

use core::hash::Hash;
use core::slice;

use trapline_arch::x86_64::control::{Cr0, Cr4, Efer, Rflags};
use trapline_arch::x86_64::debug::{DebugRegisters, Dr6, Dr7, SlotKind};
use trapline_arch::x86_64::interrupts;
use trapline_arch::x86_64::paging::PagingState;
use trapline_arch::x86_64::registers::{
    self, IDTR_BASE, IDTR_LIMIT, LSTAR, RAX, RFLAGS, RIP, RSP, SFMASK,
};
use trapline_arch::x86_64::segment::{SegmentAttributes, SegmentRegister};
use trapline_arch::{Architecture, Gva, PhysicalMemory, RegisterFile};
use trapline_engine::{Entry, GuestEnd, GuestMemory, PointAccess, StepMethod, VmExit};

use super::aarch64;
use super::memory::{self, Ram};

/// RFLAGS.TF.
pub(super) const TF: u64 = 1 << 8;
/// RFLAGS.RF.
pub(super) const RF: u64 = 1 << 16;

/// What the hypervisor can do, as far as the processor is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    pub(crate) step: StepMethod,
    pub(crate) holds_interrupts: bool,
    pub(crate) notices: Notices,
    /// Of each kind, on AArch64.
    pub(crate) slots: u8,
}

/// When the hypervisor notices that the guest writes its debug registers beside the debugger's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notices {
    AtOnce,
    /// After this many instructions.
    After(u8),
}

#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(super) architecture: Architecture,
    pub(crate) file: RegisterFile,
    pub(crate) is_halted: bool,
    pub(crate) waits_for_start: bool,
    /// An interrupt that waits for IF.
    pub(crate) interrupt: Option<u8>,
    /// An exception that the debugger injects at the next entry.
    pub(crate) injected: Option<u8>,
    /// Debug traps and interrupts are held off for one instruction.
    pub(super) shadow: bool,
    pub(super) in_step: Option<Borrowed>,
    is_first: bool,
    /// After how many instructions a write to a debug register is noticed.
    pub(super) notice_in: Option<u8>,
    /// What only AArch64 has.
    pub(super) arm: aarch64::State,
}

/// The trap flag while the hypervisor has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Borrowed {
    guest_tf: bool,
    /// An exception was delivered, which cleared the flag.
    pub(super) is_spent: bool,
}

/// What an instruction did.
pub(super) enum Done {
    /// It ran; these are its data accesses.
    Ran(Vec<Access>),
    /// It raised an exception.
    Fault(u8, Option<u32>),
    /// It left the guest.
    Exit(VmExit),
}

#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) address: u64,
    pub(super) len_bytes: u64,
    pub(super) is_write: bool,
}

struct Slot {
    number: usize,
    address: u64,
    len_bytes: u64,
    access: PointAccess,
}

impl Cpu {
    pub(crate) fn new(vcpu: usize) -> Self {
        let mut file = registers::file();
        Cr0::new().with_pe(true).with_pg(true).write(&mut file);
        Cr4::new().with_pae(true).write(&mut file);
        Efer::new()
            .with_lme(true)
            .with_lma(true)
            .with_sce(true)
            .write(&mut file);
        file.set_u64(registers::CR3, memory::KERNEL_ROOT);
        file.set_u64(RFLAGS, 2);
        file.set_u64(RIP, memory::own_code(vcpu));
        file.set_u64(RSP, memory::STACKS + 0x1000 * (vcpu as u64 + 1));
        file.set_u64(IDTR_BASE, memory::IDT);
        file.set_u64(IDTR_LIMIT, 0xfff);
        file.set_u64(SFMASK, TF);
        file.set_u64(LSTAR, memory::handler(60));
        file.set_u64(registers::CS, 8);
        file.set_u64(registers::SS, 16);
        let code = SegmentAttributes::new()
            .with_type(11)
            .with_s(true)
            .with_p(true)
            .with_l(true);
        file.set_u64(registers::CS_ATTRIBUTES, code.into_bits().into());
        let stack = SegmentAttributes::new()
            .with_type(3)
            .with_s(true)
            .with_p(true);
        file.set_u64(registers::SS_ATTRIBUTES, stack.into_bits().into());
        DebugRegisters::default().write(&mut file);
        Self::with(Architecture::X86_64, file)
    }

    pub(super) fn with(architecture: Architecture, file: RegisterFile) -> Self {
        Self {
            architecture,
            file,
            is_halted: false,
            waits_for_start: false,
            interrupt: None,
            injected: None,
            shadow: false,
            in_step: None,
            is_first: false,
            notice_in: None,
            arm: aarch64::State::default(),
        }
    }

    /// What the future depends on, where no scenario changes the rest.
    pub(crate) fn important(&self) -> impl Hash + use<> {
        let registers = match self.architecture {
            Architecture::X86_64 => [RIP, RSP, RFLAGS, RAX, registers::DR6],
            Architecture::Aarch64 => aarch64::IMPORTANT,
        };
        let registers = registers.map(|id| self.file.u64(id));
        let step = self.in_step.map(|step| (step.guest_tf, step.is_spent));
        let waits = (self.is_halted, self.waits_for_start, self.shadow);
        (
            registers,
            step,
            waits,
            self.interrupt,
            self.injected,
            (self.is_first, self.notice_in),
        )
    }

    pub(crate) fn pc(&self) -> u64 {
        self.file.u64(self.architecture.pc_register())
    }

    /// Returns whether the vCPU would do anything if it were scheduled.
    pub(crate) fn has_work(&self, entry: &Entry) -> bool {
        !self.waits_for_start
            && (!self.is_halted || entry.step || self.takes_interrupt(entry, true))
    }

    pub(crate) fn set_user(&mut self) {
        let attributes = SegmentRegister::Ss.attributes(&self.file).with_dpl(3);
        self.file
            .set_u64(registers::SS_ATTRIBUTES, attributes.into_bits().into());
    }

    /// The hypervisor's part of a VM entry.
    pub(crate) fn enter(&mut self, entry: &Entry, host: &Host) {
        self.is_first = true;
        if self.architecture == Architecture::Aarch64 {
            return self.enter_arm(entry);
        }
        if entry.step && host.step == StepMethod::TrapFlag {
            self.in_step = Some(Borrowed {
                guest_tf: self.flag(TF),
                is_spent: false,
            });
            self.set_flag(TF, true);
        }
    }

    /// The hypervisor's part of a VM exit.
    pub(crate) fn leave(&mut self) {
        self.notice_in = None;
        self.arm = aarch64::State::default();
        if let Some(borrowed) = self.in_step.take() {
            self.set_flag(TF, borrowed.guest_tf && !borrowed.is_spent);
        }
    }

    /// Executes until the next instruction boundary. The second value is the pc of an instruction
    /// that was executed.
    pub(crate) fn run(
        &mut self,
        ram: &Ram,
        entry: &Entry,
        host: &Host,
    ) -> (Option<VmExit>, Option<u64>) {
        if self.architecture == Architecture::Aarch64 {
            return self.run_arm(ram, entry, host);
        }
        let traps_step = entry.step && host.step == StepMethod::MonitorTrap;
        let after_event = traps_step.then_some(STEP);
        if let Some(vector) = self.injected.take() {
            self.is_first = false;
            return (self.deliver(ram, vector, None).or(after_event), None);
        }
        if self.takes_interrupt(entry, host.holds_interrupts) {
            let vector = self.interrupt.take().unwrap();
            self.is_halted = false;
            return (self.deliver(ram, vector, None).or(after_event), None);
        }
        if self.is_halted {
            return (entry.step.then_some(STEP), None);
        }
        if self.notice_in == Some(0) {
            self.notice_in = None;
            return (Some(VmExit::DebugRegistersChanged), None);
        }
        let pc = self.pc();
        let slots = self.slots(entry);
        let passes = self.shadow || self.flag(RF) || (entry.pass_first && self.is_first);
        let executed = |slot: &&Slot| slot.access == PointAccess::Execute && slot.address == pc;
        let met = bits(slots.iter().filter(executed));
        if met != 0 && !passes {
            return (Some(debug(false, met)), None);
        }
        let watches = !entry.step && !entry.hardware.is_empty();
        if watches && self.accesses_debug_register(ram) {
            match host.notices {
                Notices::AtOnce => return (Some(VmExit::DebugRegisterAccess), None),
                Notices::After(count) => self.notice_in = Some(count),
            }
        } else if let Some(count) = &mut self.notice_in {
            *count -= 1;
        }
        self.is_first = false;
        let had_tf = self.flag(TF);
        self.shadow = false;
        match self.execute(ram) {
            Done::Exit(VmExit::BreakpointInstruction) => {
                (Some(VmExit::BreakpointInstruction), None)
            }
            Done::Exit(exit) => (Some(exit), Some(pc)),
            Done::Fault(vector, code) => {
                (self.deliver(ram, vector, code).or(after_event), Some(pc))
            }
            Done::Ran(accesses) => {
                self.set_flag(RF, false);
                let hit = bits(slots.iter().filter(|slot| slot.is_hit(&accesses)));
                let is_step = (had_tf && !self.shadow) || traps_step;
                let is_debug = is_step || (hit != 0 && !self.shadow);
                (is_debug.then_some(debug(is_step, hit)), Some(pc))
            }
        }
    }

    /// Whether the next instruction is a MOV to a debug register.
    fn accesses_debug_register(&self, ram: &Ram) -> bool {
        self.read(ram, self.pc(), 2) == Ok(0x230f)
    }

    pub(super) fn takes_interrupt(&self, entry: &Entry, holds: bool) -> bool {
        let is_held = holds && entry.hold_interrupts;
        if self.architecture == Architecture::Aarch64 {
            return self.interrupt.is_some() && !self.masks_interrupts() && !is_held;
        }
        self.interrupt.is_some() && Rflags::read(&self.file).r#if() && !self.shadow && !is_held
    }

    fn slots(&self, entry: &Entry) -> Vec<Slot> {
        if !entry.hardware.is_empty() {
            let slot = |(number, point): (usize, trapline_engine::HardwarePoint)| Slot {
                number,
                address: point.address.0,
                len_bytes: point.len_bytes,
                access: point.access,
            };
            return entry.hardware.iter().map(slot).collect();
        }
        let own = DebugRegisters::read(&self.file).slots();
        let slots = own.into_iter().enumerate().filter_map(|(number, slot)| {
            let slot = slot?;
            Some(Slot {
                number,
                address: slot.address.0,
                len_bytes: slot.length.bytes(),
                access: match slot.kind {
                    SlotKind::Execute => PointAccess::Execute,
                    SlotKind::Write => PointAccess::Write,
                    _ => PointAccess::ReadWrite,
                },
            })
        });
        slots.collect()
    }

    fn flag(&self, flag: u64) -> bool {
        self.file.u64(RFLAGS) & flag != 0
    }

    pub(super) fn set_flag(&mut self, flag: u64, on: bool) {
        let flags = self.file.u64(RFLAGS);
        let flags = if on { flags | flag } else { flags & !flag };
        self.file.set_u64(RFLAGS, flags);
    }

    /// Sets what the guest will find in DR6.
    pub(crate) fn note_debug_cause(&mut self, cause: u64) {
        let status = Dr6::read(&self.file).into_bits() | cause;
        self.file.set_u64(registers::DR6, status);
    }

    /// Delivers an event; returns an exit if the processor cannot.
    pub(super) fn deliver(&mut self, ram: &Ram, vector: u8, code: Option<u32>) -> Option<VmExit> {
        let state = PagingState::from_registers(&self.file);
        let gate = interrupts::gate(&self.file, vector, &mut |address, buffer: &mut [u8]| {
            let at = state.translate(ram, address).map(|found| found.gpa);
            at.is_ok_and(|gpa| ram.read_physical(gpa, buffer) == buffer.len())
        });
        let Ok(gate) = gate else {
            return Some(VmExit::Ended(GuestEnd::TripleFault));
        };
        let flags = self.file.u64(RFLAGS);
        let (sp, pc) = (self.file.u64(RSP), self.pc());
        let mut frame = vec![16, sp, flags, 8, pc];
        frame.extend(code.map(u64::from));
        for value in frame {
            if self.push(ram, value).is_err() {
                return Some(VmExit::Ended(GuestEnd::TripleFault));
            }
        }
        self.set_flag(TF | RF | 1 << 9, false);
        if vector == 1 {
            Dr7::read(&self.file).with_gd(false).write(&mut self.file);
        }
        if let Some(borrowed) = &mut self.in_step {
            borrowed.is_spent = true;
        }
        self.file.set_u64(RIP, gate.handler.0);
        None
    }

    fn translate(&self, ram: &Ram, address: u64) -> Result<trapline_arch::Gpa, u64> {
        let state = PagingState::from_registers(&self.file);
        let found = state.translate(ram, Gva(address)).map_err(|_| address)?;
        Ok(found.gpa)
    }

    /// Reads one value byte by byte, or returns the address that faults.
    pub(super) fn read(&self, ram: &Ram, address: u64, len_bytes: usize) -> Result<u64, u64> {
        let mut bytes = [0; 8];
        for (offset, byte) in bytes.iter_mut().take(len_bytes).enumerate() {
            let address = address.wrapping_add(offset as u64);
            let gpa = self.translate(ram, address)?;
            if ram.read_physical(gpa, slice::from_mut(byte)) != 1 {
                return Err(address);
            }
        }
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn write(
        &self,
        ram: &Ram,
        address: u64,
        value: u64,
        len_bytes: usize,
    ) -> Result<(), u64> {
        for (offset, byte) in value.to_le_bytes().iter().take(len_bytes).enumerate() {
            let address = address.wrapping_add(offset as u64);
            let gpa = self.translate(ram, address)?;
            ram.write_physical(gpa, &[*byte]);
        }
        Ok(())
    }

    pub(super) fn push(&mut self, ram: &Ram, value: u64) -> Result<(), u64> {
        let sp = self.file.u64(RSP).wrapping_sub(8);
        self.write(ram, sp, value, 8)?;
        self.file.set_u64(RSP, sp);
        Ok(())
    }

    pub(super) fn pop(&mut self, ram: &Ram) -> Result<u64, u64> {
        let sp = self.file.u64(RSP);
        let value = self.read(ram, sp, 8)?;
        self.file.set_u64(RSP, sp.wrapping_add(8));
        Ok(value)
    }
}

pub(super) const STEP: VmExit = VmExit::Debug {
    step: true,
    slots: 0,
    data_address: None,
};

pub(super) fn debug(step: bool, slots: u32) -> VmExit {
    VmExit::Debug {
        step,
        slots,
        data_address: None,
    }
}

fn bits<'a>(slots: impl Iterator<Item = &'a Slot>) -> u32 {
    slots.fold(0, |bits, slot| bits | 1 << slot.number)
}

impl Slot {
    fn is_hit(&self, accesses: &[Access]) -> bool {
        accesses.iter().any(|access| {
            let touches = self.address < access.address + access.len_bytes
                && access.address < self.address + self.len_bytes;
            touches
                && match self.access {
                    PointAccess::Execute => false,
                    PointAccess::Write => access.is_write,
                    PointAccess::Read | PointAccess::ReadWrite => true,
                }
        })
    }
}
