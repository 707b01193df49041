//! The guest's memory, as the hypervisor reaches it: at its own address.

#![expect(unsafe_code, reason = "guest memory is shared with the guest")]

use alloc::vec::Vec;

use trapline_arch::{Gpa, PhysicalMemory};
use trapline_engine::{GuestMemory, MemoryKind, MemoryRegion};
use trapline_hypervisor::Span;

use super::sysreg::{clean_and_drop, sync_code};

/// RAM but for the hypervisor's.
#[derive(Clone, Debug)]
pub(super) struct Ram {
    spans: Vec<Span>,
}

impl Ram {
    /// # Safety
    /// All of `spans` is memory that the hypervisor's tables map, and none of it the hypervisor's own.
    pub(super) unsafe fn new(spans: Vec<Span>) -> Self {
        Self { spans }
    }

    /// Returns how many of `len` bytes from `address` on are there.
    fn present(&self, address: Gpa, len: usize) -> usize {
        let span = self.spans.iter().find(|span| span.contains(address.0));
        let left = span.map_or(0, |span| span.end - address.0);
        usize::try_from(left).map_or(len, |left| left.min(len))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "addresses have 64 bits here"
)]
const fn pointer(address: Gpa) -> *mut u8 {
    address.0 as usize as *mut u8
}

impl PhysicalMemory for Ram {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let len = self.present(address, buffer.len());
        // A guest with its caches off writes past what ours have.
        clean_and_drop(pointer(address) as usize, len);
        for (index, byte) in buffer.iter_mut().take(len).enumerate() {
            let byte_in_memory = pointer(address).wrapping_add(index);
            // SAFETY: `present` has bounded the address to memory that `Ram::new` was promised.
            *byte = unsafe { byte_in_memory.read_volatile() };
        }
        len
    }
}

impl GuestMemory for Ram {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let len = self.present(address, bytes.len());
        let is_word = len == 4 && address.0.is_multiple_of(4);
        if let Some(word) = bytes.first_chunk::<4>().filter(|_| is_word) {
            // An instruction that another processor may fetch is changed as a whole.
            let pointer = pointer(address).cast::<u32>();
            // SAFETY: as for reads; the address is aligned.
            unsafe { pointer.write_volatile(u32::from_le_bytes(*word)) }
        } else {
            for (index, byte) in bytes.iter().take(len).enumerate() {
                let byte_in_memory = pointer(address).wrapping_add(index);
                // SAFETY: as for reads.
                unsafe { byte_in_memory.write_volatile(*byte) }
            }
        }
        if len > 0 {
            sync_code(pointer(address) as usize, len);
        }
        len
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        let region = |span: &Span| MemoryRegion {
            start: Gpa(span.start),
            len_bytes: span.len_bytes(),
            kind: MemoryKind::Ram,
        };
        self.spans.iter().map(region).collect()
    }
}
