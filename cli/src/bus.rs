//! The machine's devices as the vCPU threads reach them.

use std::sync::Arc;

use trapline_arch::Gpa;
use trapline_engine::VcpuId;
use trapline_kvm::{AfterExit, DeviceBus};
use trapline_vmm::{Devices, EndEvents, Vm};

/// The devices, and what tells that one of them has ended the guest.
#[derive(Debug)]
pub(crate) struct Bus {
    devices: Arc<Devices>,
    end: EndEvents,
}

impl Bus {
    pub(crate) fn new(vm: &Vm) -> Self {
        Self {
            devices: Arc::clone(vm.devices()),
            end: vm.end_events().clone(),
        }
    }

    fn after_write(&self) -> AfterExit {
        self.end
            .end()
            .map_or(AfterExit::Resume, |end| AfterExit::End(end.end))
    }
}

impl DeviceBus for Bus {
    fn pio_read(&self, _: VcpuId, port: u16, data: &mut [u8]) {
        self.devices.pio_read(port, data);
    }

    fn pio_write(&self, _: VcpuId, port: u16, data: &[u8]) -> AfterExit {
        self.devices.pio_write(port, data);
        self.after_write()
    }

    fn mmio_read(&self, _: VcpuId, address: Gpa, data: &mut [u8]) {
        self.devices.mmio_read(address.0, data);
    }

    fn mmio_write(&self, _: VcpuId, address: Gpa, data: &[u8]) -> AfterExit {
        self.devices.mmio_write(address.0, data);
        self.after_write()
    }
}
