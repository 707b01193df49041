//! Guest memory that carries a breakpoint instruction in place of its own bytes.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use trapline_arch::Gpa;

use crate::contract::GuestMemory;

/// The longest breakpoint instruction in bytes: Arm's `BRK`.
pub(crate) const MAX_PATCH_BYTES: usize = 4;

/// One breakpoint instruction in guest-physical memory (rule B2: it stays with its physical bytes,
/// whatever the page tables say later).
///
/// The bytes under it can change while it stands: the debugger writes them
/// ([`write_under_patches`]), or the guest overwrites the instruction, which then is no breakpoint
/// until [`refresh`](Self::refresh).
#[derive(Debug)]
pub(crate) struct Patch {
    gpa: Gpa,
    instruction: &'static [u8],
    saved: AtomicU32,
    lifted: AtomicBool,
}

impl Patch {
    /// Plants `instruction`, of at most [`MAX_PATCH_BYTES`], at `gpa`. Returns `None` where the
    /// memory cannot be read and written.
    pub(crate) fn plant(
        memory: &dyn GuestMemory,
        gpa: Gpa,
        instruction: &'static [u8],
    ) -> Option<Arc<Self>> {
        let patch = Self {
            gpa,
            instruction,
            saved: AtomicU32::new(0),
            lifted: AtomicBool::new(true),
        };
        patch.lower(memory).then(|| Arc::new(patch))
    }

    /// Returns the address of the first patched byte.
    #[must_use]
    pub(crate) fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// Puts the guest's own bytes back, unless the guest itself has overwritten the instruction.
    pub(crate) fn lift(&self, memory: &dyn GuestMemory) {
        if self
            .current(memory)
            .is_some_and(|bytes| self.is_instruction(bytes))
        {
            let saved = self.saved_array();
            memory.write_physical(self.gpa, saved.get(..self.len()).unwrap_or_default());
        }
        self.lifted.store(true, Ordering::Release);
    }

    /// Plants the lifted instruction again, over whatever stands there now. Returns whether it
    /// stands.
    pub(crate) fn lower(&self, memory: &dyn GuestMemory) -> bool {
        let Some(bytes) = self.current(memory) else {
            return false;
        };
        self.saved
            .store(u32::from_le_bytes(bytes), Ordering::Release);
        self.lifted.store(false, Ordering::Release);
        memory.write_physical(self.gpa, self.instruction) == self.len()
    }

    /// Plants the instruction again if the guest has overwritten it; what the guest wrote is then
    /// under it.
    pub(crate) fn refresh(&self, memory: &dyn GuestMemory) {
        if self
            .current(memory)
            .is_some_and(|bytes| !self.is_instruction(bytes))
        {
            self.lower(memory);
        }
    }

    fn len(&self) -> usize {
        self.instruction.len()
    }

    fn current(&self, memory: &dyn GuestMemory) -> Option<[u8; MAX_PATCH_BYTES]> {
        let mut bytes = [0; MAX_PATCH_BYTES];
        let len = self.len();
        let read = memory.read_physical(self.gpa, bytes.get_mut(..len)?);
        (read == len).then_some(bytes)
    }

    fn is_instruction(&self, bytes: [u8; MAX_PATCH_BYTES]) -> bool {
        bytes.get(..self.len()) == Some(self.instruction)
    }

    fn saved_array(&self) -> [u8; MAX_PATCH_BYTES] {
        self.saved.load(Ordering::Acquire).to_le_bytes()
    }

    /// Returns whether the instruction stands in memory; the guest may have overwritten it.
    fn stands(&self, memory: &dyn GuestMemory) -> bool {
        !self.is_lifted()
            && self
                .current(memory)
                .is_some_and(|bytes| self.is_instruction(bytes))
    }

    fn is_lifted(&self) -> bool {
        self.lifted.load(Ordering::Acquire)
    }

    /// Returns the offset of the patch's byte `index` in a buffer of `len` bytes at `start`.
    fn offset_in(&self, index: usize, start: Gpa, len: usize) -> Option<usize> {
        let address = self.gpa.0.wrapping_add(index as u64);
        let offset = usize::try_from(address.checked_sub(start.0)?).ok()?;
        (offset < len).then_some(offset)
    }
}

/// Returns the patches of `sorted` (by address) that may lie in `len` bytes from `start` on.
fn overlapping(sorted: &[Arc<Patch>], start: Gpa, len: usize) -> &[Arc<Patch>] {
    let reach = start.0.saturating_sub(MAX_PATCH_BYTES as u64);
    let end = start.0.saturating_add(len as u64);
    let from = sorted.partition_point(|patch| patch.gpa.0 < reach);
    let to = sorted.partition_point(|patch| patch.gpa.0 < end);
    sorted.get(from..to).unwrap_or_default()
}

/// Replaces breakpoint instructions in `buffer`, which was read from `start` on, by the guest's own
/// bytes (rule B1).
pub(crate) fn mask_patches(sorted: &[Arc<Patch>], start: Gpa, buffer: &mut [u8]) {
    for patch in overlapping(sorted, start, buffer.len()) {
        if patch.is_lifted() {
            continue;
        }
        for (index, (&planted, saved)) in patch
            .instruction
            .iter()
            .zip(patch.saved_array())
            .enumerate()
        {
            let offset = patch.offset_in(index, start, buffer.len());
            if let Some(byte) = offset.and_then(|offset| buffer.get_mut(offset))
                && *byte == planted
            {
                *byte = saved;
            }
        }
    }
}

/// Writes `bytes` at `start`, leaving breakpoint instructions in place and changing what is under
/// them instead (rule B1). Returns how many leading bytes were written.
pub(crate) fn write_under_patches(
    sorted: &[Arc<Patch>],
    memory: &dyn GuestMemory,
    start: Gpa,
    bytes: &[u8],
) -> usize {
    let mut done: usize = 0;
    for patch in overlapping(sorted, start, bytes.len()) {
        if !patch.stands(memory) {
            continue;
        }
        for index in 0..patch.len() {
            let Some(offset) = patch.offset_in(index, start, bytes.len()) else {
                continue;
            };
            let before = bytes.get(done..offset).unwrap_or_default();
            let written = memory.write_physical(start.wrapping_add(done as u64), before);
            done = done.saturating_add(written);
            if done != offset {
                return done;
            }
            let mut saved = patch.saved_array();
            if let (Some(slot), Some(&byte)) = (saved.get_mut(index), bytes.get(offset)) {
                *slot = byte;
            }
            patch
                .saved
                .store(u32::from_le_bytes(saved), Ordering::Release);
            done = offset.saturating_add(1);
        }
    }
    let rest = bytes.get(done..).unwrap_or_default();
    done.saturating_add(memory.write_physical(start.wrapping_add(done as u64), rest))
}
