//! Where things are in a guest's physical address space.
//!
//! ```text
//! 0x0000_0500  GDT                          0x0000_7000  boot_params, or what the protocol has instead
//! 0x0000_8000  start-up stack (4 KiB)       0x0000_9000  page tables (6 pages)
//! 0x0001_0000  free for images              0x0002_0000  command line (64 KiB)
//! 0x0003_0000  free for images              0x0009_fc00  reserved for firmware
//! 0x000e_0000  ACPI tables                  0x0010_0000  RAM up to 3 GiB, images and initrd
//! 0xc000_0000  devices                      0xfec0_0000  I/O APIC
//! 0xfee0_0000  local APICs                  0x1_0000_0000  the rest of RAM
//! ```

/// GDT of the start-up state.
pub(crate) const GDT: u64 = 0x500;
/// Structures that PVH adds to its start-info page.
pub(crate) const PVH_TABLES: u64 = 0x6000;
/// Linux's `boot_params`, PVH's start info or Multiboot's information structure.
pub(crate) const BOOT_INFO: u64 = 0x7000;
/// Top of the start-up stack.
pub(crate) const STACK_TOP: u64 = 0x8ff0;
/// Page tables of the start-up state: one PML4, one PDPT, four page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// First address that is free for images.
pub(crate) const IMAGE_LOW: u64 = 0x1_0000;
/// Kernel command line, zero-terminated.
pub(crate) const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line in bytes, the final zero included.
pub(crate) const COMMAND_LINE_BYTES: u64 = 0x1_0000;
/// End of conventional memory.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables, which begin with the RSDP.
pub(crate) const ACPI: u64 = 0xe_0000;
/// First byte past the ACPI tables.
pub(crate) const ACPI_END: u64 = 0x10_0000;
/// Start of extended memory.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;
/// Start of the hole for devices below 4 GiB.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// End of the hole.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;
/// First virtio-mmio device; each has a page.
pub(crate) const VIRTIO_MMIO: u64 = 0xd000_0000;
/// Bytes of one virtio-mmio device's window.
pub(crate) const VIRTIO_MMIO_BYTES: u64 = 0x1000;
/// I/O APIC.
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// Local APICs.
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Page that Intel hosts need for the guest's real mode (KVM API, `KVM_SET_IDENTITY_MAP_ADDR`).
pub(crate) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for the same (KVM API, `KVM_SET_TSS_ADDR`).
pub(crate) const TSS: u64 = 0xfffb_d000;

/// First serial port.
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
/// Interrupt of the first serial port.
pub(crate) const SERIAL_GSI: u32 = 4;
/// Interrupt of the ACPI power-management registers.
pub(crate) const SCI: u8 = 9;
/// PM1 event block, 4 bytes.
pub(crate) const PM1_EVENT_PORT: u16 = 0x600;
/// PM1 control block, 2 bytes.
pub(crate) const PM1_CONTROL_PORT: u16 = 0x604;
/// Power-management timer, 4 bytes.
pub(crate) const PM_TIMER_PORT: u16 = 0x608;
/// Reset control register.
pub(crate) const RESET_PORT: u16 = 0xcf9;
/// Data port of the keyboard controller; its command port is 4 further on.
pub(crate) const KEYBOARD_PORT: u16 = 0x60;
/// A guest ends here with a status.
pub(crate) const DEBUG_EXIT_PORT: u16 = 0xf4;
/// First interrupt of the virtio-mmio devices, past those of the ISA bus.
pub(crate) const VIRTIO_GSI: u32 = 16;
/// Number of virtio-mmio devices, which is the number of I/O APIC pins past the ISA bus's.
pub(crate) const MAX_DISKS: usize = 8;
/// Returns start and length in bytes of the ranges of `len_bytes` of RAM.
pub(crate) fn ram(len_bytes: u64) -> Vec<(u64, u64)> {
    let below = len_bytes.min(HOLE_START);
    let mut ranges = vec![(0, below)];
    if len_bytes > below {
        ranges.push((HOLE_END, len_bytes - below));
    }
    ranges
}

/// Returns the lowest address for the initial RAM disk, and where it ends at the latest: kernels
/// before 5.0 or so want it below 2 GiB (`initrd_addr_max`).
pub(crate) fn initrd_room(ram_end: u64) -> (u64, u64) {
    (HIGH_RAM, ram_end.min(0x7fff_f000))
}
