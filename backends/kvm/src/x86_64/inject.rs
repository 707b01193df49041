//! Debug exceptions that are the guest's own and go to the guest (rule R9).

use kvm_bindings::{kvm_regs, kvm_vcpu_events};
use trapline_arch::x86_64::debug::Dr6;
use trapline_engine::contract::AccessError;
use vmm_sys_util::errno;

use super::device::RunExit;
use super::vcpu::KvmVcpu;
use crate::error::refused;

/// The opcode of `int3` is one byte long.
const BREAKPOINT_LEN_BYTES: u64 = 1;

/// The vector of a non-maskable interrupt.
const NMI_VECTOR: u8 = 2;

/// An exception that the debugger can deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exception {
    /// #BP.
    Breakpoint,
    /// #DB; its cause is in DR6 already.
    Debug,
}

impl Exception {
    const fn vector(self) -> u8 {
        match self {
            Self::Debug => 1,
            Self::Breakpoint => 3,
        }
    }
}

/// Returns the vector of the event that KVM delivers at the next entry though interrupts are held
/// off: a pending exception, or an event whose delivery was cut short (KVM API,
/// "`KVM_GET_VCPU_EVENTS`").
fn owed_vector(events: &kvm_vcpu_events) -> Option<u8> {
    if events.exception.injected != 0 || events.exception.pending != 0 {
        Some(events.exception.nr)
    } else if events.nmi.injected != 0 {
        Some(NMI_VECTOR)
    } else if events.interrupt.injected != 0 {
        Some(events.interrupt.nr)
    } else {
        None
    }
}

/// An exception on its way to the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Injection {
    exception: Exception,
    /// The pc at which it is delivered.
    rip: u64,
    /// The pc was moved past the breakpoint instruction.
    advanced: bool,
    /// KVM was asked to deliver it.
    submitted: bool,
}

impl Injection {
    /// Returns what is left of the injection after KVM was given `registers`.
    pub(super) fn requeue(self, registers: &kvm_regs) -> Option<Self> {
        let moved = registers.rip != self.rip;
        match self.exception {
            Exception::Breakpoint if moved => None,
            Exception::Breakpoint | Exception::Debug => Some(Self {
                rip: registers.rip,
                submitted: false,
                ..self
            }),
        }
    }
}

impl KvmVcpu {
    /// Queues the #BP of the breakpoint instruction at the pc.
    pub(super) fn queue_breakpoint(&mut self) -> Result<(), AccessError> {
        self.queue(Exception::Breakpoint)
    }

    /// Queues a #DB and sets the bits of `cause` in the guest's DR6.
    pub(super) fn queue_debug(&mut self, cause: Dr6) -> Result<(), AccessError> {
        let mut registers = self.fd.get_debug_regs().map_err(refused)?;
        let caused = Dr6::from_bits(registers.dr6);
        let caused = caused
            .with_b(caused.b() | cause.b())
            .with_bd(caused.bd() || cause.bd())
            .with_bs(caused.bs() || cause.bs())
            .with_bt(caused.bt() || cause.bt());
        registers.dr6 = caused.into_bits();
        self.fd.set_debug_regs(&registers).map_err(refused)?;
        self.queue(Exception::Debug)
    }

    fn queue(&mut self, exception: Exception) -> Result<(), AccessError> {
        match self.debug.injection {
            Some(injection) if injection.exception != exception => {
                Err(AccessError::Refused(libc::EBUSY))
            }
            Some(_) => Ok(()),
            None => {
                let rip = self.registers().map_err(refused)?.rip;
                self.debug.injection = Some(Injection {
                    exception,
                    rip,
                    advanced: false,
                    submitted: false,
                });
                Ok(())
            }
        }
    }

    /// Returns the vector of what the next entry delivers before any instruction.
    ///
    /// KVM itself may owe the guest an event: what it was about to deliver when a signal came, or
    /// the exception of an instruction that it has emulated.
    pub(super) fn event_underway(&mut self) -> Result<Option<u8>, AccessError> {
        if self.may_owe_event && self.traits.tells_events {
            self.flush().map_err(refused)?;
            let events = self.fd.get_vcpu_events().map_err(refused)?;
            let owed = owed_vector(&events);
            self.may_owe_event = owed.is_some();
            if owed.is_some() {
                return Ok(owed);
            }
            // KVM has delivered what it was asked for, and the handler has come back already.
            self.debug.injection = self.debug.injection.filter(|queued| !queued.submitted);
        }
        let queued = self.debug.injection;
        Ok(queued.map(|injection| injection.exception.vector()))
    }

    /// Returns whether KVM holds an exception that it has not delivered yet.
    pub(super) fn injection_is_pending(&self) -> bool {
        self.debug
            .injection
            .is_some_and(|injection| injection.submitted)
    }

    /// Returns the exception that KVM is to be asked for, its pc set as this KVM wants it.
    pub(super) fn prepare_injection(&mut self) -> Result<Option<Exception>, errno::Error> {
        let Some(mut injection) = self
            .debug
            .injection
            .filter(|injection| !injection.submitted)
        else {
            return Ok(None);
        };
        let skips = self.traits.breakpoint_skips;
        if injection.exception == Exception::Breakpoint && !skips && !injection.advanced {
            let mut registers = self.registers()?;
            registers.rip = registers.rip.wrapping_add(BREAKPOINT_LEN_BYTES);
            injection.rip = registers.rip;
            injection.advanced = true;
            self.debug.injection = Some(injection);
            self.set_registers(&registers)?;
            self.flush()?;
        }
        Ok(Some(injection.exception))
    }

    /// Takes note that KVM has accepted the exception.
    pub(super) fn injection_submitted(&mut self) {
        if let Some(injection) = &mut self.debug.injection {
            injection.submitted = true;
        }
    }

    /// Takes note that the vCPU has left the guest: if it has executed anything, the exception was
    /// delivered.
    pub(super) fn check_injection(&mut self, exit: &RunExit) -> Result<(), errno::Error> {
        if let Some(injection) = self.debug.injection.filter(|injection| injection.submitted) {
            let has_executed = matches!(exit, RunExit::Debug(_));
            if has_executed || self.registers()?.rip != injection.rip {
                self.debug.injection = None;
            }
        }
        Ok(())
    }
}
