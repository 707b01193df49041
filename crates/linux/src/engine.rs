//! The engine's view of a Linux guest: [`LinuxGuest`] finds the kernel, a little at each stop, and
//! answers for its symbols.
//!
//! ```text
//!             not there                       not there
//!  Note ─────────────────────▶ Tables ─────────────────────▶ Resting
//!   │ ▲                          │                             │
//!   │ └──────────────────────────┼──── the guest ran a while ──┘
//!   │ VMCOREINFO, and tables     │ tables: the kernel says no more
//!   ▼                            ▼
//!  a known kernel, until its memory holds something else
//! ```
//!
//! VMCOREINFO tells everything. A kernel before Linux 6.0 does not tell there where its symbol
//! tables are, and one that is still starting has not written it: then the tables are looked for in
//! memory.

mod kernel;
mod loading;
mod search;
#[cfg(test)]
mod tests;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use trapline_arch::{Architecture, Gva};
use trapline_engine::{FindProgress, GuestMemory, GuestOs, SymbolAt, VirtualView};

use crate::memory::VirtualMemory;
use crate::symbol_file::Machine;
use kernel::Kernel;
use search::{Search, Seen};

/// How much memory is searched at a stop, in bytes: some tenths of a millisecond.
const SLICE_BYTES: u64 = 256 << 10;

/// How many slices a client's question is worth: some tenths of a second. Reading the tables of a
/// kernel that was found is not counted.
const SLICES_OF_A_QUESTION: u32 = 512;

/// A Linux guest, as far as its memory says what it is.
///
/// It takes some hundred bytes until a kernel is found, then about 2.5 MB for a distribution's
/// kernel of 130,000 symbols, and never more than the limits of [`Kallsyms`](crate::Kallsyms).
pub struct LinuxGuest {
    machine: Machine,
    search: Search,
    kernel: Option<Kernel>,
    /// What is left of what the clients' question is worth.
    slices_left: u32,
}

impl LinuxGuest {
    /// Creates the layer for a guest of an architecture, of whose kernel nothing is known yet.
    #[must_use]
    pub fn new(architecture: Architecture) -> Self {
        let machine = match architecture {
            Architecture::X86_64 => Machine::X86_64,
            Architecture::Aarch64 => Machine::AARCH64,
        };
        Self {
            machine,
            search: Search::new(),
            kernel: None,
            slices_left: 0,
        }
    }

    /// Forgets a kernel that is no longer in memory.
    fn check(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) {
        let is_gone = |kernel: &Kernel| !kernel.is_there(memory, &View(view));
        if self.kernel.as_ref().is_some_and(is_gone) {
            self.forget();
        }
    }

    /// Returns whether a client's question is worth no more work.
    fn is_answered(&self) -> bool {
        let is_spent = self.slices_left == 0 && !self.search.is_loading();
        self.kernel.is_some() || self.search.is_resting() || is_spent
    }

    /// Searches one slice of memory, if there is something to be searched for.
    fn step(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) {
        if self.kernel.as_ref().is_some_and(Kernel::is_complete) {
            return;
        }
        let has_kernel = self.kernel.is_some();
        let found = self
            .search
            .step(memory, &View(view), self.machine, has_kernel, SLICE_BYTES);
        match (&mut self.kernel, found) {
            (_, None) => {}
            (Some(kernel), Some(found)) => kernel.learn(found),
            (kernel @ None, Some(found)) => *kernel = Some(found),
        }
    }
}

impl GuestOs for LinuxGuest {
    fn refresh(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) -> bool {
        self.check(memory, view);
        self.search.note_stop();
        self.step(memory, view);
        self.kernel.is_some()
    }

    fn ask(&mut self) {
        self.search.wake();
        self.slices_left = SLICES_OF_A_QUESTION;
    }

    fn find(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) -> FindProgress {
        self.check(memory, view);
        if self.is_answered() {
            return FindProgress::Done;
        }
        if !self.search.is_loading() {
            self.slices_left = self.slices_left.saturating_sub(1);
        }
        self.step(memory, view);
        if self.is_answered() {
            FindProgress::Done
        } else {
            FindProgress::More
        }
    }

    fn forget(&mut self) {
        self.kernel = None;
        self.search = Search::new();
    }

    fn description(&self) -> Option<String> {
        self.kernel.as_ref().map(Kernel::description)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        match &self.kernel {
            Some(kernel) => kernel.facts(),
            None => Vec::from([("kernel", self.search.seen().to_string())]),
        }
    }

    fn symbol_at(&self, address: Gva) -> Option<SymbolAt> {
        let found = self.kernel.as_ref()?.symbols()?.by_address(address)?;
        Some(SymbolAt {
            name: found.symbol.name.to_string(),
            offset_bytes: found.offset,
        })
    }

    fn address_of(&self, name: &str) -> Option<Gva> {
        let symbols = self.kernel.as_ref()?.symbols()?;
        symbols.first_by_name(name).map(|symbol| symbol.address)
    }

    fn complete(&self, prefix: &str, limit: usize) -> Vec<String> {
        let symbols = self.kernel.as_ref().and_then(Kernel::symbols);
        symbols.map_or_else(Vec::new, |symbols| symbols.complete(prefix, limit))
    }

    fn text_placement(&self) -> Option<(Gva, u64)> {
        let slide = self.kernel.as_ref()?.slide()?;
        Some((slide.text, slide.kernel_offset))
    }

    fn symbol_file_len(&self) -> Option<u64> {
        Some(self.kernel.as_ref()?.file()?.len())
    }

    fn read_symbol_file(
        &self,
        memory: &dyn GuestMemory,
        view: &dyn VirtualView,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> usize {
        let read = |kernel: &Kernel| kernel.read_file(memory, &View(view), offset_bytes, buffer);
        self.kernel.as_ref().map_or(0, read)
    }
}

impl fmt::Debug for LinuxGuest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxGuest")
            .field("kernel", &self.description())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Searching => "not found yet; guest memory is searched a little at each stop",
            Self::Nothing => {
                "not found: there is neither VMCOREINFO nor a table of kernel symbols in guest \
                 memory. It is not unpacked yet, it is no Linux, or it was built without \
                 CONFIG_KALLSYMS and CONFIG_VMCORE_INFO"
            }
            Self::Template => {
                "it is starting: it has not written VMCOREINFO yet, and its symbols were not found \
                 without it"
            }
        })
    }
}

/// The engine's virtual memory as this crate's.
struct View<'a>(&'a dyn VirtualView);

impl VirtualMemory for View<'_> {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        self.0.read_virtual(address, buffer)
    }
}
