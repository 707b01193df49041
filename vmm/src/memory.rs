//! A guest's memory: made, given to KVM, and described.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};

use crate::{
    VmmError,
    config::MIN_MEMORY_BYTES,
    error::kvm,
    layout::{HIGH_RAM, HOLE_END, HOLE_START, LOW_RAM_END},
};

/// A range of the guest-physical address space, as firmware tells it to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapEntry {
    /// First address.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) len_bytes: u64,
    /// Whether a kernel may use it as it likes.
    pub(crate) usable: bool,
}

/// Makes `len_bytes` of guest memory. No page of it is touched.
pub(crate) fn allocate(len_bytes: u64) -> Result<GuestMemoryMmap, VmmError> {
    if len_bytes < MIN_MEMORY_BYTES || !len_bytes.is_multiple_of(4096) {
        return Err(VmmError::MemorySize(len_bytes));
    }
    let below = len_bytes.min(HOLE_START);
    let above = len_bytes - below;
    let too_big = |_| VmmError::MemorySize(len_bytes);
    let mut ranges = vec![(GuestAddress(0), usize::try_from(below).map_err(too_big)?)];
    if above > 0 {
        ranges.push((
            GuestAddress(HOLE_END),
            usize::try_from(above).map_err(too_big)?,
        ));
    }
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

/// Returns the memory map for the guest's kernel, in ascending order.
pub(crate) fn map(memory: &GuestMemoryMmap) -> Vec<MapEntry> {
    let mut entries = vec![
        MapEntry {
            start: 0,
            len_bytes: LOW_RAM_END,
            usable: true,
        },
        MapEntry {
            start: LOW_RAM_END,
            len_bytes: HIGH_RAM - LOW_RAM_END,
            usable: false,
        },
    ];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(HIGH_RAM);
        let end = region.start_addr().raw_value() + region.len();
        if start < end {
            entries.push(MapEntry {
                start,
                len_bytes: end - start,
                usable: true,
            });
        }
    }
    entries
}

/// Returns the end of the RAM that begins at 0.
pub(crate) fn low_end(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().next().map_or(0, GuestMemoryRegion::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_a_hole_below_4_gib() {
        let memory = allocate(HOLE_START + 0x20_0000).expect("address space");
        let map = map(&memory);
        assert_eq!(map.len(), 4);
        assert_eq!(
            map[2],
            MapEntry {
                start: HIGH_RAM,
                len_bytes: HOLE_START - HIGH_RAM,
                usable: true
            }
        );
        assert_eq!(
            map[3],
            MapEntry {
                start: HOLE_END,
                len_bytes: 0x20_0000,
                usable: true
            }
        );
        assert_eq!(low_end(&memory), HOLE_START);
    }

    #[test]
    fn odd_sizes_are_refused() {
        for len_bytes in [0, 4096, (8 << 20) + 1] {
            assert!(matches!(allocate(len_bytes), Err(VmmError::MemorySize(_))));
        }
    }
}
