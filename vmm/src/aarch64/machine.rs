//! The machine that KVM makes, and how its boot processor begins.

use core::mem::offset_of;
use std::{fs::File, io::Read, sync::Arc};

use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, KVM_REG_ARM_CORE, KVM_REG_ARM64,
    KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_regs, kvm_vcpu_init, user_pt_regs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use super::{
    device_tree::{self, Description},
    gic::InterruptController,
    layout::{self, DEVICE_TREE_BYTES},
    loader::Request,
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
    (Cap::Irqfd, "interrupts by eventfd"),
    (Cap::Ioeventfd, "device notification by eventfd"),
    (Cap::UserMemory, "guest memory in user space"),
    (Cap::OneReg, "registers by number"),
    (Cap::ArmPsci02, "PSCI 0.2"),
    (Cap::MpState, "the multiprocessing state of vCPUs"),
];

/// Features of a vCPU that come in pairs or alone, each with what it takes.
const OPTIONAL: [(Cap, u32); 3] = [
    (Cap::ArmSve, KVM_ARM_VCPU_SVE),
    (Cap::ArmPtrAuthAddress, KVM_ARM_VCPU_PTRAUTH_ADDRESS),
    (Cap::ArmPtrAuthGeneric, KVM_ARM_VCPU_PTRAUTH_GENERIC),
];

const CORE: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64;
const X0: u64 = CORE | (offset_of!(kvm_regs, regs) / 4) as u64;
const PC: u64 = CORE | ((offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc)) / 4) as u64;
const SP_EL1: u64 = CORE | (offset_of!(kvm_regs, sp_el1) / 4) as u64;
/// op0 = 3, op1 = 0, `CRn` = 0, `CRm` = 0, op2 = 5.
const MPIDR: u64 = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | 3 << 14 | 5;

/// Makes a KVM machine with memory.
pub(crate) fn make_vm(system: &Kvm, memory: &GuestMemoryMmap) -> Result<Arc<VmFd>, VmmError> {
    let vm = system.create_vm().map_err(kvm("KVM_CREATE_VM"))?;
    memory::register(&vm, memory)?;
    Ok(Arc::new(vm))
}

/// Makes the vCPUs, all but the first off, and the interrupt controller.
pub(crate) fn make_vcpus(
    system: &Kvm,
    vm: &VmFd,
    count: u32,
) -> Result<(Vec<VcpuFd>, InterruptController), VmmError> {
    let vcpus = (0..count)
        .map(|index| make_vcpu(system, vm, index))
        .collect::<Result<Vec<_>, _>>()?;
    let controller = InterruptController::new(vm, count)?;
    Ok((vcpus, controller))
}

fn make_vcpu(system: &Kvm, vm: &VmFd, index: u32) -> Result<VcpuFd, VmmError> {
    let vcpu = vm
        .create_vcpu(index.into())
        .map_err(kvm("KVM_CREATE_VCPU"))?;
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)
        .map_err(kvm("KVM_ARM_PREFERRED_TARGET"))?;
    let mut features = 1 << KVM_ARM_VCPU_PSCI_0_2;
    if index != 0 {
        features |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    for (capability, feature) in OPTIONAL {
        if system.check_extension(capability) {
            features |= 1 << feature;
        }
    }
    if let Some(word) = init.features.first_mut() {
        *word |= features;
    }
    vcpu.vcpu_init(&init).map_err(kvm("KVM_ARM_VCPU_INIT"))?;
    if system.check_extension(Cap::ArmSve) {
        let feature = i32::try_from(KVM_ARM_VCPU_SVE).unwrap_or(0);
        vcpu.vcpu_finalize(&feature)
            .map_err(kvm("KVM_ARM_VCPU_FINALIZE"))?;
    }
    Ok(vcpu)
}

/// Loads the image, writes the device tree and puts the boot processor at its entry point.
pub(crate) fn boot(
    config: &VmConfig,
    vcpus: &[VcpuFd],
    controller: &InterruptController,
    memory: &GuestMemoryMmap,
    initrd: Option<Initrd>,
) -> Result<ImageKind, VmmError> {
    let request = Request {
        cmdline: &config.cmdline,
        initrd,
    };
    let (kind, entry) = load_kernel(config, memory, &request)?;
    let mpidr = |vcpu: &VcpuFd| read(vcpu, MPIDR);
    let description = Description {
        memory: memory
            .iter()
            .map(|region| (region.start_addr().raw_value(), region.len()))
            .collect(),
        mpidrs: vcpus.iter().map(mpidr).collect::<Result<_, _>>()?,
        gic: controller.version(),
        cmdline: &entry.cmdline,
        initrd,
        disk_count: u32::try_from(config.disks.len()).unwrap_or(0),
        seed: random()?,
    };
    const TREE: VmmError = VmmError::NoRoom("the device tree");
    let tree = device_tree::write(&description).map_err(|_| TREE)?;
    if tree.len() as u64 > DEVICE_TREE_BYTES {
        return Err(TREE);
    }
    let ram_end = memory::low_end(memory);
    let address = layout::device_tree(ram_end);
    memory
        .write_slice(&tree, GuestAddress(address))
        .map_err(|_| TREE)?;
    if let Some(boot_processor) = vcpus.first() {
        for (register, value) in [
            (PC, entry.pc),
            (X0, address),
            (SP_EL1, layout::stack_top(ram_end)),
        ] {
            boot_processor
                .set_one_reg(register, &value.to_le_bytes())
                .map_err(kvm("KVM_SET_ONE_REG"))?;
        }
    }
    Ok(kind)
}

fn read(vcpu: &VcpuFd, register: u64) -> Result<u64, VmmError> {
    let mut value = [0; 8];
    vcpu.get_one_reg(register, &mut value)
        .map_err(kvm("KVM_GET_ONE_REG"))?;
    Ok(u64::from_le_bytes(value))
}

/// Returns a number that the guest's kernel places itself by.
fn random() -> Result<u64, VmmError> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
