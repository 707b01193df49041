//! The memory map for the guest's kernel.

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout::{HIGH_RAM, LOW_RAM_END};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        memory::{allocate, low_end},
        x86_64::layout::{HOLE_END, HOLE_START},
    };

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
}
