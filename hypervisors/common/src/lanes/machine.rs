//! The machine that the engine sees: what the lanes show of the processors.

use alloc::string::String;

use trapline_arch::{RegisterFile, RegisterGroup, RegisterGroups};
use trapline_engine::contract::AccessError;
use trapline_engine::{Capabilities, GuestMemory, Machine, PowerState, VcpuId};

use super::Platform;
use super::hub::Lane;

/// What of the hub the engine sees as the machine.
pub(super) struct Guest<'a> {
    pub(super) lanes: &'a mut [Lane],
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) capabilities: &'a Capabilities,
    pub(super) platform: &'a dyn Platform,
}

impl Machine for Guest<'_> {
    fn capabilities(&self) -> &Capabilities {
        self.capabilities
    }

    fn memory(&self) -> &dyn GuestMemory {
        self.memory
    }

    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        let lane = self
            .lanes
            .get(vcpu.index())
            .ok_or(AccessError::NoSuchVcpu)?;
        file.copy_groups(&lane.file, group.into());
        Ok(())
    }

    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        let lane = self.lanes.get_mut(vcpu.index());
        let lane = lane.ok_or(AccessError::NoSuchVcpu)?;
        lane.file.copy_groups(file, group.into());
        lane.dirty |= RegisterGroups::from(group);
        Ok(())
    }

    fn power_state(&mut self, vcpu: VcpuId) -> PowerState {
        let lane = self.lanes.get(vcpu.index());
        lane.map_or(PowerState::WaitingForStart, |lane| lane.power)
    }

    fn log(&self) -> Option<String> {
        self.platform.log()
    }
}
