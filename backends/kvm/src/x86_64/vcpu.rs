//! A vCPU with its registers and debug state.

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use trapline_arch::x86_64::control::{Efer, Rflags};
use trapline_arch::x86_64::debug::{DebugRegisters, Dr6, Dr7};
use trapline_arch::x86_64::registers as ids;
use trapline_arch::x86_64::xsave::{self, XsaveLayout};
use trapline_arch::{FeatureSet, Gva, RegisterFile, RegisterGroup};
use trapline_engine::contract::{AccessError, GuestMemory, PowerState, Vcpu};
use trapline_engine::{GuestEnd, VcpuId};
use vmm_sys_util::errno;

use super::features::features;
use super::guest_debug::GuestDebug;
use super::msrs::MsrSet;
use super::registers::RegisterCache;
use super::sregs;
use crate::error::refused;
use crate::memory::{MemoryHandle, SharedMemory};
use crate::sys::XsaveArea;
use crate::{KvmError, KvmReport};

/// What the probe has found out about this host's vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VcpuTraits {
    /// Registers are in the shared page after each `KVM_RUN` (`KVM_CAP_SYNC_REGS`).
    pub(crate) shares_registers: bool,
    /// Interrupts can be held off (`KVM_GUESTDBG_BLOCKIRQ`).
    pub(crate) blocks_interrupts: bool,
    /// RFLAGS.RF makes an execution breakpoint pass.
    pub(crate) honours_resume_flag: bool,
    /// An injected #BP pushes the address after the `int3`; else it pushes the pc.
    pub(crate) breakpoint_skips: bool,
    /// DR7.GD in the debugger's debug registers brings the guest's accesses to its own out.
    pub(crate) guards_debug_registers: bool,
    /// The guest's clock can be told of a pause (`KVM_CAP_KVMCLOCK_CTRL`).
    pub(crate) tells_clock: bool,
    /// Events that wait for delivery can be asked for (`KVM_CAP_VCPU_EVENTS`).
    pub(crate) tells_events: bool,
    /// A vCPU can change threads between two runs at no great cost.
    pub(crate) changes_threads: bool,
    /// Where extended state components are.
    pub(crate) xsave: XsaveLayout,
}

/// A vCPU of Linux KVM on x86-64.
///
/// It owns the vCPU's file. While a [`VcpuPool`](crate::VcpuPool) runs it, only its thread has it.
#[derive(Debug)]
pub struct KvmVcpu {
    pub(super) fd: VcpuFd,
    pub(super) id: VcpuId,
    pub(super) memory: MemoryHandle,
    pub(super) traits: VcpuTraits,
    pub(super) cache: RegisterCache,
    pub(super) debug: GuestDebug,
    /// An exception or interrupt may be left for the next entry to deliver.
    pub(super) may_owe_event: bool,
    /// In HLT, which without KVM's interrupt controller is the hypervisor's to wait in.
    pub(super) halted: bool,
    pub(super) ended: Option<GuestEnd>,
    msrs: MsrSet,
    xsave: XsaveArea,
}

impl KvmVcpu {
    /// Takes over a vCPU of `vm`. Its CPUID should be set before; registers and events may be set
    /// later through [`fd`](Self::fd).
    ///
    /// # Errors
    /// [`KvmError::Refused`] if KVM does not tell the vCPU's state.
    pub fn new(
        vm: &VmFd,
        fd: VcpuFd,
        id: VcpuId,
        memory: SharedMemory,
        report: &KvmReport,
    ) -> Result<Self, KvmError> {
        Self::with_traits(vm, fd, id, memory, report.traits())
    }

    pub(crate) fn with_traits(
        vm: &VmFd,
        fd: VcpuFd,
        id: VcpuId,
        memory: SharedMemory,
        traits: VcpuTraits,
    ) -> Result<Self, KvmError> {
        let msrs = MsrSet::of(&fd).map_err(KvmError::refused("KVM_GET_MSRS"))?;
        let xsave = XsaveArea::new(vm).map_err(KvmError::refused("KVM_GET_XSAVE2"))?;
        Ok(Self {
            fd,
            id,
            memory: MemoryHandle(memory),
            traits,
            cache: RegisterCache::new(traits.shares_registers),
            debug: GuestDebug::default(),
            may_owe_event: true,
            halted: false,
            ended: None,
            msrs,
            xsave,
        })
    }

    /// Returns the vCPU's number.
    #[must_use]
    pub fn id(&self) -> VcpuId {
        self.id
    }

    /// Returns which optional registers the vCPU has.
    #[must_use]
    pub fn features(&self) -> FeatureSet {
        let cpuid = self.fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
        cpuid.map_or(FeatureSet::empty(), |cpuid| features(&cpuid))
    }

    /// Returns what the vCPU's file gives, for calls that this crate does not wrap.
    ///
    /// Register changes of the debugger that KVM has not seen yet are written first. The caller
    /// leaves `kvm_run`, `KVM_RUN` and `KVM_SET_GUEST_DEBUG` alone.
    ///
    /// # Errors
    /// [`AccessError::Refused`] if KVM takes the registers no longer.
    pub fn fd(&mut self) -> Result<&VcpuFd, AccessError> {
        self.flush().map_err(refused)?;
        self.cache.forget();
        self.may_owe_event = true;
        Ok(&self.fd)
    }

    /// Returns the vCPU's file for mapping its shared page.
    pub(crate) fn file(&self) -> &VcpuFd {
        &self.fd
    }

    /// Forgets that the guest has ended, after the hypervisor has reset the vCPU through
    /// [`fd`](Self::fd).
    pub fn revive(&mut self) {
        self.ended = None;
        self.halted = false;
        self.cache.forget();
    }

    /// Takes every trace of the debugger out of the vCPU and returns its file (rule R10).
    ///
    /// # Errors
    /// [`AccessError::Refused`] if KVM takes the state no longer.
    pub fn release(mut self) -> Result<VcpuFd, AccessError> {
        self.disarm().map_err(refused)?;
        Ok(self.fd)
    }

    /// Returns whether the vCPU takes part in running.
    pub(crate) fn power_state(&self) -> PowerState {
        if self.halted {
            return PowerState::Halted;
        }
        match self.fd.get_mp_state().map(|state| state.mp_state) {
            Ok(
                KVM_MP_STATE_UNINITIALIZED
                | KVM_MP_STATE_INIT_RECEIVED
                | KVM_MP_STATE_SIPI_RECEIVED,
            ) => PowerState::WaitingForStart,
            Ok(KVM_MP_STATE_HALTED) => PowerState::Halted,
            Ok(_) | Err(_) => PowerState::On,
        }
    }

    /// Tells the guest's clock that the vCPU was not running, so that the guest's watchdogs do not
    /// take the pause for a lock-up. It is to be called right before the vCPU runs again: the
    /// guest's clock consumes the message at its next update.
    pub(crate) fn tell_clock(&self) {
        if self.traits.tells_clock {
            // EINVAL: the guest does not use the clock that could be told.
            let _ = self.fd.kvmclock_ctrl();
        }
    }

    /// Returns `None`: the guest's clocks are told of a pause instead.
    #[expect(
        clippy::unused_self,
        reason = "the vCPU has a counter on another architecture"
    )]
    pub(crate) fn counter(&self) -> Option<u64> {
        None
    }

    /// Does nothing.
    #[expect(
        clippy::unused_self,
        reason = "the vCPU has a counter on another architecture"
    )]
    pub(crate) fn set_counter(&self, _: u64) {}

    /// Returns the linear address of the next instruction.
    pub(super) fn linear_pc(&mut self) -> Result<Gva, errno::Error> {
        let rip = self.registers()?.rip;
        let sregs = self.system_registers()?;
        let in_64_bit = Efer::from_bits(sregs.efer).lma() && sregs.cs.l != 0;
        Ok(Gva(if in_64_bit {
            rip
        } else {
            sregs.cs.base.wrapping_add(rip) & 0xffff_ffff
        }))
    }

    fn load_group(
        &mut self,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        match group {
            RegisterGroup::General => {
                let registers = self.registers().map_err(refused)?;
                super::registers::load(&registers, file);
            }
            RegisterGroup::System => {
                let registers = self.system_registers().map_err(refused)?;
                sregs::load(&registers, file);
            }
            RegisterGroup::Fpu => self.load_fpu(file)?,
            RegisterGroup::Debug => {
                let registers = self.fd.get_debug_regs().map_err(refused)?;
                self.debug.seen = Some((registers.db, registers.dr7));
                let debug = DebugRegisters {
                    addresses: registers.db.map(Gva),
                    dr6: Dr6::from_bits(registers.dr6),
                    dr7: Dr7::from_bits(registers.dr7),
                };
                debug.write(file);
            }
            RegisterGroup::Msr => self.msrs.load(&self.fd, file).map_err(refused)?,
        }
        Ok(())
    }

    fn store_group(
        &mut self,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        match group {
            RegisterGroup::General => self
                .set_registers(&super::registers::from_file(file))
                .map_err(refused),
            RegisterGroup::System => {
                let mut registers = self.system_registers().map_err(refused)?;
                sregs::store(file, &mut registers);
                self.cache.forget_system();
                self.fd.set_sregs(&registers).map_err(refused)
            }
            RegisterGroup::Fpu => self.store_fpu(file),
            RegisterGroup::Debug => {
                let debug = DebugRegisters::read(file);
                let mut registers = self.fd.get_debug_regs().map_err(refused)?;
                registers.db = debug.addresses.map(|address| address.0);
                registers.dr6 = debug.dr6.into_bits();
                registers.dr7 = debug.dr7.into_bits();
                self.debug.seen = None;
                self.fd.set_debug_regs(&registers).map_err(refused)
            }
            RegisterGroup::Msr => self.msrs.store(&self.fd, file),
        }
    }

    fn load_fpu(&mut self, file: &mut RegisterFile) -> Result<(), AccessError> {
        self.xsave.load(&self.fd).map_err(refused)?;
        let xcrs = self.fd.get_xcrs().ok();
        xsave::load(&self.traits.xsave, &self.xsave.to_bytes(), file)
            .map_err(|_| AccessError::Unsupported)?;
        let xcr0 = xcrs
            .as_ref()
            .and_then(|xcrs| xcrs.xcrs.first().filter(|_| xcrs.nr_xcrs != 0));
        file.set_u64(ids::XCR0, xcr0.map_or(0, |xcr| xcr.value));
        Ok(())
    }

    fn store_fpu(&mut self, file: &RegisterFile) -> Result<(), AccessError> {
        self.xsave.load(&self.fd).map_err(refused)?;
        let mut bytes = self.xsave.to_bytes();
        xsave::store(&self.traits.xsave, file, &mut bytes).map_err(|_| AccessError::Unsupported)?;
        if let Ok(mut xcrs) = self.fd.get_xcrs()
            && let Some(xcr0) = xcrs.xcrs.first_mut()
            && xcr0.value != file.u64(ids::XCR0)
        {
            xcr0.value = file.u64(ids::XCR0);
            self.fd.set_xcrs(&xcrs).map_err(refused)?;
        }
        self.xsave.set_bytes(&bytes);
        self.xsave.store(&self.fd).map_err(refused)
    }
}

impl Vcpu for KvmVcpu {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        self.load_group(group, file)
    }

    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.store_group(group, file)
    }

    fn memory(&self) -> &dyn GuestMemory {
        &*self.memory.0
    }

    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError> {
        self.event_underway()
    }

    fn inject_breakpoint(&mut self) -> Result<(), AccessError> {
        self.queue_breakpoint()
    }

    fn inject_debug(&mut self, cause: u64) -> Result<(), AccessError> {
        self.queue_debug(Dr6::from_bits(cause))
    }
}

/// Returns the offsets of extended state components on this host (`KVM_GET_SUPPORTED_CPUID`, leaf
/// 0DH), as `KVM_GET_XSAVE` uses them.
pub(crate) fn xsave_layout(kvm: &Kvm) -> XsaveLayout {
    let Ok(cpuid) = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES) else {
        return XsaveLayout::new();
    };
    let leaves = cpuid
        .as_slice()
        .iter()
        .filter(|entry| entry.function == 0xd);
    leaves.fold(XsaveLayout::new(), |layout, entry| {
        let mut known = xsave::Component::ALL.into_iter();
        let component = known.find(|component| u32::from(component.bit()) == entry.index);
        match (component, usize::try_from(entry.ebx)) {
            (Some(component), Ok(offset)) => layout.with(component, offset),
            _ => layout,
        }
    })
}

/// Returns the guest's own trap flag in `rflags`.
pub(super) fn trap_flag(rflags: u64) -> bool {
    Rflags::from_bits(rflags).tf()
}

/// Returns `rflags` with the trap flag set to `on`.
pub(super) fn with_trap_flag(rflags: u64, on: bool) -> u64 {
    Rflags::from_bits(rflags).with_tf(on).into_bits()
}
