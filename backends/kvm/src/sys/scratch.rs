//! Memory for guests that are run only to see what KVM does.
#![expect(unsafe_code, reason = "KVM is told of memory by its address")]

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;

/// Length of the memory in bytes, at guest-physical address 0.
pub(crate) const SCRATCH_BYTES: u64 = 0x3_0000;

/// Memory that is mapped as long as the process lives, so that no guest can outlive it. One trial
/// has it at a time.
#[derive(Debug)]
pub(crate) struct ScratchMemory {
    map: Arc<GuestMemoryMmap>,
}

impl ScratchMemory {
    /// Waits for the memory. `None` if it cannot be mapped.
    pub(crate) fn lock() -> Option<MutexGuard<'static, Self>> {
        static SCRATCH: OnceLock<Option<Mutex<ScratchMemory>>> = OnceLock::new();
        let scratch = SCRATCH.get_or_init(|| {
            let len = usize::try_from(SCRATCH_BYTES).ok()?;
            let map = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).ok()?;
            Some(Mutex::new(Self { map: Arc::new(map) }))
        });
        Some(
            scratch
                .as_ref()?
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Maps memory of its own for a test, for good.
    #[cfg(test)]
    pub(crate) fn for_a_test() -> Self {
        let len = usize::try_from(SCRATCH_BYTES).unwrap();
        let map = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).unwrap());
        core::mem::forget(map.clone());
        Self { map }
    }

    /// Returns the memory.
    pub(crate) fn map(&self) -> Arc<GuestMemoryMmap> {
        self.map.clone()
    }

    /// Makes it the memory of `vm`, which has none yet.
    pub(crate) fn add_to(&self, vm: &VmFd) -> Result<(), errno::Error> {
        for (slot, region) in (0..).zip(self.map.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the range is mapped until the process ends and is only ever accessed as
            // volatile memory.
            unsafe { vm.set_user_memory_region(region) }?;
        }
        Ok(())
    }
}
