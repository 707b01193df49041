//! A guest's memory: made, given to KVM, and described.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use crate::{VmmError, config::MIN_MEMORY_BYTES, error::kvm, host::layout::ram};

/// Makes `len_bytes` of guest memory. No page of it is touched.
pub(crate) fn allocate(len_bytes: u64) -> Result<GuestMemoryMmap, VmmError> {
    if len_bytes < MIN_MEMORY_BYTES || !len_bytes.is_multiple_of(4096) {
        return Err(VmmError::MemorySize(len_bytes));
    }
    let too_big = |_| VmmError::MemorySize(len_bytes);
    let range = |(start, len_bytes)| {
        let len_bytes = usize::try_from(len_bytes).map_err(too_big)?;
        Ok((GuestAddress(start), len_bytes))
    };
    let ranges: Vec<_> = ram(len_bytes)
        .into_iter()
        .map(range)
        .collect::<Result<_, VmmError>>()?;
    GuestMemoryMmap::from_ranges(&ranges).map_err(|source| VmmError::NoMemory { len_bytes, source })
}

/// Gives the memory to a virtual machine, which must not outlive it.
#[expect(unsafe_code, reason = "KVM is told of host memory by its address")]
pub(crate) fn register(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), VmmError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|_| VmmError::NoRoom("its own description"))?;
        let description = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host.addr() as u64,
        };
        // SAFETY: the range is a live mapping that `memory` owns, of exactly this length. `Vm` keeps
        // a handle to it for as long as it has the VM's descriptor, and hands out both together.
        unsafe { vm.set_user_memory_region(description) }
            .map_err(kvm("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// Returns the end of the first region of RAM.
pub(crate) fn low_end(memory: &GuestMemoryMmap) -> u64 {
    memory
        .iter()
        .next()
        .map_or(0, |region| region.start_addr().raw_value() + region.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_sizes_are_refused() {
        for len_bytes in [0, 4096, (8 << 20) + 1] {
            assert!(matches!(allocate(len_bytes), Err(VmmError::MemorySize(_))));
        }
    }
}
