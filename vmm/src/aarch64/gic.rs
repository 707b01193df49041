//! The interrupt controller, which KVM emulates: `GICv3` where it can, else `GICv2`.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU, KVM_VGIC_V2_ADDR_TYPE_DIST,
    KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, kvm_create_device,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};

use super::layout::{GIC_CPU_INTERFACE, GIC_DISTRIBUTOR, GIC_INTERRUPTS, gic_redistributors};
use crate::{VmmError, error::kvm};

/// Which GIC it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GicVersion {
    /// `GICv2`, for at most 8 vCPUs.
    V2,
    /// `GICv3`.
    V3,
}

/// The interrupt controller.
#[derive(Debug)]
pub(crate) struct InterruptController {
    version: GicVersion,
    device: DeviceFd,
}

impl InterruptController {
    /// Makes the controller of a machine that has all its vCPUs.
    pub(super) fn new(vm: &VmFd, vcpu_count: u32) -> Result<Self, VmmError> {
        let make = |type_| {
            vm.create_device(&mut kvm_create_device {
                type_,
                fd: 0,
                flags: 0,
            })
        };
        let (version, device) = match make(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
            Ok(device) => (GicVersion::V3, device),
            Err(_) => {
                let device = make(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2);
                (GicVersion::V2, device.map_err(kvm("KVM_CREATE_DEVICE"))?)
            }
        };
        let this = Self { version, device };
        this.place(vcpu_count)?;
        this.set(
            KVM_DEV_ARM_VGIC_GRP_NR_IRQS,
            0,
            Some(u64::from(GIC_INTERRUPTS)),
        )?;
        this.set(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None)?;
        Ok(this)
    }

    /// Returns which GIC it is.
    pub(super) const fn version(&self) -> GicVersion {
        self.version
    }

    /// Says where the controller's registers are.
    fn place(&self, vcpu_count: u32) -> Result<(), VmmError> {
        // Bits 63:52 of a redistributor region are how many there are.
        let redistributors = gic_redistributors(vcpu_count.into()) | u64::from(vcpu_count) << 52;
        let addresses = match self.version {
            GicVersion::V2 => [
                (KVM_VGIC_V2_ADDR_TYPE_DIST, GIC_DISTRIBUTOR),
                (KVM_VGIC_V2_ADDR_TYPE_CPU, GIC_CPU_INTERFACE),
            ],
            GicVersion::V3 => [
                (KVM_VGIC_V3_ADDR_TYPE_DIST, GIC_DISTRIBUTOR),
                (KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, redistributors),
            ],
        };
        for (kind, address) in addresses {
            self.set(KVM_DEV_ARM_VGIC_GRP_ADDR, kind, Some(address))?;
        }
        Ok(())
    }

    /// Sets an attribute. KVM reads as many bytes of the value as the attribute has.
    fn set(&self, group: u32, attribute: u32, value: Option<u64>) -> Result<(), VmmError> {
        let address = value
            .as_ref()
            .map_or(0, |value| core::ptr::from_ref(value).addr());
        let attribute = kvm_device_attr {
            flags: 0,
            group,
            attr: attribute.into(),
            addr: address as u64,
        };
        self.device
            .set_device_attr(&attribute)
            .map_err(kvm("KVM_SET_DEVICE_ATTR"))
    }
}
