//! Guest memory of the vm-memory crate as the debugger sees it.

use core::fmt;
use core::ops::RangeInclusive;
use std::sync::Arc;

use trapline_arch::{Gpa, PhysicalMemory};
use trapline_engine::contract::{GuestMemory, MemoryKind, MemoryRegion};
use vm_memory::bitmap::Bitmap;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::sys::make_executable;

/// Guest memory that every part of the debugger shares.
pub type SharedMemory = Arc<dyn GuestMemory + Send + Sync>;

/// A handle on guest memory whose `Debug` does not ask for more than the trait gives.
#[derive(Clone)]
pub(crate) struct MemoryHandle(pub(crate) SharedMemory);

impl fmt::Debug for MemoryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryHandle")
            .field(&self.0.regions())
            .finish()
    }
}

/// Memory of a guest that runs.
///
/// Bytes are copied in and out, never borrowed, so the guest and devices may write them meanwhile.
/// A write marks the region's dirty bitmap, if it keeps one, so that live migration and snapshots
/// see what the debugger changed.
///
/// `S` is anything that yields the memory map of the moment: an `Arc<GuestMemoryMmap>`, or a
/// `GuestMemoryAtomic` where memory is hot-plugged.
pub struct GuestRam<S> {
    space: S,
    rom: Vec<RangeInclusive<u64>>,
}

impl<S> GuestRam<S> {
    /// Wraps an address space, all of which the guest can write.
    pub const fn new(space: S) -> Self {
        Self {
            space,
            rom: Vec::new(),
        }
    }

    /// Says that the regions that start in `addresses` are read-only to the guest
    /// (`KVM_MEM_READONLY`). The debugger can write them where this process can.
    #[must_use]
    pub fn with_rom(mut self, addresses: RangeInclusive<u64>) -> Self {
        self.rom.push(addresses);
        self
    }

    fn kind(&self, start: u64) -> MemoryKind {
        if self.rom.iter().any(|addresses| addresses.contains(&start)) {
            MemoryKind::Rom
        } else {
            MemoryKind::Ram
        }
    }
}

impl<S> fmt::Debug for GuestRam<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestRam")
            .field("rom", &self.rom)
            .finish_non_exhaustive()
    }
}

impl<S, B> PhysicalMemory for GuestRam<S>
where
    S: GuestAddressSpace<M = GuestMemoryMmap<B>>,
    B: Bitmap + 'static,
{
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        self.space
            .memory()
            .read(buffer, GuestAddress(address.0))
            .unwrap_or(0)
    }
}

impl<S, B> GuestMemory for GuestRam<S>
where
    S: GuestAddressSpace<M = GuestMemoryMmap<B>> + Sync,
    B: Bitmap + 'static,
{
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let memory = self.space.memory();
        let mut done: usize = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let Some(next) = address.checked_add(done as u64) else {
                break;
            };
            let Some((region, offset)) = memory.to_region_addr(GuestAddress(next.0)) else {
                break;
            };
            // A region that this process maps without write access would kill it.
            if region.prot() & libc::PROT_WRITE == 0 {
                break;
            }
            match region.write(rest, offset) {
                Ok(len) if len != 0 => {
                    done = done.saturating_add(len);
                    if let Ok(written) = region.get_slice(offset, len) {
                        make_executable(&written);
                    }
                }
                Ok(_) | Err(_) => break,
            }
        }
        done
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        let memory = self.space.memory();
        let regions = memory.iter().map(|region| MemoryRegion {
            start: Gpa(region.start_addr().0),
            len_bytes: region.len(),
            kind: self.kind(region.start_addr().0),
        });
        regions.collect()
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::bitmap::AtomicBitmap;
    use vm_memory::mmap::MmapRegionBuilder;
    use vm_memory::{GuestRegionMmap, MmapRegion};

    use super::*;

    fn two_regions_and_a_hole() -> GuestRam<Arc<GuestMemoryMmap<AtomicBitmap>>> {
        let ranges = [
            (GuestAddress(0), 0x2000),
            (GuestAddress(0x2000), 0x1000),
            (GuestAddress(0x8000), 0x1000),
        ];
        GuestRam::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()))
    }

    #[test]
    fn access_crosses_regions_and_ends_at_a_hole() {
        let memory = two_regions_and_a_hole();
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(memory.write_physical(Gpa(0x1f80), &bytes), 256);
        let mut buffer = [0; 256];
        assert_eq!(memory.read_physical(Gpa(0x1f80), &mut buffer), 256);
        assert_eq!(&buffer[..], &bytes[..]);
        assert_eq!(memory.write_physical(Gpa(0x2ff0), &bytes), 16);
        assert_eq!(memory.read_physical(Gpa(0x2ff0), &mut buffer), 16);
        assert_eq!(memory.read_physical(Gpa(0x4000), &mut buffer), 0);
        assert_eq!(memory.write_physical(Gpa(u64::MAX), &bytes), 0);
    }

    #[test]
    fn write_marks_the_dirty_bitmap_and_read_does_not() {
        let memory = two_regions_and_a_hole();
        let mut byte = [0];
        assert_eq!(memory.read_physical(Gpa(0x8000), &mut byte), 1);
        let region = memory.space.find_region(GuestAddress(0x8000)).unwrap();
        assert!(!region.bitmap().dirty_at(0));
        assert_eq!(memory.write_physical(Gpa(0x8000), &byte), 1);
        assert!(region.bitmap().dirty_at(0));
    }

    #[test]
    fn rom_is_told_apart_and_written_where_the_host_can() {
        let memory = two_regions_and_a_hole().with_rom(0x8000..=0x8fff);
        let kinds: Vec<_> = memory
            .regions()
            .into_iter()
            .map(|region| region.kind)
            .collect();
        assert_eq!(kinds, [MemoryKind::Ram, MemoryKind::Ram, MemoryKind::Rom]);
        assert_eq!(memory.write_physical(Gpa(0x8000), &[1]), 1);
    }

    #[test]
    fn memory_mapped_read_only_is_read_but_not_written() {
        let mapping: MmapRegion = MmapRegionBuilder::new(0x1000)
            .with_mmap_prot(libc::PROT_READ)
            .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE)
            .build()
            .unwrap();
        let region = GuestRegionMmap::new(mapping, GuestAddress(0)).unwrap();
        let memory = Arc::new(GuestMemoryMmap::from_regions(vec![region]).unwrap());
        let memory = GuestRam::new(memory);
        assert_eq!(memory.write_physical(Gpa(0), &[1]), 0);
        assert_eq!(memory.read_physical(Gpa(0), &mut [0]), 1);
    }
}
