//! One vCPU's processor where the guest is of AArch64: a few instructions, exceptions to EL1, debug
//! registers, the hypervisor's software step and the exclusive monitor, as the manual has them.
//!
//! Exceptions lead to [`VECTORS`], where [`Code::vectors`] puts handlers that count. Two encodings of
//! HLT, which no guest uses, stand for what would take a handler many instructions.

use trapline_arch::aarch64::control::Pstate;
use trapline_arch::aarch64::debug::{Beside, Breakpoint, DebugRegisters, LoadStore, Watchpoint};
use trapline_arch::aarch64::exception::{Esr, ExceptionClass, WatchpointSyndrome};
use trapline_arch::aarch64::paging::PagingState;
use trapline_arch::aarch64::registers::{
    self, CPSR, ELR_EL1, ESR_EL1, FAR_EL1, PC, SP, SPSR_EL1, VBAR_EL1,
};
use trapline_arch::{Architecture, Gpa, Gva, PhysicalMemory, RegisterId};
use trapline_engine::{Capabilities, Entry, GuestEnd, GuestMemory, VmExit};

use super::cpu::{Cpu, Host, STEP};
use super::memory::{self, Ram};

/// Where the vectors are, which take 2 KiB.
pub(crate) const VECTORS: u64 = 0xa000;

/// Counts an exception by the number of its vector: HLT #0 to #15.
const COUNT: u32 = 0xd440_0000;
/// Skips the instruction that ELR stands at: HLT #16.
const SKIP: u32 = 0xd440_0200;
pub(crate) const ERET: u32 = 0xd69f_03e0;
pub(crate) const NOP: u32 = 0xd503_201f;
pub(crate) const SVC: u32 = 0xd400_0001;
/// Ends the guest.
pub(crate) const HVC: u32 = 0xd400_0002;

/// PSTATE.SS, and its image in SPSR.
pub(crate) const SS: u64 = 1 << 21;

/// SPSR.M of EL1 with its own stack pointer.
const EL1H: u64 = 5;

/// The number of the vector of synchronous exceptions from EL1.
pub(crate) const FROM_EL1: usize = 4;

/// What only this architecture has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// The hypervisor steps: what is left to do of the step.
    step: Option<Step>,
    /// The address that the exclusive monitor has.
    monitor: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    NotPending,
    Pending,
}

/// What an instruction did.
enum Done {
    Ran,
    /// It has raised an exception to EL1, with itself done or not.
    Exception {
        iss: u32,
        class: ExceptionClass,
        far: Option<u64>,
    },
    Exit(VmExit),
}

#[derive(Clone, Copy)]
struct Access {
    address: u64,
    len_bytes: u64,
    kind: LoadStore,
}

/// Code of A64.
#[derive(Clone, Default)]
pub(crate) struct Code(Vec<u32>);

impl Code {
    pub(crate) fn of(words: &[u32]) -> memory::Code {
        Self(words.to_vec()).bytes()
    }

    fn bytes(&self) -> memory::Code {
        memory::Code(self.0.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// The vectors: synchronous exceptions other than SVC go on behind their instruction.
    pub(crate) fn vectors() -> memory::Code {
        let mut code = Self(vec![NOP; 0x800 / 4]);
        for vector in 0..16 {
            let at = vector * 0x20;
            code.0[at] = COUNT | (vector as u32) << 5;
            code.0[at + 1] = if vector % 4 == 0 { SKIP } else { NOP };
            code.0[at + 2] = ERET;
        }
        code.bytes()
    }
}

/// `str x{from}, [x{base}, #offset]`
pub(crate) const fn store(from: u32, base: u32, offset: u32) -> u32 {
    0xf900_0000 | (offset / 8) << 10 | base << 5 | from
}

/// `ldr x{to}, [x{base}, #offset]`
pub(crate) const fn load(to: u32, base: u32, offset: u32) -> u32 {
    0xf940_0000 | (offset / 8) << 10 | base << 5 | to
}

/// `ldp x{to}, x{to + 1}, [x{base}]`
pub(crate) const fn load_pair(to: u32, base: u32) -> u32 {
    0xa940_0000 | (to + 1) << 10 | base << 5 | to
}

/// `add x{to}, x{to}, #value`
pub(crate) const fn add(to: u32, value: u32) -> u32 {
    0x9100_0000 | value << 10 | to << 5 | to
}

/// `ldxr x{to}, [x{base}]`
pub(crate) const fn load_exclusive(to: u32, base: u32) -> u32 {
    0xc85f_7c00 | base << 5 | to
}

/// `stxr w{status}, x{from}, [x{base}]`
pub(crate) const fn store_exclusive(status: u32, from: u32, base: u32) -> u32 {
    0xc800_7c00 | status << 16 | base << 5 | from
}

/// `cbnz w{register}`, by instructions.
pub(crate) const fn branch_if(register: u32, words: i32) -> u32 {
    0x3500_0000 | (words as u32 & 0x7_ffff) << 5 | register
}

/// `b`, by instructions.
pub(crate) const fn branch(words: i32) -> u32 {
    0x1400_0000 | words as u32 & 0x3ff_ffff
}

pub(crate) const fn brk(comment: u32) -> u32 {
    0xd420_0000 | comment << 5
}

/// `msr daifclr, #2` and `msr daifset, #2`
pub(crate) const UNMASK: u32 = 0xd503_42ff;
pub(crate) const MASK: u32 = 0xd503_42df;

impl Cpu {
    pub(crate) fn new_arm(vcpu: usize) -> Self {
        let mut file = registers::file();
        file.set_u64(PC, memory::own_code(vcpu));
        file.set_u64(CPSR, 0x3c0 | EL1H);
        file.set_u64(SP, memory::STACKS + 0x1000 * (vcpu as u64 + 1));
        file.set_u64(VBAR_EL1, VECTORS);
        file.set_u64(registers::X1, memory::DATA);
        Self::with(Architecture::Aarch64, file)
    }

    pub(super) fn is_arm(&self) -> bool {
        self.architecture == Architecture::Aarch64
    }

    /// Returns a general-purpose register, of which number 31 is zero.
    pub(crate) fn x(&self, number: u32) -> u64 {
        let id = registers::x(number as u8);
        id.map_or(0, |id| self.file.u64(id))
    }

    fn set_x(&mut self, number: u32, value: u64) {
        if let Some(id) = registers::x(number as u8) {
            self.file.set_u64(id, value);
        }
    }

    pub(super) fn masks_interrupts(&self) -> bool {
        Pstate::read(&self.file).i()
    }

    fn level(&self) -> u64 {
        self.file.u64(CPSR) >> 2 & 0b11
    }

    pub(super) fn enter_arm(&mut self, entry: &Entry) {
        self.arm = State {
            step: entry.step.then_some(Step::NotPending),
            monitor: None,
        };
    }

    /// The debug registers in force, and whether what they raise leaves the guest.
    fn debug(&self, entry: &Entry, host: &Host) -> (DebugRegisters, bool) {
        let own = DebugRegisters::read(&self.file);
        let is_ours = entry.step || entry.has_patches || !entry.hardware.is_empty();
        if entry.hardware.is_empty() {
            return (own, is_ours);
        }
        let capabilities = Capabilities {
            hardware_breakpoints: host.slots,
            watchpoints: host.slots,
            ..Capabilities::NONE
        };
        let Beside {
            registers,
            left_out,
        } = entry.hardware.beside(&own, &capabilities);
        assert_eq!(left_out, 0, "a point of the debugger's is not in force");
        (registers, is_ours)
    }

    /// Executes until the next instruction boundary. The second value is the pc of an instruction
    /// that was executed.
    pub(super) fn run_arm(
        &mut self,
        ram: &Ram,
        entry: &Entry,
        host: &Host,
    ) -> (Option<VmExit>, Option<u64>) {
        if self.arm.step == Some(Step::Pending) {
            return (Some(STEP), None);
        }
        if self.takes_interrupt(entry, host.holds_interrupts) {
            self.interrupt = None;
            self.take(0x80, None);
            return ((self.arm.step.is_some()).then_some(STEP), None);
        }
        let (debug, is_ours) = self.debug(entry, host);
        let pc = self.pc();
        if debug.mdscr.mde() && debug.breakpoints.iter().any(|point| point.matches(Gva(pc))) {
            let exit = VmExit::HardwareBreakpoint;
            return (self.raise(0x30, 0x22, None, is_ours, exit), None);
        }
        let done = self.a64_instruction(ram, &debug, is_ours);
        let executed = !matches!(done, Done::Exit(_));
        let exit = match done {
            Done::Ran => None,
            Done::Exit(exit) => Some(exit),
            Done::Exception { class, iss, far } => {
                self.set_syndrome(class, iss, far);
                self.take(0, None);
                None
            }
        };
        if exit.is_none() && self.arm.step.is_some() {
            self.arm.step = Some(Step::Pending);
            return (Some(STEP), executed.then_some(pc));
        }
        (exit, executed.then_some(pc))
    }

    /// Raises a debug exception: out of the guest, or to EL1. `class` is that from a lower level.
    fn raise(
        &mut self,
        class: u8,
        iss: u32,
        far: Option<u64>,
        is_ours: bool,
        exit: VmExit,
    ) -> Option<VmExit> {
        if is_ours {
            return Some(exit);
        }
        let class = class | u8::from(self.level() == 1);
        self.set_syndrome(ExceptionClass::from_bits(class), iss, far);
        self.take(0, None);
        None
    }

    fn set_syndrome(&mut self, class: ExceptionClass, iss: u32, far: Option<u64>) {
        let esr = Esr::new().with_ec(class).with_il(true).with_iss(iss);
        self.file.set_u64(ESR_EL1, esr.into_bits());
        if let Some(far) = far {
            self.file.set_u64(FAR_EL1, far);
        }
    }

    /// Takes an exception to EL1. `kind` is the offset of its kind in the vectors.
    fn take(&mut self, kind: u64, after: Option<u64>) {
        let origin = if self.level() == 0 { 0x400 } else { 0x200 };
        let cpsr = self.file.u64(CPSR) & !SS;
        // An instruction that is not done saves the step, one that is (SVC) does not.
        let is_stepped = self.arm.step.is_some() && after.is_none();
        let saved = cpsr | if is_stepped { SS } else { 0 };
        self.file.set_u64(SPSR_EL1, saved);
        self.file.set_u64(ELR_EL1, after.unwrap_or(self.pc()));
        self.file.set_u64(CPSR, cpsr & !0xf | 0x3c0 | EL1H);
        self.file
            .set_u64(PC, self.file.u64(VBAR_EL1) + origin + kind);
        self.arm.monitor = None;
    }

    fn gpa(&self, ram: &Ram, address: u64) -> Option<Gpa> {
        let state = PagingState::from_registers(&self.file);
        let page = state.translate(ram, Gva(address)).ok()?;
        // What is not there raises an external abort, here an abort like any other.
        Some(page.gpa).filter(|gpa| gpa.0 < memory::LEN_BYTES)
    }

    fn a64_instruction(&mut self, ram: &Ram, debug: &DebugRegisters, is_ours: bool) -> Done {
        let pc = self.pc();
        let Some(word) = self.gpa(ram, pc).and_then(|gpa| ram.read_u32(gpa)) else {
            return self.abort(0x20, pc);
        };
        let next = pc + 4;
        let (to, base) = (word & 31, word >> 5 & 31);
        let signed =
            |value: u32, bits: u32| i64::from((value << (32 - bits)) as i32 >> (32 - bits));
        let mut target = next;
        match word {
            NOP => {}
            SVC => {
                self.set_syndrome(ExceptionClass::SVC64, 0, None);
                self.take(0, Some(next));
                return Done::Ran;
            }
            HVC => return Done::Exit(VmExit::Ended(GuestEnd::PowerOff)),
            ERET => {
                self.file.set_u64(CPSR, self.file.u64(SPSR_EL1));
                target = self.file.u64(ELR_EL1);
            }
            UNMASK => self.file.set_u64(CPSR, self.file.u64(CPSR) & !0x80),
            MASK => self.file.set_u64(CPSR, self.file.u64(CPSR) | 0x80),
            _ if word & 0xffe0_001f == 0xd420_0000 => {
                return Done::Exit(VmExit::BreakpointInstruction);
            }
            SKIP => self.file.set_u64(ELR_EL1, self.skipped()),
            _ if word & 0xffff_fe1f == COUNT => {
                let saved = self.file.u64(SPSR_EL1);
                assert_eq!(saved & SS, 0, "the guest's handler sees a step (rule R8)");
                let counter = memory::COUNTERS + 4 * u64::from(word >> 5 & 15);
                let count = ram.u32(counter) + 1;
                ram.put(counter, &count.to_le_bytes());
            }
            _ if word >> 26 == 0b00_0101 => target = pc.wrapping_add_signed(signed(word, 26) * 4),
            _ if word >> 24 == 0x35 => {
                if self.x(to) as u32 != 0 {
                    target = pc.wrapping_add_signed(signed(word >> 5, 19) * 4);
                }
            }
            _ if word >> 22 == 0x244 => {
                let value = self.x(base) + u64::from(word >> 10 & 0xfff);
                self.set_x(to, value);
            }
            _ => match self.a64_memory_instruction(ram, word, debug, is_ours) {
                Done::Ran => {}
                other => return other,
            },
        }
        self.file.set_u64(PC, target);
        Done::Ran
    }

    /// Where a handler returns to: behind an instruction that would raise the exception again. SVC
    /// returns there anyway.
    fn skipped(&self) -> u64 {
        let elr = self.file.u64(ELR_EL1);
        match Esr::from_bits(self.file.u64(ESR_EL1)).ec() {
            ExceptionClass::SVC64 => elr,
            _ => elr + 4,
        }
    }

    fn abort(&mut self, class: u8, address: u64) -> Done {
        Done::Exception {
            class: ExceptionClass::from_bits(class | u8::from(self.level() == 1)),
            iss: 0x7,
            far: Some(address),
        }
    }

    fn a64_memory_instruction(
        &mut self,
        ram: &Ram,
        word: u32,
        debug: &DebugRegisters,
        is_ours: bool,
    ) -> Done {
        let (to, base) = (word & 31, word >> 5 & 31);
        let address = self.x(base);
        let (offset, len_bytes, kind) = match word {
            _ if word >> 22 == 0x3e4 => (u64::from(word >> 10 & 0xfff) * 8, 8, LoadStore::Store),
            _ if word >> 22 == 0x3e5 => (u64::from(word >> 10 & 0xfff) * 8, 8, LoadStore::Load),
            _ if word >> 22 == 0x2a5 => (0, 16, LoadStore::Load),
            _ if word & 0xffff_fc00 == 0xc85f_7c00 => (0, 8, LoadStore::Load),
            _ if word & 0xffe0_fc00 == 0xc800_7c00 => (0, 8, LoadStore::Store),
            _ => {
                let class = ExceptionClass::UNKNOWN;
                let (iss, far) = (0, None);
                return Done::Exception { class, iss, far };
            }
        };
        let access = Access {
            address: address.wrapping_add(offset),
            len_bytes,
            kind,
        };
        let is_exclusive = word >> 24 == 0xc8;
        let is_failing = is_exclusive
            && kind == LoadStore::Store
            && self.arm.monitor.take() != Some(access.address);
        if is_failing {
            self.set_x(word >> 16 & 31, 1);
            return Done::Ran;
        }
        if let Some(done) = self.watch(&access, debug, is_ours) {
            return done;
        }
        let Some(gpa) = self.gpa(ram, access.address) else {
            return self.abort(0x24, access.address);
        };
        if kind == LoadStore::Store {
            ram.write_physical(gpa, &self.x(to).to_le_bytes());
        } else {
            let read = |offset| ram.read_u64(Gpa(gpa.0 + offset)).unwrap_or(0);
            self.set_x(to, read(0));
            if len_bytes == 16 {
                self.set_x(word >> 10 & 31, read(8));
            }
        }
        if is_exclusive {
            match kind {
                LoadStore::Store => self.set_x(word >> 16 & 31, 0),
                _ => self.arm.monitor = Some(access.address),
            }
        }
        Done::Ran
    }

    /// Looks at the watchpoints, before the access. FAR is the access's own address, which may be
    /// below the watched one.
    fn watch(&mut self, access: &Access, debug: &DebugRegisters, is_ours: bool) -> Option<Done> {
        let last = Gva(access.address + access.len_bytes - 1);
        let is_met = |slot: &Watchpoint| {
            slot.control.e()
                && slot.control.lsc().meets(access.kind)
                && slot.lowest_watched(Gva(access.address), last).is_some()
        };
        if !debug.mdscr.mde() || !debug.watchpoints.iter().any(is_met) {
            return None;
        }
        let iss = WatchpointSyndrome::new()
            .with_dfsc(0x22)
            .with_w_n_r(access.kind == LoadStore::Store)
            .into_bits();
        let class = ExceptionClass::from_bits(0x34 | u8::from(self.level() == 1));
        if !is_ours {
            let far = Some(access.address);
            return Some(Done::Exception { class, iss, far });
        }
        let syndrome = Esr::new().with_ec(class).with_il(true).with_iss(iss);
        Some(Done::Exit(VmExit::Watchpoint {
            address: Gva(access.address),
            syndrome: syndrome.into_bits(),
        }))
    }
}

/// Sets points of the guest's own: a breakpoint at `code`, and a watchpoint on the doubleword at
/// `data`.
pub(crate) fn set_own(cpu: &mut Cpu, code: Option<u64>, data: Option<u64>) {
    use trapline_arch::aarch64::debug::{WatchPiece, split_watch};
    let mut own = DebugRegisters::default();
    own.mdscr = own.mdscr.with_mde(true).with_kde(true);
    if let Some(code) = code {
        own.breakpoints[0] = Breakpoint::at(Gva(code));
    }
    if let Some(data) = data {
        let pieces: Vec<WatchPiece> = split_watch(Gva(data), 8, 1).unwrap();
        own.watchpoints[0] = Watchpoint::on(pieces[0], LoadStore::Both);
    }
    own.write(&mut cpu.file);
}

/// What the future depends on, where no scenario changes the rest.
pub(super) const IMPORTANT: [RegisterId; 5] = [PC, CPSR, SPSR_EL1, registers::X0, registers::X2];
