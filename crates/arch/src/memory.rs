//! Guest-physical memory as the page walkers and symbol finders see it.

use crate::Gpa;

/// Guest-physical memory that can be read without side effects.
///
/// Another party (the guest) may write the memory at any time, so two reads of one address may
/// differ, and nothing is ever borrowed from it.
pub trait PhysicalMemory {
    /// Copies memory from `address` on into `buffer` and returns how many leading bytes were
    /// copied.
    ///
    /// A result shorter than the buffer means that the memory ends or has a hole there. Memory
    /// whose reads have side effects (devices) counts as a hole.
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize;

    /// Reads a little-endian 64-bit word, or `None` where any of its bytes is missing.
    fn read_u64(&self, address: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read_physical(address, &mut bytes) == bytes.len()).then(|| u64::from_le_bytes(bytes))
    }

    /// Reads a little-endian 32-bit word, or `None` where any of its bytes is missing.
    fn read_u32(&self, address: Gpa) -> Option<u32> {
        let mut bytes = [0; 4];
        (self.read_physical(address, &mut bytes) == bytes.len()).then(|| u32::from_le_bytes(bytes))
    }
}
