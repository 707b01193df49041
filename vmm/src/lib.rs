//! A small virtual machine monitor on Linux KVM for x86-64 guests on x86-64 and AArch64 guests on AArch64.
//!
//! It boots stock Linux kernels and other images on a machine with a serial console and virtio-mmio disks,
//! and leaves the running of the vCPUs to `trapline-kvm`. What a plain image finds when it starts is the
//! *boot contract*.
//!
//! # x86-64
//! Linux bzImage, PVH and plain ELF images, Multiboot images and flat binaries, with ACPI.
//!
//! - 64-bit mode with interrupts off, the first 4 GiB identity mapped by writable 2 MiB pages;
//! - CS = 0x10, DS = ES = SS = 0x18, both flat; an empty interrupt descriptor table;
//! - RSI = address of Linux's `boot_params` (memory map, command line, RSDP), RDI = number of vCPUs;
//! - RSP = top of a stack of 4 KiB; all other vCPUs wait for a start-up interrupt.
//!
//! | address | device |
//! |---|---|
//! | ports 0x3f8–0x3ff, interrupt 4 | serial port, 16550 |
//! | ports 0x600–0x60b, interrupt 9 | ACPI power management; 0x2000 written to 0x604 powers off |
//! | port 0xcf9 | reset control: a write with bit 2 set resets |
//! | port 0x64 | keyboard controller: a write of 0xfe resets |
//! | port 0xf4 | debug exit: a write ends the guest with that status |
//! | 0xd0000000 + 4096 n, interrupt 16 + n | virtio-mmio disk n |
//!
//! # AArch64
//! Linux Image, plain ELF images and flat binaries, with a device tree. GIC, console and RAM are where
//! QEMU's machine `virt` has them.
//!
//! - EL1 with its own stack pointer, MMU and caches off, all exceptions masked;
//! - X0 = address of the device tree, X1 to X3 are 0; SP = top of a stack of 64 KiB;
//! - all other vCPUs are off until PSCI `CPU_ON`, by HVC; power-off and reset are PSCI's too.
//!
//! | address | device |
//! |---|---|
//! | 0x08000000 | GIC distributor; `GICv2` CPU interface at 0x08010000, `GICv3` redistributors at 0x080a0000 |
//! | 0x09000000, SPI 1 | serial port, 16550, a register each byte |
//! | 0x09080000 | debug exit: a write ends the guest with that status |
//! | 0x0a000000 + 4096 n, SPI 16 + n | virtio-mmio disk n |
//! | 0x40000000 | RAM |
//!
//! ```no_run
//! use trapline_vmm::{Image, Vm, VmConfig};
//!
//! let mut config = VmConfig::new(Image::File("vmlinuz".into()));
//! config.vcpu_count = 2;
//! let mut vm = Vm::new(&config)?;
//! let vcpus = vm.take_vcpus();
//! # Ok::<(), trapline_vmm::VmmError>(())
//! ```

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod config;
mod console;
mod devices;
mod error;
mod event;
mod loader;
mod memory;
mod vm;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as host;
#[cfg(target_arch = "x86_64")]
use x86_64 as host;

pub use config::{Console, Image, KernelFormat, MAX_VCPUS, MIN_MEMORY_BYTES, VmConfig};
pub use console::{ConsoleError, restore_terminal};
pub use devices::{DiskError, End, EndEvents, EndedBy};
pub use error::VmmError;
pub use host::Devices;
pub use loader::{ImageKind, LoadError};
pub use vm::Vm;
