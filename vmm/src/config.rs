//! What a virtual machine is to be made of.

use std::path::PathBuf;

/// Least guest memory, in bytes.
pub const MIN_MEMORY_BYTES: u64 = 4 << 20;

/// Most vCPUs: the identifiers of xAPIC mode.
pub const MAX_VCPUS: u32 = 254;

/// What a virtual machine is to be made of.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// What to boot.
    pub kernel: Image,
    /// How to take the kernel's image.
    pub format: KernelFormat,
    /// Initial RAM disk, or the first Multiboot module.
    pub initrd: Option<PathBuf>,
    /// Kernel command line. `console=ttyS0` is added for a Linux kernel if there is no `console=`.
    pub cmdline: String,
    /// Number of vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpu_count: u32,
    /// Guest memory in bytes, a multiple of 4096 and at least [`MIN_MEMORY_BYTES`].
    pub memory_bytes: u64,
    /// Disks, in the order in which the guest finds them; at most 8.
    pub disks: Vec<PathBuf>,
    /// Where the serial line leads.
    pub console: Console,
}

impl VmConfig {
    /// Returns a machine with one vCPU, 256 MiB, no disk and no console.
    #[must_use]
    pub const fn new(kernel: Image) -> Self {
        Self {
            kernel,
            format: KernelFormat::Detect,
            initrd: None,
            cmdline: String::new(),
            vcpu_count: 1,
            memory_bytes: 256 << 20,
            disks: Vec::new(),
            console: Console::None,
        }
    }
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A file.
    File(PathBuf),
    /// Bytes that are part of the program, and a name for messages.
    Bytes(&'static str, &'static [u8]),
}

/// How to take a kernel image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFormat {
    /// By what its first bytes say.
    Detect,
    /// As plain code and data, copied to this guest-physical address and entered there: on x86-64 in
    /// real mode below 1 MiB, else by the boot contract of a plain 64-bit ELF image.
    Flat(u64),
}

/// Where a serial line leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// To standard input and output, which are put in raw mode if they are a terminal. Ctrl-A x ends
    /// the guest, Ctrl-A Ctrl-A sends one Ctrl-A.
    Stdio,
    /// To a new pseudo-terminal; [`Vm::console_path`](crate::Vm::console_path) tells its name.
    Pty,
    /// Into a file, which is overwritten.
    File(PathBuf),
    /// Nowhere.
    None,
}
