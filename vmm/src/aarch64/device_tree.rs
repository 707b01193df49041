//! The device tree: what the guest's kernel is told of the machine (Devicetree Specification).

use vm_fdt::{FdtWriter, FdtWriterResult};

use super::{
    gic::GicVersion,
    layout::{
        DEBUG_EXIT, DEBUG_EXIT_BYTES, GIC_CPU_INTERFACE, GIC_CPU_INTERFACE_BYTES, GIC_DISTRIBUTOR,
        GIC_DISTRIBUTOR_BYTES, GIC_REDISTRIBUTOR_BYTES, SERIAL, SERIAL_BYTES, SERIAL_GSI,
        VIRTIO_GSI, VIRTIO_MMIO, VIRTIO_MMIO_BYTES, gic_redistributors,
    },
};
use crate::loader::Initrd;

/// Handle of the GIC's node.
const GIC: u32 = 1;
/// Handle of the serial port's clock.
const CLOCK: u32 = 2;
/// The clock of a PC's serial port in Hz.
const SERIAL_CLOCK_HZ: u32 = 1_843_200;
/// Interrupt specifiers of a GIC (Linux's binding `arm,gic-v3`): kinds and triggers.
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// The timers' private interrupts: secure, non-secure, virtual, hypervisor (Arm Base System
/// Architecture, "PPI assignments").
const TIMERS: [u32; 4] = [13, 14, 11, 10];
/// The affinity fields of MPIDR.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// What the tree says that is not the same for every machine.
#[derive(Clone, Debug)]
pub(super) struct Description<'a> {
    /// Start and length in bytes of each range of RAM.
    pub(super) memory: Vec<(u64, u64)>,
    /// MPIDR of each vCPU.
    pub(super) mpidrs: Vec<u64>,
    /// Which GIC there is.
    pub(super) gic: GicVersion,
    /// The kernel's command line.
    pub(super) cmdline: &'a str,
    /// Initial RAM disk.
    pub(super) initrd: Option<Initrd>,
    /// How many disks there are.
    pub(super) disk_count: u32,
    /// What the kernel places itself at random by.
    pub(super) seed: u64,
}

/// Writes the tree.
pub(super) fn write(description: &Description<'_>) -> FdtWriterResult<Vec<u8>> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_string("model", "trapline")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("interrupt-parent", GIC)?;
    chosen(&mut tree, description)?;
    for (start, len_bytes) in &description.memory {
        let node = tree.begin_node(&format!("memory@{start:x}"))?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[*start, *len_bytes])?;
        tree.end_node(node)?;
    }
    processors(&mut tree, &description.mpidrs)?;
    controllers(&mut tree, description)?;
    devices(&mut tree, description.disk_count)?;
    tree.end_node(root)?;
    tree.finish()
}

fn chosen(tree: &mut FdtWriter, description: &Description<'_>) -> FdtWriterResult<()> {
    let node = tree.begin_node("chosen")?;
    tree.property_string("bootargs", description.cmdline)?;
    tree.property_string("stdout-path", &format!("/serial@{SERIAL:x}"))?;
    tree.property_u64("kaslr-seed", description.seed)?;
    if let Some(initrd) = description.initrd {
        tree.property_u64("linux,initrd-start", initrd.start)?;
        tree.property_u64("linux,initrd-end", initrd.start + initrd.len_bytes)?;
    }
    tree.end_node(node)
}

fn processors(tree: &mut FdtWriter, mpidrs: &[u64]) -> FdtWriterResult<()> {
    let all = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 0)?;
    for mpidr in mpidrs {
        let affinity = mpidr & AFFINITY;
        let node = tree.begin_node(&format!("cpu@{affinity:x}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,armv8")?;
        tree.property_string("enable-method", "psci")?;
        tree.property_u64("reg", affinity)?;
        tree.end_node(node)?;
    }
    tree.end_node(all)?;
    let psci = tree.begin_node("psci")?;
    let versions = ["arm,psci-1.0", "arm,psci-0.2"].map(str::to_owned);
    tree.property_string_list("compatible", versions.to_vec())?;
    tree.property_string("method", "hvc")?;
    tree.end_node(psci)
}

fn controllers(tree: &mut FdtWriter, description: &Description<'_>) -> FdtWriterResult<()> {
    let node = tree.begin_node(&format!("interrupt-controller@{GIC_DISTRIBUTOR:x}"))?;
    let vcpu_count = description.mpidrs.len() as u64;
    let (compatible, second, second_bytes) = match description.gic {
        GicVersion::V2 => (
            "arm,cortex-a15-gic",
            GIC_CPU_INTERFACE,
            GIC_CPU_INTERFACE_BYTES,
        ),
        GicVersion::V3 => (
            "arm,gic-v3",
            gic_redistributors(vcpu_count),
            GIC_REDISTRIBUTOR_BYTES * vcpu_count,
        ),
    };
    tree.property_string("compatible", compatible)?;
    let windows = [GIC_DISTRIBUTOR, GIC_DISTRIBUTOR_BYTES, second, second_bytes];
    tree.property_array_u64("reg", &windows)?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_phandle(GIC)?;
    tree.end_node(node)?;

    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    tree.property_null("always-on")?;
    let interrupts = TIMERS.map(|number| [PRIVATE, number, LEVEL_HIGH]);
    tree.property_array_u32("interrupts", interrupts.as_flattened())?;
    tree.end_node(timer)
}

fn devices(tree: &mut FdtWriter, disk_count: u32) -> FdtWriterResult<()> {
    let clock = tree.begin_node("serial-clock")?;
    tree.property_string("compatible", "fixed-clock")?;
    tree.property_u32("#clock-cells", 0)?;
    tree.property_u32("clock-frequency", SERIAL_CLOCK_HZ)?;
    tree.property_phandle(CLOCK)?;
    tree.end_node(clock)?;

    let serial = tree.begin_node(&format!("serial@{SERIAL:x}"))?;
    tree.property_string("compatible", "ns16550a")?;
    tree.property_array_u64("reg", &[SERIAL, SERIAL_BYTES])?;
    tree.property_array_u32("interrupts", &[SHARED, SERIAL_GSI, EDGE_RISING])?;
    tree.property_u32("clocks", CLOCK)?;
    tree.property_u32("clock-frequency", SERIAL_CLOCK_HZ)?;
    tree.end_node(serial)?;

    let exit = tree.begin_node(&format!("debug-exit@{DEBUG_EXIT:x}"))?;
    tree.property_string("compatible", "trapline,debug-exit")?;
    tree.property_array_u64("reg", &[DEBUG_EXIT, DEBUG_EXIT_BYTES])?;
    tree.end_node(exit)?;

    for number in 0..disk_count {
        let address = VIRTIO_MMIO + u64::from(number) * VIRTIO_MMIO_BYTES;
        let disk = tree.begin_node(&format!("virtio_mmio@{address:x}"))?;
        tree.property_string("compatible", "virtio,mmio")?;
        tree.property_null("dma-coherent")?;
        tree.property_array_u64("reg", &[address, VIRTIO_MMIO_BYTES])?;
        tree.property_array_u32("interrupts", &[SHARED, VIRTIO_GSI + number, EDGE_RISING])?;
        tree.end_node(disk)?;
    }
    Ok(())
}
