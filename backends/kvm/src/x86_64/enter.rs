//! Entering the guest: from an [`Entry`] to the [`VmExit`] that answers it.

use std::time::Instant;

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_debug_exit_arch};
use trapline_arch::x86_64::control::Rflags;
use trapline_arch::x86_64::debug::{Dr6, Dr7};
use trapline_arch::x86_64::paging::PagingState;
use trapline_arch::{Architecture, Gva};
use trapline_engine::{Entry, GuestEnd, VmExit};
use vmm_sys_util::errno;

use super::device::{self, RunExit};
use super::guest_debug::{Arming, Mode};
use super::vcpu::KvmVcpu;
use super::{registers, sregs};
use crate::bus::{AfterExit, RUN_ERROR};
use crate::gate::Admission;
use crate::run::{Entered, Surroundings};

/// The vector of #BP.
const BREAKPOINT_VECTOR: u32 = 3;
/// The opcode of `int3`.
const BREAKPOINT_OPCODE: u8 = 0xcc;
/// The opcode of `int1`, which raises #DB without a bit in DR6.
const INT1_OPCODE: u8 = 0xf1;

/// How often one instruction is re-entered until it is complete. KVM does at most 1,024 elements of
/// a string instruction at a time, and an access of up to 64 bytes takes 8 exits.
const MAX_COMPLETIONS: usize = 16_384;

/// A step that has ended, without a hit of any slot.
const STEPPED: VmExit = VmExit::Debug {
    step: true,
    slots: 0,
    data_address: None,
};

impl KvmVcpu {
    /// Enters the guest as `entry` says and stays until there is something for the debugger.
    ///
    /// If the vCPU is asked to stop, it comes out once the instruction it is in is complete.
    pub(crate) fn enter(&mut self, entry: &Entry, around: &Surroundings<'_>) -> Entered {
        if let Some(end) = self.ended {
            return Entered::Exit(VmExit::Ended(end));
        }
        self.enter_passing(entry, around).unwrap_or_else(|error| {
            let code = RUN_ERROR.saturating_add(error.errno().unsigned_abs().into());
            Entered::Exit(self.end(GuestEnd::InternalError(code)))
        })
    }

    /// Returns whether it has to be looked from time to time, as [`enter`](Self::enter) does whenever
    /// a signal comes, what the guest's own debug registers are.
    pub(crate) fn must_look_out(&self, entry: &Entry) -> bool {
        Mode::of(entry, &self.traits).must_look()
    }

    /// Gets past execution breakpoints on the first instruction, if the entry asks for that.
    fn enter_passing(
        &mut self,
        entry: &Entry,
        around: &Surroundings<'_>,
    ) -> Result<Entered, errno::Error> {
        let mode = Mode::of(entry, &self.traits);
        if !entry.pass_first || mode.slots().is_none() {
            return self.run(&mode, around);
        }
        let pc = self.linear_pc()?;
        if !mode.executes_at(pc) {
            self.run(&mode, around)
        } else if mode.steps {
            self.run(&mode.without_execution_at(pc), around)
        } else if self.traits.honours_resume_flag && !mode.executes_behind(pc) {
            self.pass_by_flag(&mode, pc, around)
        } else {
            self.pass_by_step(&mode, pc, around)
        }
    }

    /// Passes the breakpoint at the pc as the processor provides for: by RFLAGS.RF.
    ///
    /// The processor clears the flag with the instruction. KVM, where it emulates the instruction,
    /// does not, so a breakpoint on the very next instruction would be passed as well.
    fn pass_by_flag(
        &mut self,
        mode: &Mode,
        pc: Gva,
        around: &Surroundings<'_>,
    ) -> Result<Entered, errno::Error> {
        let before = self.registers()?;
        let mut passing = before;
        passing.rflags = with_resume_flag(before.rflags, true);
        self.set_registers(&passing)?;
        let entered = self.run(mode, around)?;
        let mut after = self.registers()?;
        let not_executed = after.rip == before.rip && resume_flag(after.rflags);
        if !not_executed || resume_flag(before.rflags) {
            return Ok(entered);
        }
        after.rflags = with_resume_flag(after.rflags, false);
        self.set_registers(&after)?;
        match entered {
            // KVM is about to emulate the instruction, and its emulator does not look at the flag.
            Entered::Exit(VmExit::Debug {
                step: false, slots, ..
            }) if slots != 0 => self.pass_by_step(mode, pc, around),
            Entered::Exit(_) | Entered::Expired => Ok(entered),
        }
    }

    /// Passes the breakpoint at the pc by a step without it.
    fn pass_by_step(
        &mut self,
        mode: &Mode,
        pc: Gva,
        around: &Surroundings<'_>,
    ) -> Result<Entered, errno::Error> {
        let step = mode.without_execution_at(pc).as_step(&self.traits);
        match self.run(&step, around)? {
            Entered::Exit(STEPPED) => self.run(mode, around),
            Entered::Exit(VmExit::Debug {
                slots,
                data_address,
                ..
            }) => Ok(Entered::Exit(VmExit::Debug {
                step: false,
                slots,
                data_address,
            })),
            entered => Ok(entered),
        }
    }

    fn run(&mut self, mode: &Mode, around: &Surroundings<'_>) -> Result<Entered, errno::Error> {
        // A device has answered, and the instruction that asked is not complete.
        let mut incomplete = false;
        loop {
            if around
                .deadline
                .is_some_and(|deadline| self.halted || Instant::now() >= deadline)
            {
                return Ok(Entered::Expired);
            }
            if self.halted {
                if around.gate.wait_halted(self.id) == Admission::Stopped {
                    return Ok(Entered::Exit(VmExit::Interrupted));
                }
                self.halted = false;
            }
            let arming = self.arm(mode)?;
            if around.gate.enter(self.id) == Admission::Stopped {
                let exit = if incomplete {
                    self.complete(AfterExit::Resume, mode, around)?
                } else {
                    None
                };
                return Ok(Entered::Exit(exit.unwrap_or(VmExit::Interrupted)));
            }
            let exit = self.run_once(mode, arming, around)?;
            incomplete = matches!(exit, RunExit::Device(_));
            if let Some(exit) = self.conclude(exit, mode, around)? {
                return Ok(Entered::Exit(exit));
            }
        }
    }

    /// Calls `KVM_RUN` once.
    fn run_once(
        &mut self,
        mode: &Mode,
        arming: Arming,
        around: &Surroundings<'_>,
    ) -> Result<RunExit, errno::Error> {
        let Some(control) = around.gate.control(self.id) else {
            return Err(errno::Error::new(libc::ESRCH));
        };
        let wants_system = mode.steps || mode.slots().is_some();
        self.before_run(arming, wants_system)?;
        let result = self.fd.run();
        around.gate.leave(self.id);
        control.clear_immediate_exit();
        let exit = device::sort(result, self.id, control.page(), around.bus)?;
        // Only the end of a step leaves nothing behind for certain.
        self.may_owe_event = !matches!(exit, RunExit::Debug(_));
        self.check_injection(&exit)?;
        Ok(exit)
    }

    /// Decides what an exit means for the debugger; `None` if the guest goes on.
    fn conclude(
        &mut self,
        exit: RunExit,
        mode: &Mode,
        around: &Surroundings<'_>,
    ) -> Result<Option<VmExit>, errno::Error> {
        Ok(match exit {
            RunExit::Again => self.look_at_own_registers(mode)?,
            RunExit::Device(after) => self.after_device(after, mode, around)?,
            RunExit::Halt => {
                self.halted = true;
                mode.steps.then_some(STEPPED)
            }
            RunExit::Debug(debug) => self.debug_exit(&debug, mode)?,
            RunExit::Internal(KVM_INTERNAL_ERROR_EMULATION)
                if self.byte_at_pc()? == Some(BREAKPOINT_OPCODE) =>
            {
                // A KVM that interprets its guests cannot interpret this one instruction.
                Some(VmExit::BreakpointInstruction)
            }
            RunExit::Internal(reason) => Some(self.end(GuestEnd::InternalError(reason.into()))),
            RunExit::End(end) => Some(self.end(end)),
        })
    }

    /// Takes an exit that a device has answered. If the vCPU is to come out behind the instruction,
    /// the instruction is completed.
    fn after_device(
        &mut self,
        after: AfterExit,
        mode: &Mode,
        around: &Surroundings<'_>,
    ) -> Result<Option<VmExit>, errno::Error> {
        if after == AfterExit::Resume && !mode.steps {
            return Ok(None);
        }
        self.complete(after, mode, around)
    }

    /// Completes the instruction that a device has answered.
    ///
    /// KVM completes it when it is entered again. It also forgets a single step over a write to
    /// MMIO. So it is entered in a way that ends with this instruction, and that is the step.
    fn complete(
        &mut self,
        after: AfterExit,
        mode: &Mode,
        around: &Surroundings<'_>,
    ) -> Result<Option<VmExit>, errno::Error> {
        let Some(control) = around.gate.control(self.id) else {
            return Ok(None);
        };
        let mut end = after;
        for _ in 0..MAX_COMPLETIONS {
            control.set_immediate_exit();
            match self.run_once(mode, Arming::Done, around)? {
                RunExit::Again => break,
                RunExit::Device(AfterExit::Resume) => {}
                RunExit::Device(ended @ AfterExit::End(_)) => end = ended,
                _ if end != AfterExit::Resume => break,
                exit => return self.conclude(exit, mode, around),
            }
        }
        Ok(match end {
            AfterExit::End(end) => Some(self.end(end)),
            AfterExit::Resume => mode.steps.then_some(STEPPED),
        })
    }

    pub(super) fn debug_exit(
        &mut self,
        debug: &kvm_debug_exit_arch,
        mode: &Mode,
    ) -> Result<Option<VmExit>, errno::Error> {
        if debug.exception == BREAKPOINT_VECTOR {
            return Ok(Some(VmExit::BreakpointInstruction));
        }
        let cause = Dr6::from_bits(debug.dr6);
        // The processor also reports conditions of slots that are off.
        let slots = match (u32::from(cause.b()), mode.slots()) {
            (0, _) => 0,
            (bits, Some(used)) => bits & used,
            (bits, None) => bits & self.guest_slots()?,
        };
        if mode.guards_registers() && cause.bd() && !cause.bs() && slots == 0 {
            return Ok(Some(VmExit::DebugRegisterAccess));
        }
        if cause.bs() || slots != 0 {
            return Ok(Some(VmExit::Debug {
                step: cause.bs(),
                slots,
                data_address: None,
            }));
        }
        self.return_debug_exception(cause)?;
        Ok(None)
    }

    /// Looks whether the guest has changed its own debug registers while the debugger's are in
    /// force, where KVM does not tell of it.
    fn look_at_own_registers(&mut self, mode: &Mode) -> Result<Option<VmExit>, errno::Error> {
        if !mode.must_look() {
            return Ok(None);
        }
        let now = self.fd.get_debug_regs()?;
        let has_changed = self
            .debug
            .seen
            .is_some_and(|seen| seen != (now.db, now.dr7));
        Ok(has_changed.then_some(VmExit::DebugRegistersChanged))
    }

    /// Hands the guest a debug exception that has nothing to do with steps or slots: `int1`, an
    /// access to a guarded debug register, a task switch.
    fn return_debug_exception(&mut self, cause: Dr6) -> Result<(), errno::Error> {
        if !cause.bd() && !cause.bt() && self.byte_at_pc()? == Some(INT1_OPCODE) {
            let mut registers = self.registers()?;
            registers.rip = registers.rip.wrapping_add(1);
            self.set_registers(&registers)?;
        }
        self.queue_debug(cause)
            .map_err(|_| errno::Error::new(libc::EBUSY))
    }

    /// Returns the bits of the guest's own slots that are on.
    fn guest_slots(&self) -> Result<u32, errno::Error> {
        let dr7 = Dr7::from_bits(self.fd.get_debug_regs()?.dr7);
        Ok((0..4_usize)
            .filter(|slot| dr7.slot(*slot).is_some())
            .fold(0, |bits, slot| bits | 1 << slot))
    }

    /// Returns the byte that the pc points to. The page tables are walked here: asking KVM takes
    /// another system call, and this is asked at each breakpoint where KVM interprets its guests.
    fn byte_at_pc(&mut self) -> Result<Option<u8>, errno::Error> {
        let pc = self.linear_pc()?;
        let mut file = Architecture::X86_64.new_register_file();
        registers::load(&self.registers()?, &mut file);
        sregs::load(&self.system_registers()?, &mut file);
        let memory = &*self.memory.0;
        let Ok(translation) = PagingState::from_registers(&file).translate(memory, pc) else {
            return Ok(None);
        };
        let mut byte = [0];
        let read = memory.read_physical(translation.gpa, &mut byte) == 1;
        Ok(read.then_some(byte[0]))
    }

    fn end(&mut self, end: GuestEnd) -> VmExit {
        self.ended = Some(end);
        VmExit::Ended(end)
    }
}

fn resume_flag(rflags: u64) -> bool {
    Rflags::from_bits(rflags).rf()
}

fn with_resume_flag(rflags: u64, on: bool) -> u64 {
    Rflags::from_bits(rflags).with_rf(on).into_bits()
}
