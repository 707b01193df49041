//! The guest as the engine sees it while vCPUs are stopped.

use std::sync::Arc;

use trapline_arch::{RegisterFile, RegisterGroup};
use trapline_engine::VcpuId;
use trapline_engine::contract::{
    AccessError, Capabilities, GuestMemory, Machine, PowerState, Vcpu,
};

use crate::host::KvmVcpu;
use crate::memory::SharedMemory;
use crate::pool::Shared;

/// A guest whose vCPUs a [`VcpuPool`](crate::VcpuPool) runs.
///
/// Registers of a stopped vCPU are read by the calling thread, without a word to the vCPU's own.
#[derive(Clone)]
pub struct KvmMachine {
    shared: Arc<Shared>,
    memory: SharedMemory,
    capabilities: Capabilities,
}

impl KvmMachine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        memory: SharedMemory,
        capabilities: Capabilities,
    ) -> Self {
        Self {
            shared,
            memory,
            capabilities,
        }
    }

    fn with<T>(
        &self,
        vcpu: VcpuId,
        use_it: impl FnOnce(&mut KvmVcpu) -> Result<T, AccessError>,
    ) -> Result<T, AccessError> {
        self.shared.with_stopped(vcpu, use_it)
    }
}

impl core::fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("KvmMachine")
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl Machine for KvmMachine {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn memory(&self) -> &dyn GuestMemory {
        &*self.memory
    }

    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        self.with(vcpu, |vcpu| vcpu.load(group, file))
    }

    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        self.with(vcpu, |vcpu| vcpu.store(group, file))
    }

    fn power_state(&mut self, vcpu: VcpuId) -> PowerState {
        self.with(vcpu, |vcpu| Ok(vcpu.power_state()))
            .unwrap_or(PowerState::On)
    }
}
