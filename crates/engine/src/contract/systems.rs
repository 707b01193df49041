//! Several layers that each know one kind of guest operating system, as one.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::{FindProgress, GuestMemory, GuestOs, KernelImage, SymbolAt, VirtualView};

/// Layers of which that one answers which has found its system. They are asked in order, the quickest should be
/// the first.
pub struct Systems {
    layers: Vec<Box<dyn GuestOs>>,
    /// How many have looked in vain since a client asked.
    looked: usize,
}

impl Systems {
    /// Creates one layer of several.
    #[must_use]
    pub fn new(layers: Vec<Box<dyn GuestOs>>) -> Self {
        Self { layers, looked: 0 }
    }

    fn known(&self) -> Option<&dyn GuestOs> {
        let mut layers = self.layers.iter();
        let known = layers.find(|layer| layer.description().is_some())?;
        Some(known.as_ref())
    }
}

impl GuestOs for Systems {
    /// Looks with one layer only once that has found its system: there are no two in a guest.
    fn refresh(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) -> bool {
        let mut layers = self.layers.iter_mut();
        layers.any(|layer| layer.refresh(memory, view))
    }

    fn ask(&mut self) {
        self.looked = 0;
        self.layers.iter_mut().for_each(|layer| layer.ask());
    }

    fn find(&mut self, memory: &dyn GuestMemory, view: &dyn VirtualView) -> FindProgress {
        while let Some(layer) = self.layers.get_mut(self.looked) {
            if layer.find(memory, view) == FindProgress::More {
                return FindProgress::More;
            }
            if layer.description().is_some() {
                break;
            }
            self.looked = self.looked.saturating_add(1);
        }
        FindProgress::Done
    }

    fn find_image(&mut self, view: &dyn VirtualView) -> FindProgress {
        // Where another system is known there is nothing to be found.
        let has_other = self.known().is_some_and(|known| known.image().is_none());
        let mut layers = self.layers.iter_mut();
        match layers.any(|layer| !has_other && layer.find_image(view) == FindProgress::More) {
            true => FindProgress::More,
            false => FindProgress::Done,
        }
    }

    fn image(&self) -> Option<KernelImage> {
        self.layers.iter().find_map(|layer| layer.image())
    }

    fn forget(&mut self) {
        self.layers.iter_mut().for_each(|layer| layer.forget());
    }

    fn description(&self) -> Option<String> {
        self.known()?.description()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        match self.known() {
            Some(known) => known.facts(),
            None => self.layers.iter().flat_map(|layer| layer.facts()).collect(),
        }
    }

    fn symbol_at(&self, address: Gva) -> Option<SymbolAt> {
        self.known()?.symbol_at(address)
    }

    fn address_of(&self, name: &str) -> Option<Gva> {
        self.known()?.address_of(name)
    }

    fn complete(&self, prefix: &str, limit: usize) -> Vec<String> {
        self.known()
            .map_or_else(Vec::new, |known| known.complete(prefix, limit))
    }

    fn text_placement(&self) -> Option<(Gva, u64)> {
        self.known()?.text_placement()
    }

    fn symbol_file_len(&self) -> Option<u64> {
        self.known()?.symbol_file_len()
    }

    fn read_symbol_file(
        &self,
        memory: &dyn GuestMemory,
        view: &dyn VirtualView,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> usize {
        self.known().map_or(0, |known| {
            known.read_symbol_file(memory, view, offset_bytes, buffer)
        })
    }
}

impl core::fmt::Debug for Systems {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Systems")
            .field("known", &self.description())
            .finish_non_exhaustive()
    }
}
