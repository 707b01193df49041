//! Entering the guest: from an [`Entry`] to the [`VmExit`] that answers it.

use std::time::Instant;

use kvm_bindings::kvm_debug_exit_arch;
use trapline_arch::aarch64::debug::DebugRegisters;
use trapline_arch::aarch64::exception::{DebugException, Esr};
use trapline_arch::{Gva, RegisterGroup};
use trapline_engine::{Entry, GuestEnd, VmExit};
use vmm_sys_util::errno;

use super::device::{self, RunExit};
use super::guest_debug::{Mode, must_look};
use super::vcpu::KvmVcpu;
use crate::bus::{AfterExit, RUN_ERROR};
use crate::gate::Admission;
use crate::run::{Entered, Surroundings};

/// How often one instruction is re-entered until it is complete: an access of up to 64 bytes takes
/// 8 exits.
const MAX_COMPLETIONS: usize = 64;

/// A step that has ended.
pub(super) const STEPPED: VmExit = VmExit::Debug {
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
        let entered = self.mode(entry).and_then(|mode| {
            if entry.step && entry.hold_interrupts {
                self.step_without_interrupts(&mode, around)
            } else {
                self.run(&mode, around)
            }
        });
        entered.unwrap_or_else(|error| {
            let code = RUN_ERROR.saturating_add(error.errno().unsigned_abs().into());
            Entered::Exit(self.end(GuestEnd::InternalError(code)))
        })
    }

    /// Returns whether it has to be looked from time to time, as [`enter`](Self::enter) does whenever
    /// a signal comes, what the guest's own debug registers are.
    #[expect(
        clippy::unused_self,
        reason = "it depends on the vCPU on another architecture"
    )]
    pub(crate) fn must_look_out(&self, entry: &Entry) -> bool {
        must_look(entry)
    }

    /// Stays in the guest until there is something for the debugger.
    pub(super) fn run(
        &mut self,
        mode: &Mode,
        around: &Surroundings<'_>,
    ) -> Result<Entered, errno::Error> {
        // A device has answered, and the instruction that asked is not complete.
        let mut incomplete = false;
        loop {
            if around
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(Entered::Expired);
            }
            self.arm(mode)?;
            if around.gate.enter(self.id) == Admission::Stopped {
                let exit = if incomplete {
                    self.complete(AfterExit::Resume, mode, around)?
                } else {
                    None
                };
                if mode.steps {
                    // Else KVM may hold a step to be over that has not begun.
                    self.disarm()?;
                }
                return Ok(Entered::Exit(exit.unwrap_or(VmExit::Interrupted)));
            }
            let exit = self.run_once(around)?;
            incomplete = matches!(exit, RunExit::Device(_));
            if let Some(exit) = self.conclude(exit, mode, around)? {
                return Ok(Entered::Exit(exit));
            }
        }
    }

    /// Calls `KVM_RUN` once.
    fn run_once(&mut self, around: &Surroundings<'_>) -> Result<RunExit, errno::Error> {
        let Some(control) = around.gate.control(self.id) else {
            return Err(errno::Error::new(libc::ESRCH));
        };
        self.cache.forget();
        let result = self.fd.run();
        around.gate.leave(self.id);
        control.clear_immediate_exit();
        device::sort(result, self.id, control.page(), around.bus)
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
            RunExit::Device(AfterExit::Resume) if !mode.steps => None,
            RunExit::Device(after) => self.complete(after, mode, around)?,
            RunExit::Debug(debug) => debug_exit(&debug),
            RunExit::End(end) => Some(self.end(end)),
        })
    }

    /// Completes the instruction that a device has answered, by an entry that ends with it. That is
    /// the step, if there is one.
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
            match self.run_once(around)? {
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

    /// Looks whether the guest has changed its own debug registers while the debugger's are in
    /// force.
    fn look_at_own_registers(&mut self, mode: &Mode) -> Result<Option<VmExit>, errno::Error> {
        let Some(seen) = self.debug.seen.filter(|_| mode.must_look()) else {
            return Ok(None);
        };
        let now = DebugRegisters::read(self.known(RegisterGroup::Debug)?);
        Ok((seen != now).then_some(VmExit::DebugRegistersChanged))
    }

    fn end(&mut self, end: GuestEnd) -> VmExit {
        self.ended = Some(end);
        VmExit::Ended(end)
    }
}

/// Says what a debug exception is.
fn debug_exit(debug: &kvm_debug_exit_arch) -> Option<VmExit> {
    let syndrome = u64::from(debug.hsr) | u64::from(debug.hsr_high) << 32;
    Some(match Esr::from_bits(syndrome).debug_exception()? {
        DebugException::BreakpointInstruction { .. } => VmExit::BreakpointInstruction,
        DebugException::SoftwareStep(_) => STEPPED,
        DebugException::Breakpoint => VmExit::HardwareBreakpoint,
        DebugException::Watchpoint(_) => VmExit::Watchpoint {
            address: Gva(debug.far),
            syndrome,
        },
        DebugException::VectorCatch => return None,
    })
}
