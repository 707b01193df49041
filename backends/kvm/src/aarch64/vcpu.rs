//! A vCPU with its registers and debug state.

use std::collections::BTreeSet;

use kvm_bindings::{KVM_MP_STATE_STOPPED, RegList};
use kvm_ioctls::{VcpuFd, VmFd};
use trapline_arch::{FeatureSet, RegisterFile, RegisterGroup, RegisterGroups};
use trapline_engine::contract::{AccessError, GuestMemory, PowerState, Vcpu};
use trapline_engine::{Capabilities, GuestEnd, VcpuId};
use vmm_sys_util::errno;

use super::features;
use super::guest_debug::GuestDebug;
use super::one_reg::{self, OneReg};
use super::registers::{RegisterCache, RegisterSet};
use crate::error::refused;
use crate::memory::{MemoryHandle, SharedMemory};
use crate::{KvmError, KvmReport};

/// The most registers that the library makes room for, which is more than kernels list.
const MAX_REGISTERS: usize = 500;

/// What the probe has found out about this host's vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VcpuTraits {
    /// A vCPU can change threads between two runs at no great cost.
    pub(crate) changes_threads: bool,
    /// Always false: KVM carries the guest's accesses to debug registers out by itself while the
    /// debugger uses them, and does not tell.
    pub(crate) guards_debug_registers: bool,
}

/// A vCPU of Linux KVM on AArch64.
///
/// It owns the vCPU's file. While a [`VcpuPool`](crate::VcpuPool) runs it, only its thread has it.
#[derive(Debug)]
pub struct KvmVcpu {
    pub(super) fd: VcpuFd,
    pub(super) id: VcpuId,
    pub(super) memory: MemoryHandle,
    pub(super) cache: RegisterCache,
    pub(super) set: RegisterSet,
    pub(super) debug: GuestDebug,
    pub(super) capabilities: Capabilities,
    pub(super) ended: Option<GuestEnd>,
}

impl KvmVcpu {
    /// Takes over a vCPU. It must be initialised (`KVM_ARM_VCPU_INIT`, and with SVE
    /// `KVM_ARM_VCPU_FINALIZE`); registers may be set later through [`fd`](Self::fd).
    ///
    /// # Errors
    /// [`KvmError::Refused`] if KVM does not tell the vCPU's state.
    pub fn new(
        _: &VmFd,
        fd: VcpuFd,
        id: VcpuId,
        memory: SharedMemory,
        report: &KvmReport,
    ) -> Result<Self, KvmError> {
        Self::with_capabilities(fd, id, memory, *report.capabilities())
    }

    pub(super) fn with_capabilities(
        fd: VcpuFd,
        id: VcpuId,
        memory: SharedMemory,
        capabilities: Capabilities,
    ) -> Result<Self, KvmError> {
        let listed = listed_registers(&fd).map_err(KvmError::refused("KVM_GET_REG_LIST"))?;
        let vector_quadwords = vector_quadwords(&fd);
        let set = RegisterSet::new(|register| listed.contains(&register), vector_quadwords);
        Ok(Self {
            fd,
            id,
            memory: MemoryHandle(memory),
            cache: RegisterCache::new(),
            set,
            debug: GuestDebug::default(),
            capabilities,
            ended: None,
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
        features::features(&self.fd, self.set.vector_quadwords)
    }

    /// Returns what the vCPU's file gives, for calls that this crate does not wrap.
    ///
    /// The caller leaves `kvm_run`, `KVM_RUN` and `KVM_SET_GUEST_DEBUG` alone.
    ///
    /// # Errors
    /// None on this architecture.
    pub fn fd(&mut self) -> Result<&VcpuFd, AccessError> {
        self.cache.forget();
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

    /// Returns whether the vCPU takes part in running. KVM does not tell whether it waits in WFI.
    pub(crate) fn power_state(&self) -> PowerState {
        match self.fd.get_mp_state().map(|state| state.mp_state) {
            Ok(KVM_MP_STATE_STOPPED) => PowerState::WaitingForStart,
            Ok(_) | Err(_) => PowerState::On,
        }
    }

    /// Does nothing: KVM has nothing for a guest's clock to be told by.
    #[expect(
        clippy::unused_self,
        reason = "there is something to tell on another architecture"
    )]
    pub(crate) fn tell_clock(&self) {}

    /// Returns the virtual counter, by which the guest's clocks go.
    pub(crate) fn counter(&self) -> Option<u64> {
        one_reg::read(&self.fd, one_reg::COUNTER).ok()
    }

    /// Sets the virtual counter, which is that of all vCPUs.
    pub(crate) fn set_counter(&self, value: u64) {
        // A clock that has gone on is no reason to end the guest.
        let _ = one_reg::write(&self.fd, one_reg::COUNTER, value);
    }

    fn load_group(
        &mut self,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        let known = self.known(group).map_err(refused)?;
        file.copy_groups(known, RegisterGroups::from(group));
        Ok(())
    }
}

impl Vcpu for KvmVcpu {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        self.load_group(group, file)
    }

    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.store_changes(group, file).map_err(refused)
    }

    fn memory(&self) -> &dyn GuestMemory {
        &*self.memory.0
    }

    /// Returns `None`: exceptions of Arm guests are delivered by changing registers.
    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError> {
        Ok(None)
    }

    fn inject_breakpoint(&mut self) -> Result<(), AccessError> {
        Err(AccessError::Unsupported)
    }

    fn inject_debug(&mut self, _: u64) -> Result<(), AccessError> {
        Err(AccessError::Unsupported)
    }
}

/// Returns the registers that KVM knows of a vCPU.
fn listed_registers(fd: &VcpuFd) -> Result<BTreeSet<OneReg>, errno::Error> {
    let mut list = RegList::new(MAX_REGISTERS).map_err(|_| errno::Error::new(libc::ENOMEM))?;
    fd.get_reg_list(&mut list)?;
    Ok(list.as_slice().iter().copied().map(OneReg).collect())
}

/// Returns the longest vector length of a vCPU with SVE, in quadwords.
fn vector_quadwords(fd: &VcpuFd) -> Option<u8> {
    let mut lengths = [0; 64];
    fd.get_one_reg(one_reg::SVE_LENGTHS.0, &mut lengths).ok()?;
    let low = u64::from_le_bytes(*lengths.first_chunk()?);
    // Bit 0 stands for one quadword.
    let longest = low.checked_ilog2()?.saturating_add(1);
    u8::try_from(longest)
        .ok()
        .filter(|quadwords| *quadwords <= 16)
}
