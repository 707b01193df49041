//! What the guest came out for, and what is done about it.

use alloc::boxed::Box;

use trapline_arch::aarch64::debug::{
    Breakpoint, Dbgbcr, Dbgwcr, DebugRegisters, Mdscr, Watchpoint,
};
use trapline_arch::aarch64::delivery::take_to_el1;
use trapline_arch::aarch64::exception::{Esr, ExceptionClass};
use trapline_arch::{Architecture, Gva, RegisterFile, RegisterGroup};
use trapline_el2::psci::{self, Call};
use trapline_el2::tables::Kept;
use trapline_el2::trap::{DataAbort, SystemRegisterAccess, Trap};
use trapline_engine::{GuestEnd, VmExit};

use super::console::say;
use super::gic::Interface;
use super::hub::{self, shared};
use super::registers::{self, Frame, Optional, PSTATE_SS};
use super::sysreg::{isb, mrs, msr, wfi};
use super::{power, stage2};

/// The most messages about what the guest must not touch.
const MAX_REPORTS: u32 = 16;

/// `HCR_EL2`: 64-bit guests, SMC trapped, interrupts to EL2, pointer authentication and allocation tags
/// left to the guest, stage 2 on.
const HCR: u64 = 1 << 56 | 1 << 41 | 1 << 40 | 1 << 31 | 1 << 19 | 1 << 4 | 1 << 3 | 1;

/// `HCR_EL2`: WFI and WFE come out.
pub(super) const HCR_WAITS: u64 = 1 << 14 | 1 << 13;

/// The fault status of an external abort.
const EXTERNAL_ABORT: u32 = 0b01_0000;

/// What came of a trap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The instruction is to be executed again.
    Again,
    /// The instruction was carried out here.
    Done,
    /// It is the engine's matter.
    Exit(VmExit),
}

/// One processor as the hypervisor has it.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) index: usize,
    pub(super) frame: Frame,
    pub(super) interface: Option<Interface>,
    pub(super) optional: Optional,
    /// The guest's debug registers: those of the processor are the hypervisor's.
    pub(super) debug: DebugRegisters,
    is_os_locked: bool,
    /// The processor's debug registers no longer are what they should be.
    pub(super) is_debug_stale: bool,
    /// For what is done with all registers.
    scratch: Box<RegisterFile>,
    reports: u32,
}

impl Context {
    /// Sets a processor up at EL2 for the guest's EL1.
    pub(super) fn new(index: usize) -> Self {
        set_up();
        stage2::switch_on();
        Self {
            index,
            frame: Frame::default(),
            interface: shared().gic.interface(index),
            optional: Optional::probe(),
            debug: DebugRegisters::default(),
            is_os_locked: false,
            is_debug_stale: true,
            scratch: Box::new(Architecture::Aarch64.new_register_file()),
            reports: 0,
        }
    }

    /// Returns the guest's debug registers as far as they are in force.
    pub(super) fn guest_debug(&self) -> DebugRegisters {
        if self.is_os_locked {
            return DebugRegisters {
                mdscr: self.debug.mdscr.with_ss(false),
                ..DebugRegisters::default()
            };
        }
        self.debug.in_force()
    }

    /// Takes a synchronous exception.
    pub(super) fn handle(&mut self) -> Outcome {
        let esr = Esr::from_bits(mrs!("ESR_EL2"));
        let far = Gva(mrs!("FAR_EL2"));
        match Trap::from_esr(esr) {
            Trap::DataAbort(abort) => self.data_abort(abort, far, esr),
            Trap::InstructionAbort => {
                let address = fault_address(far);
                match stage2::map_around(address) {
                    Ok(Kept::Mapped) => Outcome::Again,
                    _ => self.refuse(address, "execute", esr, far),
                }
            }
            Trap::SystemRegister(access) => self.system_register(access),
            Trap::SecureMonitorCall => self.firmware_call(),
            Trap::Wait => {
                self.advance();
                Outcome::Done
            }
            Trap::BreakpointInstruction => Outcome::Exit(VmExit::BreakpointInstruction),
            Trap::Breakpoint => Outcome::Exit(VmExit::HardwareBreakpoint),
            Trap::Watchpoint => Outcome::Exit(VmExit::Watchpoint {
                address: far,
                syndrome: esr.into_bits(),
            }),
            Trap::Step => Outcome::Exit(VmExit::Debug {
                step: true,
                slots: 0,
                data_address: None,
            }),
            // There is nobody whom it could call; the instruction is behind the guest already.
            Trap::HypervisorCall => {
                self.frame.x[0] = psci::NOT_SUPPORTED;
                self.frame.pstate &= !PSTATE_SS;
                Outcome::Done
            }
            Trap::Unexpected(class) => {
                let pc = self.frame.pc;
                self.report(format_args!("{class} at {pc:#x} is not known"));
                let unknown = Esr::new().with_ec(ExceptionClass::UNKNOWN).with_il(true);
                self.deliver(unknown, None);
                Outcome::Done
            }
        }
    }

    /// Goes past the instruction that was trapped.
    fn advance(&mut self) {
        self.frame.pc = self.frame.pc.wrapping_add(4);
        self.frame.pstate &= !PSTATE_SS;
    }

    fn x(&self, number: u8) -> u64 {
        self.frame.x.get(usize::from(number)).copied().unwrap_or(0)
    }

    fn set_x(&mut self, number: u8, value: u64) {
        if let Some(register) = self.frame.x.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    fn data_abort(&mut self, abort: DataAbort, far: Gva, esr: Esr) -> Outcome {
        let address = fault_address(far);
        if abort.isv() && !abort.s1ptw() {
            let len_bytes = 1 << abort.sas();
            let value = abort.w_n_r().then(|| self.x(abort.srt()));
            if let Some(read) = shared().gic.access(address, len_bytes, value) {
                if value.is_none() {
                    self.set_x(abort.srt(), abort.extended(read));
                }
                self.advance();
                return Outcome::Done;
            }
        }
        let kept = abort.is_translation().then(|| stage2::map_around(address));
        match kept {
            Some(Ok(Kept::Mapped)) => Outcome::Again,
            _ => {
                let what = if abort.w_n_r() { "write" } else { "read" };
                self.refuse(address, what, esr, far)
            }
        }
    }

    /// Has the guest find nothing at an address: an external abort.
    fn refuse(&mut self, address: u64, what: &str, esr: Esr, far: Gva) -> Outcome {
        let pc = self.frame.pc;
        self.report(format_args!(
            "the guest was not let {what} physical {address:#x} (pc {pc:#x})"
        ));
        let is_lower = self.frame.pstate & 0b1100 == 0;
        let is_fetch = esr.ec() == ExceptionClass::INSTRUCTION_ABORT_LOWER;
        let class = match (is_fetch, is_lower) {
            (true, true) => ExceptionClass::INSTRUCTION_ABORT_LOWER,
            (true, false) => ExceptionClass::INSTRUCTION_ABORT_SAME,
            (false, true) => ExceptionClass::DATA_ABORT_LOWER,
            (false, false) => ExceptionClass::DATA_ABORT_SAME,
        };
        let write = esr.iss() & 1 << 6;
        let syndrome = Esr::new()
            .with_ec(class)
            .with_il(true)
            .with_iss(EXTERNAL_ABORT | write);
        self.deliver(syndrome, Some(far));
        Outcome::Done
    }

    pub(super) fn report(&mut self, text: core::fmt::Arguments<'_>) {
        self.reports = self.reports.saturating_add(1);
        if self.reports < MAX_REPORTS {
            say!("{text}");
        } else if self.reports == MAX_REPORTS {
            say!(
                "{text}; further messages of processor {} are left out",
                self.index
            );
        }
    }

    /// Delivers an exception to the guest's EL1.
    fn deliver(&mut self, esr: Esr, far: Option<Gva>) {
        let groups = [
            RegisterGroup::General,
            RegisterGroup::System,
            RegisterGroup::Msr,
        ];
        for group in groups {
            registers::load(
                group,
                &self.frame,
                &self.debug,
                self.optional,
                &mut self.scratch,
            );
        }
        take_to_el1(&mut self.scratch, esr, far);
        for group in [RegisterGroup::System, RegisterGroup::General] {
            let (frame, debug) = (&mut self.frame, &mut self.debug);
            registers::store(group, frame, debug, self.optional, &self.scratch);
        }
    }

    fn firmware_call(&mut self) -> Outcome {
        let x = &self.frame.x;
        let call = Call::from_registers([x[0], x[1], x[2], x[3]]);
        let answer = match call {
            Call::SystemOff => return Outcome::Exit(VmExit::Ended(GuestEnd::PowerOff)),
            Call::SystemReset => return Outcome::Exit(VmExit::Ended(GuestEnd::Reset)),
            Call::Suspend => {
                self.stand_by();
                psci::SUCCESS
            }
            Call::Hidden => psci::NOT_SUPPORTED,
            Call::Off => {
                self.advance();
                let answer = power::turn_off(self);
                self.frame.x[0] = answer;
                return Outcome::Done;
            }
            Call::On {
                target,
                entry,
                context,
            } => power::turn_on(target, entry, context),
            Call::Features { function } if psci::is_hidden(function) => psci::NOT_SUPPORTED,
            Call::Features { .. } | Call::Other => {
                self.forward();
                self.advance();
                return Outcome::Done;
            }
        };
        self.frame.x[0] = answer;
        self.advance();
        Outcome::Done
    }

    /// Waits for an interrupt as the guest's own WFI would, which in a step is complete at once.
    fn stand_by(&self) {
        const MDSCR_SS: u64 = 1;
        let is_stepping = mrs!("MDSCR_EL1") & MDSCR_SS != 0;
        let is_idle = self.interface.as_ref().is_some_and(Interface::is_idle);
        if is_idle && !is_stepping {
            wfi();
        }
    }

    /// Passes a call on to firmware, with all registers that such calls have.
    fn forward(&mut self) {
        let mut call = [0; 18];
        call.copy_from_slice(&self.frame.x[..18]);
        super::sysreg::smc(&mut call);
        self.frame.x[..18].copy_from_slice(&call);
    }

    fn system_register(&mut self, access: SystemRegisterAccess) -> Outcome {
        let name = (
            access.op0(),
            access.op1(),
            access.crn(),
            access.crm(),
            access.op2(),
        );
        let value = self.x(access.rt());
        match name {
            // ICC_SGI1R_EL1
            (3, 0, 12, 11, 5) if !access.is_read() => {
                let shared = shared();
                shared.gic.send_sgi(value, self.index, &shared.processors);
            }
            (2, ..) if access.is_read() => {
                let value = self.read_debug_register(access);
                self.set_x(access.rt(), value);
            }
            (2, ..) => self.write_debug_register(access, value),
            _ => {
                let pc = self.frame.pc;
                self.report(format_args!("access to {name:?} at {pc:#x} is not known"));
                let unknown = Esr::new().with_ec(ExceptionClass::UNKNOWN).with_il(true);
                self.deliver(unknown, None);
                return Outcome::Done;
            }
        }
        self.advance();
        Outcome::Done
    }

    /// Registers that are neither here nor below read as zero.
    fn read_debug_register(&self, access: SystemRegisterAccess) -> u64 {
        let number = usize::from(access.crm());
        let breakpoint = self.debug.breakpoints.get(number);
        let watchpoint = self.debug.watchpoints.get(number);
        match (access.op1(), access.crn(), access.crm(), access.op2()) {
            (0, 0, _, 4) => breakpoint.map_or(0, |slot| slot.value),
            (0, 0, _, 5) => breakpoint.map_or(0, |slot| slot.control.into_bits()),
            (0, 0, _, 6) => watchpoint.map_or(0, |slot| slot.value),
            (0, 0, _, 7) => watchpoint.map_or(0, |slot| slot.control.into_bits()),
            (0, 0, 2, 2) => self.debug.mdscr.into_bits(),
            // OSLSR: the lock is implemented.
            (0, 1, 1, 4) => 0b1000 | u64::from(self.is_os_locked) << 1,
            // DBGCLAIMSET: all 8 tags.
            (0, 7, 8, 6) => 0xff,
            (0, 7, 14, 6) => mrs!("DBGAUTHSTATUS_EL1"),
            _ => 0,
        }
    }

    fn write_debug_register(&mut self, access: SystemRegisterAccess, value: u64) {
        let number = usize::from(access.crm());
        let breakpoints: &mut [Breakpoint] = &mut self.debug.breakpoints;
        let watchpoints: &mut [Watchpoint] = &mut self.debug.watchpoints;
        let capabilities = &shared().capabilities;
        let has_breakpoint = access.crm() < capabilities.hardware_breakpoints;
        let has_watchpoint = access.crm() < capabilities.watchpoints;
        match (access.op1(), access.crn(), access.crm(), access.op2()) {
            (0, 0, _, 4) if has_breakpoint => breakpoints[number].value = value,
            (0, 0, _, 5) if has_breakpoint => {
                breakpoints[number].control = Dbgbcr::from_bits(value);
            }
            (0, 0, _, 6) if has_watchpoint => watchpoints[number].value = value,
            (0, 0, _, 7) if has_watchpoint => {
                watchpoints[number].control = Dbgwcr::from_bits(value);
            }
            (0, 0, 2, 2) => self.debug.mdscr = Mdscr::from_bits(value),
            // OSLAR
            (0, 1, 0, 4) => self.is_os_locked = value & 1 != 0,
            _ => return,
        }
        self.is_debug_stale = true;
    }
}

/// Returns the guest-physical address of a fault of stage 2.
fn fault_address(far: Gva) -> u64 {
    (mrs!("HPFAR_EL2") & 0x0fff_ffff_fff0) << 8 | far.0 & 0xfff
}

/// Sets EL2's control registers of this processor.
fn set_up() {
    let midr = mrs!("MIDR_EL1");
    msr!("VPIDR_EL2", midr);
    msr!("VMPIDR_EL2", mrs!("MPIDR_EL1"));
    msr!("HSTR_EL2", 0);
    // Neither floating point nor SVE nor SME is trapped; the other bits are reserved as 1.
    msr!("CPTR_EL2", 0x22ff);
    msr!("CNTHCTL_EL2", 0b11);
    msr!("CNTVOFF_EL2", 0);
    msr!("CNTHP_CTL_EL2", 0);
    set_up_extensions();
    // All debug exceptions and accesses to debug registers come to EL2; all counters of the performance
    // monitors, profiling and trace buffers are the guest's.
    let counters = match mrs!("ID_AA64DFR0_EL1") >> 8 & 0xf {
        0 | 0xf => 0,
        _ => mrs!("PMCR_EL0") >> 11 & 0x1f,
    };
    msr!("MDCR_EL2", counters | 0b1111 << 8 | 0b11 << 12 | 0b11 << 24);
    msr!("OSLAR_EL1", 0);
    // EL1 begins with its MMU and caches off.
    msr!("SCTLR_EL1", 0x30d0_0800);
    msr!("VBAR_EL1", 0);
    msr!("CPACR_EL1", 0);
    msr!("CNTKCTL_EL1", 0);
    msr!("HCR_EL2", HCR);
    isb();
}

/// Lets the guest use what only newer processors have and would trap.
fn set_up_extensions() {
    let has = |register: u64, low: u32| register >> low & 0xf != 0;
    let (pfr0, pfr1) = (mrs!("ID_AA64PFR0_EL1"), mrs!("ID_AA64PFR1_EL1"));
    if has(pfr0, 32) {
        // ZCR_EL2: the longest vectors.
        msr!("S3_4_C1_C2_0", 0xf);
    }
    if has(pfr1, 24) {
        // SMCR_EL2, with FA64 and ZT0.
        msr!("S3_4_C1_C2_6", 0xf | 1 << 31 | 1 << 30);
    }
    if has(mrs!("ID_AA64MMFR1_EL1"), 40) {
        // HCRX_EL2: 64-byte accesses, memory copies, TCR2, SCTLR2, GCS, FPMR.
        msr!(
            "S3_4_C1_C2_2",
            0b111 | 1 << 11 | 1 << 14 | 1 << 15 | 1 << 22 | 1 << 23
        );
    }
    if has(mrs!("ID_AA64MMFR0_EL1"), 56) {
        // HFGRTR_EL2, HFGWTR_EL2, HFGITR_EL2, HDFGRTR_EL2, HDFGWTR_EL2: the fields that trap when 0.
        let registers = 1 << 50 | 0xfff << 52;
        msr!("S3_4_C1_C1_4", registers);
        msr!("S3_4_C1_C1_5", registers);
        msr!("S3_4_C1_C1_6", 0x3f << 55);
        msr!("S3_4_C3_C1_4", 0xf << 59);
        msr!("S3_4_C3_C1_5", 0xf << 59);
    }
    isb();
}

/// Returns `HCR_EL2` for an entry.
pub(super) const fn hcr(waits_come_out: bool) -> u64 {
    if waits_come_out { HCR | HCR_WAITS } else { HCR }
}

/// Serves what an interrupt was for.
pub(super) fn take_interrupts(interface: &mut Option<Interface>) {
    let Some(interface) = interface else {
        return;
    };
    let (seen, own) = interface.take(&shared().gic);
    if seen.is_for_hub || hub::take_wish() {
        hub::serve();
    }
    if let Some(own) = own {
        interface.deactivate(own);
    }
}
