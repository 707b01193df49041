//! The machine that KVM makes, and how its boot processor begins.

use std::sync::Arc;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::GuestMemoryMmap;

use super::{
    acpi::write_tables,
    cpuid::set_cpuid,
    layout::{IDENTITY_MAP, TSS},
    loader::Request,
    state::{set_entry, set_msrs, write_page_tables},
};
use crate::{
    VmConfig, VmmError,
    error::kvm,
    loader::{ImageKind, Initrd},
    memory,
    vm::load_kernel,
};

/// What of KVM cannot be done without.
pub(crate) const NEEDED: [(Cap, &str); 6] = [
    (Cap::Irqchip, "an interrupt controller in the kernel"),
    (Cap::Irqfd, "interrupts by eventfd"),
    (Cap::Ioeventfd, "device notification by eventfd"),
    (Cap::UserMemory, "guest memory in user space"),
    (Cap::ExtCpuid, "CPUID with leaves"),
    (Cap::MpState, "the multiprocessing state of vCPUs"),
];

/// The interrupt controllers, which belong to the machine's descriptor.
#[derive(Debug)]
pub(crate) struct InterruptController;

/// Makes a KVM machine with memory, interrupt controllers and the timer of a PC.
pub(crate) fn make_vm(system: &Kvm, memory: &GuestMemoryMmap) -> Result<Arc<VmFd>, VmmError> {
    let vm = system.create_vm().map_err(kvm("KVM_CREATE_VM"))?;
    let tss = usize::try_from(TSS).map_err(|_| VmmError::NoRoom("the task state segment"))?;
    vm.set_tss_address(tss).map_err(kvm("KVM_SET_TSS_ADDR"))?;
    vm.set_identity_map_address(IDENTITY_MAP)
        .map_err(kvm("KVM_SET_IDENTITY_MAP_ADDR"))?;
    memory::register(&vm, memory)?;
    vm.create_irq_chip().map_err(kvm("KVM_CREATE_IRQCHIP"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(kvm("KVM_CREATE_PIT2"))?;
    Ok(Arc::new(vm))
}

/// Makes the vCPUs; KVM leaves all but the first waiting for a start-up interrupt.
pub(crate) fn make_vcpus(
    system: &Kvm,
    vm: &VmFd,
    count: u32,
) -> Result<(Vec<VcpuFd>, InterruptController), VmmError> {
    let make = |index: u32| {
        let vcpu = vm
            .create_vcpu(index.into())
            .map_err(kvm("KVM_CREATE_VCPU"))?;
        set_cpuid(system, &vcpu, index, count)?;
        set_msrs(&vcpu)?;
        Ok(vcpu)
    };
    let vcpus = (0..count).map(make).collect::<Result<_, VmmError>>()?;
    Ok((vcpus, InterruptController))
}

/// Loads the image and puts the boot processor at its entry point.
pub(crate) fn boot(
    config: &VmConfig,
    vcpus: &[VcpuFd],
    _: &InterruptController,
    memory: &GuestMemoryMmap,
    initrd: Option<Initrd>,
) -> Result<ImageKind, VmmError> {
    write_page_tables(memory)?;
    let rsdp = write_tables(memory, config.vcpu_count, config.disks.len())?;
    let request = Request {
        cmdline: &config.cmdline,
        initrd,
        rsdp,
    };
    let (kind, entry) = load_kernel(config, memory, &request)?;
    if let Some(boot_processor) = vcpus.first() {
        set_entry(boot_processor, memory, entry, config.vcpu_count)?;
    }
    Ok(kind)
}
