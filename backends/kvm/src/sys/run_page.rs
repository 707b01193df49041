//! A vCPU's page shared with KVM, mapped once more for the use of other threads.
#![expect(unsafe_code, reason = "maps and reads memory that the kernel writes")]

use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicU8;
use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::kvm_run;

/// Length of the mapping: the fixed part of `struct kvm_run` lies in the first page.
const LEN_BYTES: usize = 4096;

const _: () = assert!(size_of::<kvm_run>() <= LEN_BYTES);

/// A second mapping of a vCPU's `struct kvm_run`.
///
/// `VcpuFd` hands its own mapping out by `&mut`, so nobody else may touch memory through it. This
/// one belongs to no reference: it is read and written a field at a time. It keeps the vCPU's file
/// open in the kernel.
#[derive(Debug)]
pub(crate) struct RunPage {
    pub(super) page: NonNull<u8>,
}

// SAFETY: the mapping is owned and of no thread in particular.
unsafe impl Send for RunPage {}
// SAFETY: all access through `&self` is by atomics or volatile reads.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the page of `vcpu`, a vCPU's file.
    pub(crate) fn map(vcpu: &impl AsRawFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice affects no existing memory.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                LEN_BYTES,
                protection,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast())
            .map(|page| Self { page })
            .ok_or(io::ErrorKind::OutOfMemory.into())
    }

    /// Returns `immediate_exit`: while it is not 0, `KVM_RUN` completes what the last exit left open
    /// and comes back with EINTR instead of entering the guest.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the offset is that of a field of `kvm_run`, which the mapping holds.
        let field = unsafe { self.page.as_ptr().add(offset_of!(kvm_run, immediate_exit)) };
        // SAFETY: the byte is valid while `self` is, and this process accesses it in this mapping
        // only here, atomically; KVM reads it with a single access.
        unsafe { AtomicU8::from_ptr(field) }
    }

    /// Returns the reason of `KVM_EXIT_INTERNAL_ERROR`.
    pub(crate) fn internal_suberror(&self) -> u32 {
        let offset = offset_of!(kvm_run, __bindgen_anon_1.internal.suberror);
        // SAFETY: the offset is that of a field of `kvm_run`, which the mapping holds.
        let field = unsafe { self.page.as_ptr().add(offset) };
        // SAFETY: the field is valid while `self` is and aligned as the page is, and any value is a
        // `u32`.
        unsafe { field.cast::<u32>().read_volatile() }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and no borrow of it outlives `self`.
        unsafe { libc::munmap(self.page.as_ptr().cast(), LEN_BYTES) };
    }
}
