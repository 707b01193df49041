//! The engine's view of a Darwin guest: [`DarwinGuest`] finds the kernel when a client asks.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use trapline_arch::Gva;
use trapline_engine::{FindProgress, GuestMemory, GuestOs, KernelImage, SymbolAt, VirtualView};

use crate::kernel::{Kernel, uuid_text};

/// What the image of a kernel for 64-bit Arm is aligned to: the largest page of these processors. LLDB
/// looks at no other places, too.
const ALIGNMENT_BYTES: u64 = 16 << 10;
/// How far below its code a kernel's header can be: with the code of all extensions between them.
const REACH_BYTES: u64 = 128 << 20;
/// A hole of this many bytes is no part of an image.
const HOLE_BYTES: u64 = 1 << 20;
/// How many places one call looks at: less than a millisecond's worth.
const PLACES_OF_A_CALL: u32 = 256;

/// A guest whose kernel is Darwin's, if its memory says so.
#[derive(Default)]
pub struct DarwinGuest {
    kernel: Option<Kernel>,
    search: Option<Search>,
}

/// A search under way, from several places downwards.
struct Search {
    /// Where to begin when this one has come to nothing.
    starts: Vec<Gva>,
    next: u64,
    left_bytes: u64,
    hole_bytes: u64,
}

impl DarwinGuest {
    /// Creates the layer for a guest of whose kernel nothing is known yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a kernel that is no longer in memory. An address that is not mapped now says nothing: the
    /// vCPU may run firmware.
    fn check(&mut self, view: &dyn VirtualView) {
        let Some(known) = self.kernel else {
            return;
        };
        let is_mapped = view.read_virtual(known.address, &mut [0; 4]) == 4;
        if is_mapped && Kernel::read(view, known.address) != Some(known) {
            self.kernel = None;
        }
    }
}

impl Search {
    fn new(view: &dyn VirtualView) -> Self {
        let mut starts = view.code_addresses();
        starts.reverse();
        Self {
            starts,
            next: 0,
            left_bytes: 0,
            hole_bytes: 0,
        }
    }

    /// Returns the next place to look at.
    fn place(&mut self) -> Option<Gva> {
        if self.left_bytes == 0 || self.hole_bytes >= HOLE_BYTES {
            let start = self.starts.pop()?;
            self.next = start.align_down(ALIGNMENT_BYTES).0;
            self.left_bytes = REACH_BYTES.min(self.next).saturating_add(ALIGNMENT_BYTES);
            self.hole_bytes = 0;
        }
        let place = Gva(self.next);
        self.next = self.next.saturating_sub(ALIGNMENT_BYTES);
        self.left_bytes = self.left_bytes.saturating_sub(ALIGNMENT_BYTES);
        Some(place)
    }

    /// Looks at one place that begins like an image.
    fn look(&mut self, view: &dyn VirtualView, place: Gva) -> Option<Kernel> {
        let mut magic = [0; 4];
        if view.read_virtual(place, &mut magic) != magic.len() {
            self.hole_bytes = self.hole_bytes.saturating_add(ALIGNMENT_BYTES);
            return None;
        }
        self.hole_bytes = 0;
        let is_image = u32::from_le_bytes(magic) == object::macho::MH_MAGIC_64;
        is_image.then(|| Kernel::read(view, place)).flatten()
    }
}

impl GuestOs for DarwinGuest {
    fn refresh(&mut self, _: &dyn GuestMemory, view: &dyn VirtualView) -> bool {
        self.check(view);
        self.kernel.is_some()
    }

    fn find(&mut self, _: &dyn GuestMemory, view: &dyn VirtualView) -> FindProgress {
        self.find_image(view)
    }

    fn find_image(&mut self, view: &dyn VirtualView) -> FindProgress {
        self.check(view);
        if self.kernel.is_some() {
            self.search = None;
            return FindProgress::Done;
        }
        let search = self.search.get_or_insert_with(|| Search::new(view));
        for _ in 0..PLACES_OF_A_CALL {
            let Some(place) = search.place() else {
                self.search = None;
                return FindProgress::Done;
            };
            if let Some(kernel) = search.look(view, place) {
                self.kernel = Some(kernel);
                self.search = None;
                return FindProgress::Done;
            }
        }
        FindProgress::More
    }

    fn image(&self) -> Option<KernelImage> {
        self.kernel.as_ref().map(|kernel| KernelImage {
            address: kernel.address,
            uuid: kernel.uuid,
            triple: kernel.platform.triple(),
            cpu_subtype: kernel.cpu_subtype,
        })
    }

    fn forget(&mut self) {
        *self = Self::new();
    }

    fn description(&self) -> Option<String> {
        self.kernel.is_some().then(|| "Darwin".into())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Some(kernel) = &self.kernel else {
            return Vec::new();
        };
        Vec::from([
            ("image", kernel.address.to_string()),
            ("UUID", uuid_text(&kernel.uuid)),
            (
                "symbols",
                "none here; give the debugger the kernel's file, LLDB knows it by the UUID".into(),
            ),
        ])
    }

    fn symbol_at(&self, _: Gva) -> Option<SymbolAt> {
        None
    }

    fn address_of(&self, _: &str) -> Option<Gva> {
        None
    }

    fn complete(&self, _: &str, _: usize) -> Vec<String> {
        Vec::new()
    }

    fn text_placement(&self) -> Option<(Gva, u64)> {
        None
    }

    fn symbol_file_len(&self) -> Option<u64> {
        None
    }

    fn read_symbol_file(
        &self,
        _: &dyn GuestMemory,
        _: &dyn VirtualView,
        _: u64,
        _: &mut [u8],
    ) -> usize {
        0
    }
}

impl fmt::Debug for DarwinGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DarwinGuest")
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
