//! Kernel-virtual memory, and how to reach the kernel image in it without a page walk.

use trapline_arch::{Gpa, Gva, PhysicalMemory};

/// Virtual memory that can be read without side effects.
///
/// The engine implements this with a vCPU's page tables; [`ImageMemory`] implements it for the
/// kernel image alone.
pub trait VirtualMemory {
    /// Copies memory from `address` on into `buffer` and returns how many leading bytes were
    /// copied.
    ///
    /// A result shorter than the buffer means that the next byte is not mapped or not readable.
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize;
}

/// The linear mapping of the kernel image: one distance between virtual and physical addresses.
///
/// The image of x86-64 stands at `__START_KERNEL_map` less `phys_base`; that of AArch64 at
/// `kimage_voffset`. Both are in VMCOREINFO (Linux `Documentation/admin-guide/kdump/vmcoreinfo.rst`),
/// so that the image can be read before any page table is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageMapping {
    first: Gva,
    len_bytes: u64,
    distance: u64,
}

impl ImageMapping {
    /// Creates the mapping of `len_bytes` from `first` on, where a physical address is the virtual
    /// one less `distance`, modulo 2^64.
    #[must_use]
    pub const fn new(first: Gva, len_bytes: u64, distance: u64) -> Self {
        Self {
            first,
            len_bytes,
            distance,
        }
    }

    /// Returns the physical address of `address`, or `None` outside the image's mapping.
    #[must_use]
    pub const fn physical(&self, address: Gva) -> Option<Gpa> {
        if address.0.wrapping_sub(self.first.0) < self.len_bytes && address.0 >= self.first.0 {
            Some(Gpa(address.0.wrapping_sub(self.distance)))
        } else {
            None
        }
    }

    /// Returns how many bytes of the mapping there are from `address` on, zero outside it.
    #[must_use]
    pub const fn len_from(&self, address: Gva) -> u64 {
        match address.0.checked_sub(self.first.0) {
            Some(offset) => self.len_bytes.saturating_sub(offset),
            None => 0,
        }
    }
}

/// The kernel image's virtual memory, read through an [`ImageMapping`].
///
/// It does not see `vmalloc` memory, modules or the linear map of all memory.
#[derive(Clone, Copy)]
pub struct ImageMemory<'a> {
    memory: &'a dyn PhysicalMemory,
    mapping: ImageMapping,
}

impl<'a> ImageMemory<'a> {
    /// Creates the view of the image in `memory`.
    #[must_use]
    pub const fn new(memory: &'a dyn PhysicalMemory, mapping: ImageMapping) -> Self {
        Self { memory, mapping }
    }
}

impl VirtualMemory for ImageMemory<'_> {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        let mapped = usize::try_from(self.mapping.len_from(address)).unwrap_or(usize::MAX);
        let len_bytes = buffer.len().min(mapped);
        match (self.mapping.physical(address), buffer.get_mut(..len_bytes)) {
            (Some(physical), Some(buffer)) => self.memory.read_physical(physical, buffer),
            _ => 0,
        }
    }
}

impl core::fmt::Debug for ImageMemory<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ImageMemory")
            .field("mapping", &self.mapping)
            .finish_non_exhaustive()
    }
}

/// Physical memory seen as virtual memory with equal addresses.
///
/// It serves tables that were found by their physical addresses, by a
/// [`TableScanner`](crate::TableScanner).
#[derive(Clone, Copy)]
pub struct PhysicalView<'a>(pub &'a dyn PhysicalMemory);

impl VirtualMemory for PhysicalView<'_> {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        self.0.read_physical(Gpa(address.0), buffer)
    }
}

impl core::fmt::Debug for PhysicalView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PhysicalView").finish_non_exhaustive()
    }
}

/// Reads exactly `buffer.len()` bytes; `false` where any of them is missing.
pub(crate) fn read_exact(memory: &dyn VirtualMemory, address: Gva, buffer: &mut [u8]) -> bool {
    let mut done = 0_usize;
    // A reader may stop at a page border, so a short read is no end until it yields nothing.
    while done < buffer.len() {
        let Some(rest) = buffer.get_mut(done..) else {
            return false;
        };
        let Some(next) = address.checked_add(done as u64) else {
            return false;
        };
        match memory.read_virtual(next, rest).min(rest.len()) {
            0 => return false,
            count => done = done.saturating_add(count),
        }
    }
    true
}

/// Reads a little-endian 64-bit word, or `None` where any of its bytes is missing.
pub(crate) fn read_u64(memory: &dyn VirtualMemory, address: Gva) -> Option<u64> {
    let mut bytes = [0; 8];
    read_exact(memory, address, &mut bytes).then(|| u64::from_le_bytes(bytes))
}

/// Reads a little-endian 32-bit word, or `None` where any of its bytes is missing.
pub(crate) fn read_u32(memory: &dyn VirtualMemory, address: Gva) -> Option<u32> {
    let mut bytes = [0; 4];
    read_exact(memory, address, &mut bytes).then(|| u32::from_le_bytes(bytes))
}
