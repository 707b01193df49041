//! General registers: where their newest values are, and the guest's own trap flag among them.
//!
//! With `KVM_CAP_SYNC_REGS` the values are in the shared page after each `KVM_RUN`, so reading them
//! takes no system call. While KVM single-steps, it hides RFLAGS.TF, the guest's own included;
//! [`GuestDebug`](super::guest_debug::GuestDebug) keeps that.

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::SyncReg;
use trapline_arch::x86_64::registers as ids;
use trapline_arch::{RegisterFile, RegisterId};
use vmm_sys_util::errno;

use super::guest_debug::Arming;
use super::vcpu::{KvmVcpu, trap_flag, with_trap_flag};

/// What is known of a vCPU's registers since it left the guest.
#[derive(Debug)]
pub(super) struct RegisterCache {
    shares: bool,
    /// The shared page holds general registers.
    page_general: bool,
    /// The shared page holds system registers.
    page_system: bool,
    general: Option<kvm_regs>,
    system: Option<kvm_sregs>,
    dirty: bool,
    /// System registers were looked at since the vCPU left the guest, so they will be again.
    looks_at_system: bool,
}

impl RegisterCache {
    pub(super) fn new(shares: bool) -> Self {
        Self {
            shares,
            page_general: false,
            page_system: false,
            general: None,
            system: None,
            dirty: false,
            looks_at_system: false,
        }
    }

    /// Forgets all values that KVM has too.
    pub(super) fn forget(&mut self) {
        self.page_general = false;
        self.forget_system();
        if !self.dirty {
            self.general = None;
        }
    }

    /// Forgets the system registers.
    pub(super) fn forget_system(&mut self) {
        self.page_system = false;
        self.system = None;
    }
}

impl KvmVcpu {
    /// Returns the general registers, RFLAGS.TF being the guest's own.
    pub(super) fn registers(&mut self) -> Result<kvm_regs, errno::Error> {
        if let Some(registers) = self.cache.general {
            return Ok(registers);
        }
        let mut registers = if self.cache.page_general {
            self.fd.sync_regs_mut().regs
        } else {
            self.fd.get_regs()?
        };
        if self.debug.is_stepping() {
            registers.rflags = with_trap_flag(registers.rflags, self.debug.guest_trap_flag());
        }
        self.cache.general = Some(registers);
        Ok(registers)
    }

    /// Sets the general registers, RFLAGS.TF being the guest's own. KVM sees them at the next
    /// [`flush`](Self::flush).
    pub(super) fn set_registers(&mut self, registers: &kvm_regs) -> Result<(), errno::Error> {
        if self.registers()? != *registers {
            self.cache.general = Some(*registers);
            self.cache.dirty = true;
        }
        Ok(())
    }

    /// Returns the system registers.
    pub(super) fn system_registers(&mut self) -> Result<kvm_sregs, errno::Error> {
        self.cache.looks_at_system = true;
        if let Some(registers) = self.cache.system {
            return Ok(registers);
        }
        let registers = if self.cache.page_system {
            self.fd.sync_regs_mut().sregs
        } else {
            self.fd.get_sregs()?
        };
        self.cache.system = Some(registers);
        Ok(registers)
    }

    /// Hands changed general registers to KVM.
    ///
    /// KVM drops an exception that waits for delivery when it is given registers, so an injection
    /// under way is queued anew.
    pub(super) fn flush(&mut self) -> Result<(), errno::Error> {
        if let Some(registers) = self.cache.general.filter(|_| self.cache.dirty) {
            let mut raw = registers;
            if self.debug.is_stepping() {
                self.debug.set_guest_trap_flag(trap_flag(registers.rflags));
                raw.rflags = with_trap_flag(raw.rflags, false);
            }
            self.fd.set_regs(&raw)?;
            self.cache.dirty = false;
            self.debug.registers_written(&registers);
        }
        Ok(())
    }

    /// Gives KVM registers that it may have lost.
    pub(super) fn rewrite_registers(&mut self, registers: &kvm_regs) -> Result<(), errno::Error> {
        self.cache.general = Some(*registers);
        self.cache.dirty = true;
        self.flush()
    }

    /// Returns whether registers are in the shared page after each `KVM_RUN`.
    pub(super) fn shares_registers(&self) -> bool {
        self.cache.shares
    }

    /// Prepares the shared page for `KVM_RUN`.
    ///
    /// KVM takes registers from the page when `KVM_RUN` begins, trap flag and all, which arms a
    /// further step without a system call of its own. It leaves the registers in the page when
    /// `KVM_RUN` ends. System registers cost a little in every exit, so they are asked for only where
    /// the debugger is likely to look at them.
    pub(super) fn before_run(
        &mut self,
        arming: Arming,
        wants_system: bool,
    ) -> Result<(), errno::Error> {
        let wants_system = wants_system || core::mem::take(&mut self.cache.looks_at_system);
        match arming {
            Arming::InPage => {
                let mut registers = self.registers()?;
                registers.rflags = with_trap_flag(registers.rflags, true);
                self.fd.sync_regs_mut().regs = registers;
                self.fd.set_sync_dirty_reg(SyncReg::Register);
            }
            // KVM does not look at the page if it has no time for the guest, so what was armed for
            // an earlier run may still stand there.
            Arming::Done => self.fd.clear_sync_dirty_reg(SyncReg::Register),
        }
        self.cache.page_general = self.cache.shares;
        self.cache.page_system = self.cache.shares && wants_system;
        if self.cache.shares {
            self.fd.set_sync_valid_reg(SyncReg::Register);
            if wants_system {
                self.fd.set_sync_valid_reg(SyncReg::SystemRegister);
            } else {
                self.fd.clear_sync_valid_reg(SyncReg::SystemRegister);
            }
        }
        self.cache.general = None;
        self.cache.system = None;
        Ok(())
    }
}

/// Fills the general registers of `file`.
pub(super) fn load(registers: &kvm_regs, file: &mut RegisterFile) {
    let mut copy = *registers;
    for (id, value) in fields(&mut copy) {
        file.set_u64(id, *value);
    }
}

/// Returns the general registers of `file`.
pub(super) fn from_file(file: &RegisterFile) -> kvm_regs {
    let mut registers = kvm_regs::default();
    for (id, value) in fields(&mut registers) {
        *value = file.u64(id);
    }
    registers
}

fn fields(registers: &mut kvm_regs) -> [(RegisterId, &mut u64); 18] {
    [
        (ids::RAX, &mut registers.rax),
        (ids::RBX, &mut registers.rbx),
        (ids::RCX, &mut registers.rcx),
        (ids::RDX, &mut registers.rdx),
        (ids::RSI, &mut registers.rsi),
        (ids::RDI, &mut registers.rdi),
        (ids::RSP, &mut registers.rsp),
        (ids::RBP, &mut registers.rbp),
        (ids::R8, &mut registers.r8),
        (ids::R9, &mut registers.r9),
        (ids::R10, &mut registers.r10),
        (ids::R11, &mut registers.r11),
        (ids::R12, &mut registers.r12),
        (ids::R13, &mut registers.r13),
        (ids::R14, &mut registers.r14),
        (ids::R15, &mut registers.r15),
        (ids::RIP, &mut registers.rip),
        (ids::RFLAGS, &mut registers.rflags),
    ]
}
