//! An operating system that takes many turns to be found.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trapline_arch::Gva;
use trapline_engine::{FindProgress, GuestMemory, GuestOs, SymbolAt, VirtualView};

/// What a test sees of the search.
#[derive(Clone, Default)]
pub(crate) struct SlowOs {
    /// Turns that are left until the system is found.
    left: Arc<AtomicUsize>,
    /// How often it was forgotten.
    pub(crate) forgotten: Arc<AtomicUsize>,
}

impl SlowOs {
    pub(crate) fn new(turns: usize) -> Self {
        let os = Self::default();
        os.left.store(turns, Ordering::Relaxed);
        os
    }

    /// Returns how many turns are left.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

impl GuestOs for SlowOs {
    fn refresh(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> bool {
        self.left() == 0
    }
    fn find(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> FindProgress {
        if self.left() == 0 {
            return FindProgress::Done;
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        FindProgress::More
    }
    fn forget(&mut self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }
    fn description(&self) -> Option<String> {
        None
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
        (self.left() == 0).then_some(100)
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
