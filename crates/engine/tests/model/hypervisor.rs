//! The registers, the memory and the events of the model guest, as the engine and a vCPU's thread see
//! them.

use trapline_arch::{RegisterFile, RegisterGroup};
use trapline_engine::{AccessError, Capabilities, GuestMemory, Machine, PowerState, Vcpu, VcpuId};

use super::cpu::Cpu;
use super::memory::Ram;

/// The hypervisor's view of the guest.
pub(crate) struct Model {
    pub(crate) ram: Ram,
    pub(crate) cpus: Vec<Cpu>,
    /// Which vCPUs the engine has running, so that it may not ask for their registers.
    pub(super) is_out: Vec<bool>,
    /// vCPUs whose registers the hypervisor refuses to give.
    pub(crate) broken: Vec<usize>,
    pub(super) capabilities: Capabilities,
}

/// One vCPU between two VM entries.
pub(super) struct Handle<'a> {
    pub(super) model: &'a mut Model,
    pub(super) vcpu: usize,
}

impl Model {
    fn load(
        &self,
        vcpu: usize,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        if self.broken.contains(&vcpu) {
            return Err(AccessError::Refused(5));
        }
        let cpu = self.cpus.get(vcpu).ok_or(AccessError::NoSuchVcpu)?;
        file.copy_groups(&cpu.file, group.into());
        Ok(())
    }

    fn store(
        &mut self,
        vcpu: usize,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        if self.broken.contains(&vcpu) {
            return Err(AccessError::Refused(5));
        }
        let cpu = self.cpus.get_mut(vcpu).ok_or(AccessError::NoSuchVcpu)?;
        cpu.file.copy_groups(file, group.into());
        Ok(())
    }
}

impl Machine for Model {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
    fn memory(&self) -> &dyn GuestMemory {
        &self.ram
    }
    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        assert!(!self.is_out[vcpu.index()], "registers of a running {vcpu}");
        self.load(vcpu.index(), group, file)
    }
    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        assert!(!self.is_out[vcpu.index()], "registers of a running {vcpu}");
        self.store(vcpu.index(), group, file)
    }
    fn power_state(&mut self, vcpu: VcpuId) -> PowerState {
        assert!(!self.is_out[vcpu.index()], "state of a running {vcpu}");
        let cpu = &self.cpus[vcpu.index()];
        match (cpu.waits_for_start, cpu.is_halted) {
            (true, _) => PowerState::WaitingForStart,
            (_, true) => PowerState::Halted,
            _ => PowerState::On,
        }
    }
}

impl Vcpu for Handle<'_> {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        self.model.load(self.vcpu, group, file)
    }
    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.model.store(self.vcpu, group, file)
    }
    fn memory(&self) -> &dyn GuestMemory {
        &self.model.ram
    }
    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError> {
        Ok(self.model.cpus[self.vcpu].injected)
    }
    fn inject_breakpoint(&mut self) -> Result<(), AccessError> {
        let cpu = &mut self.model.cpus[self.vcpu];
        let pc = cpu.pc();
        cpu.file
            .set_u64(trapline_arch::x86_64::registers::RIP, pc + 1);
        cpu.injected = Some(3);
        Ok(())
    }
    fn inject_debug(&mut self, cause: u64) -> Result<(), AccessError> {
        let cpu = &mut self.model.cpus[self.vcpu];
        cpu.note_debug_cause(cause);
        cpu.injected = Some(1);
        Ok(())
    }
}
