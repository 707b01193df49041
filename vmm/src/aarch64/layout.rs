//! Where things are in a guest's physical address space. Memory, console and GIC are where QEMU's
//! machine `virt` has them, so that a bare-metal image for one finds them on the other.
//!
//! ```text
//! 0x0800_0000  GIC distributor              0x0801_0000  GICv2 CPU interface
//! 0x0900_0000  serial port, 16550           0x0908_0000  debug exit
//! 0x0a00_0000  virtio-mmio disks            0x080a_0000  GICv3 redistributors, 128 KiB each
//! 0x1000_0000  GICv3 redistributors of more than 123 vCPUs
//! 0x4000_0000  RAM: images                  … the initial RAM disk
//!  end - 2 MiB - 64 KiB  start-up stack      end - 2 MiB  device tree
//! ```
//!
//! The end is that of RAM, or 4 GiB if there is more.

/// GIC distributor.
pub(crate) const GIC_DISTRIBUTOR: u64 = 0x0800_0000;
/// Bytes of a `GICv3` distributor; a `GICv2` distributor has less.
pub(crate) const GIC_DISTRIBUTOR_BYTES: u64 = 0x1_0000;
/// `GICv2` CPU interface.
pub(crate) const GIC_CPU_INTERFACE: u64 = 0x0801_0000;
/// Bytes of it.
pub(crate) const GIC_CPU_INTERFACE_BYTES: u64 = 0x2000;
/// Bytes of one redistributor.
pub(crate) const GIC_REDISTRIBUTOR_BYTES: u64 = 0x2_0000;

/// Serial port.
pub(crate) const SERIAL: u64 = 0x0900_0000;
/// Bytes of its window.
pub(crate) const SERIAL_BYTES: u64 = 0x1000;
/// Shared peripheral interrupt of the serial port, counted from 0.
pub(crate) const SERIAL_GSI: u32 = 1;
/// A guest ends here with a status.
pub(crate) const DEBUG_EXIT: u64 = 0x0908_0000;
/// Bytes of its window.
pub(crate) const DEBUG_EXIT_BYTES: u64 = 0x1000;
/// First virtio-mmio device; each has a page.
pub(crate) const VIRTIO_MMIO: u64 = 0x0a00_0000;
/// Bytes of one virtio-mmio device's window.
pub(crate) const VIRTIO_MMIO_BYTES: u64 = 0x1000;
/// Shared peripheral interrupt of the first virtio-mmio device.
pub(crate) const VIRTIO_GSI: u32 = 16;
/// Number of virtio-mmio devices.
pub(crate) const MAX_DISKS: usize = 8;
/// Number of interrupts of the GIC: 32 private ones, and as many shared ones.
pub(crate) const GIC_INTERRUPTS: u32 = 64;

/// Start of RAM.
pub(crate) const RAM: u64 = 0x4000_0000;
/// Where what the machine adds to the images ends at the latest.
const LOW_END: u64 = 0x1_0000_0000;
/// Room for the device tree (Linux documentation, "Booting AArch64 Linux": at most 2 MiB).
pub(crate) const DEVICE_TREE_BYTES: u64 = 2 << 20;
/// Room for the start-up stack.
const STACK_BYTES: u64 = 64 << 10;

/// Returns the address of the redistributors of `count` vCPUs.
pub(crate) const fn gic_redistributors(count: u64) -> u64 {
    const FEW: u64 = 0x080a_0000;
    const MANY: u64 = 0x1000_0000;
    if FEW + count * GIC_REDISTRIBUTOR_BYTES <= SERIAL {
        FEW
    } else {
        MANY
    }
}

/// Returns start and length in bytes of the ranges of `len_bytes` of RAM.
pub(crate) fn ram(len_bytes: u64) -> Vec<(u64, u64)> {
    vec![(RAM, len_bytes)]
}

/// Returns the address of the device tree in a machine whose RAM ends at `ram_end`.
pub(crate) fn device_tree(ram_end: u64) -> u64 {
    (ram_end.min(LOW_END) & !0xffff).saturating_sub(DEVICE_TREE_BYTES)
}

/// Returns the top of the start-up stack.
pub(crate) fn stack_top(ram_end: u64) -> u64 {
    device_tree(ram_end).saturating_sub(16)
}

/// Returns the lowest address for the initial RAM disk, and where it ends at the latest.
pub(crate) fn initrd_room(ram_end: u64) -> (u64, u64) {
    (RAM, device_tree(ram_end).saturating_sub(STACK_BYTES))
}
