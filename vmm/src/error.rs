//! Why a virtual machine could not be made.

use std::{io, path::PathBuf};

use crate::{console::ConsoleError, devices::DiskError, loader::LoadError};

/// Why a virtual machine could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// There is no `/dev/kvm`.
    #[error(
        "there is no /dev/kvm: load the module kvm_intel or kvm_amd, and turn virtualization on in \
         the firmware's settings"
    )]
    NoKvm,
    /// `/dev/kvm` may not be opened.
    #[error("no permission to open /dev/kvm: add the user to the group kvm (usermod -aG kvm NAME)")]
    KvmPermission,
    /// A call to KVM failed.
    #[error("KVM refused {call}")]
    Kvm {
        /// The call.
        call: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// This KVM lacks something that the VMM cannot do without.
    #[error("this KVM lacks {0}")]
    KvmLacks(&'static str),
    /// The number of vCPUs is out of range.
    #[error("{asked} vCPUs were asked for; from 1 to {most} are possible")]
    VcpuCount {
        /// What was asked for.
        asked: u32,
        /// The most that this KVM and this VMM can do.
        most: u32,
    },
    /// The amount of memory is unusable.
    #[error("{0} bytes of guest memory: at least 4 MiB and a multiple of 4096 are needed")]
    MemorySize(u64),
    /// The host did not give the guest's memory.
    #[error("the host has no {len_bytes} bytes of address space for the guest's memory")]
    NoMemory {
        /// Bytes asked for.
        len_bytes: u64,
        /// Why.
        source: vm_memory::mmap::FromRangesError,
    },
    /// A structure for the guest does not fit into its memory.
    #[error("guest memory has no room for {0}")]
    NoRoom(&'static str),
    /// The kernel could not be loaded.
    #[error("cannot load kernel {}", .name.display())]
    Kernel {
        /// The image's file or name.
        name: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// The initial RAM disk could not be loaded.
    #[error("cannot load initrd {}", .path.display())]
    Initrd {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LoadError,
    },
    /// A disk could not be attached.
    #[error("cannot attach disk {}", .path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DiskError,
    },
    /// There are too many disks.
    #[error("{0} disks were asked for; at most 8 are possible")]
    DiskCount(usize),
    /// The console could not be set up.
    #[error("cannot set up the console")]
    Console(#[from] ConsoleError),
    /// The host refused an event or a thread.
    #[error("the host refused an event descriptor or a thread")]
    Host(#[from] io::Error),
}

/// Turns the error of KVM call `call` into ours.
pub(crate) fn kvm(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmmError {
    move |source| VmmError::Kvm { call, source }
}
