//! The search for the kernel, in slices.

use alloc::vec::Vec;
use core::ops::Range;

use trapline_arch::Gpa;
use trapline_engine::{GuestMemory, MemoryKind};

use super::kernel::Kernel;
use super::loading::Loading;
use crate::kallsyms::{KallsymsError, TableProgress, TableScanner};
use crate::memory::VirtualMemory;
use crate::scan::{Progress, Scanner};
use crate::symbol_file::Machine;
use crate::vmcoreinfo::VmcoreInfo;

/// How many stops there are between two searches of all memory: at first, and at most.
const FIRST_REST_STOPS: u32 = 16;
const LONGEST_REST_STOPS: u32 = 4096;

/// How much of the kernel image is searched for symbol tables, from `_stext` on: more than any
/// kernel's text and read-only data.
const IMAGE_BYTES: u64 = 256 << 20;

/// What a search has seen so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is not at its end.
    Searching,
    /// No trace of a kernel.
    Nothing,
    /// A kernel that has not filled VMCOREINFO in.
    Template,
}

/// A search under way.
pub(super) struct Search {
    stage: Stage,
    /// What was found is being read; the stage is where the search goes on if it is not the kernel
    /// in use.
    loading: Option<Loading>,
    seen: Seen,
    rest_stops: u32,
}

enum Stage {
    /// Not begun, since the memory's regions are not known before.
    Start,
    /// VMCOREINFO is looked for.
    Note(Scanner),
    /// The symbol tables are looked for, of the kernel that VMCOREINFO describes if there is one.
    Tables(TableScanner, Option<VmcoreInfo>),
    /// All memory was searched.
    Resting {
        stops_left: u32,
        /// The guest may have run since.
        is_stale: bool,
    },
}

impl Search {
    pub(super) const fn new() -> Self {
        Self {
            stage: Stage::Start,
            loading: None,
            seen: Seen::Searching,
            rest_stops: FIRST_REST_STOPS,
        }
    }

    /// Returns what was seen.
    pub(super) const fn seen(&self) -> Seen {
        self.seen
    }

    /// Returns whether all memory was searched and nothing is to be done now.
    pub(super) const fn is_resting(&self) -> bool {
        matches!(self.stage, Stage::Resting { .. })
    }

    /// Returns whether a kernel's tables are being read.
    pub(super) const fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Takes note that the guest has stopped, so that its memory may have changed.
    pub(super) fn note_stop(&mut self) {
        if let Stage::Resting {
            stops_left,
            is_stale,
        } = &mut self.stage
        {
            *is_stale = true;
            *stops_left = stops_left.saturating_sub(1);
            if *stops_left == 0 {
                self.stage = Stage::Start;
            }
        }
    }

    /// Ends a rest, if memory may have changed since it began.
    pub(super) fn wake(&mut self) {
        if let Stage::Resting { is_stale: true, .. } = self.stage {
            self.stage = Stage::Start;
        }
    }

    /// Searches about `max_bytes` of memory, or reads some of a kernel's tables. `has_kernel` says
    /// that a kernel is known already of which only VMCOREINFO is missing.
    pub(super) fn step(
        &mut self,
        memory: &dyn GuestMemory,
        view: &dyn VirtualMemory,
        machine: Machine,
        has_kernel: bool,
        max_bytes: u64,
    ) -> Option<Kernel> {
        if let Some(loading) = &mut self.loading {
            let result = loading.step(memory, view, machine)?;
            let loading = self.loading.take()?;
            return self.handle_loaded(result, loading, memory, view);
        }
        if let Stage::Start = self.stage {
            self.stage = Stage::Note(Scanner::new(ram(memory)));
        }
        match &mut self.stage {
            Stage::Start | Stage::Resting { .. } => None,
            Stage::Note(scanner) => {
                let progress = scanner.step(memory, max_bytes);
                self.handle_note(progress, memory, has_kernel);
                None
            }
            Stage::Tables(scanner, info) => match scanner.step(memory, max_bytes) {
                TableProgress::More => None,
                TableProgress::Found(tables) => {
                    self.loading = Some(Loading::found(memory, info.as_ref(), tables));
                    None
                }
                TableProgress::NotFound => {
                    let info = info.take();
                    self.rest();
                    info.map(|info| Kernel::without_symbols(info, KallsymsError::NoTables))
                }
            },
        }
    }

    fn handle_note(&mut self, progress: Progress, memory: &dyn GuestMemory, has_kernel: bool) {
        let info = match progress {
            Progress::More => return,
            Progress::Found(info) => info,
            Progress::NotYet | Progress::NotFound => {
                self.seen = if progress == Progress::NotYet {
                    Seen::Template
                } else {
                    Seen::Nothing
                };
                if has_kernel {
                    self.rest();
                } else {
                    self.stage = Stage::Tables(TableScanner::new(ram(memory)), None);
                }
                return;
            }
        };
        self.loading = Loading::described(memory, &info);
        if self.loading.is_none() {
            self.stage = Stage::Tables(TableScanner::new(image(memory, &info)), Some(info));
        }
    }

    /// Takes a kernel whose tables were read, if it is the one in use: what a vCPU has mapped there
    /// may be something else, and this a former kernel's leavings.
    fn handle_loaded(
        &mut self,
        result: Result<Kernel, KallsymsError>,
        loading: Loading,
        memory: &dyn GuestMemory,
        view: &dyn VirtualMemory,
    ) -> Option<Kernel> {
        let is_found_blindly = matches!(self.stage, Stage::Tables(..));
        let kernel = match result {
            Ok(kernel) if !kernel.is_there(memory, view) => return None,
            // Without VMCOREINFO nothing says which kernel the tables are of.
            Ok(kernel) if !kernel.is_complete() && !kernel.is_in_use(view) => return None,
            Ok(kernel) => kernel,
            Err(_) if is_found_blindly => return None,
            Err(error) => loading.without_symbols(error)?,
        };
        self.rest();
        Some(kernel)
    }

    fn rest(&mut self) {
        self.stage = Stage::Resting {
            stops_left: self.rest_stops,
            is_stale: false,
        };
        self.rest_stops = self.rest_stops.saturating_mul(2).min(LONGEST_REST_STOPS);
    }
}

fn ram(memory: &dyn GuestMemory) -> Vec<Range<Gpa>> {
    let regions = memory.regions().into_iter();
    regions
        .filter(|region| region.kind == MemoryKind::Ram)
        .map(|region| region.start..region.start.wrapping_add(region.len_bytes))
        .filter(|range| range.start < range.end)
        .collect()
}

/// Returns the memory that the image's read-only data is in, or all where that is not known.
fn image(memory: &dyn GuestMemory, info: &VmcoreInfo) -> Vec<Range<Gpa>> {
    let stext = info.symbol("_stext").zip(info.image_mapping());
    let Some(start) = stext.and_then(|(stext, mapping)| mapping.physical(stext)) else {
        return ram(memory);
    };
    let end = Gpa(start.0.saturating_add(IMAGE_BYTES));
    let ranges = ram(memory).into_iter();
    ranges
        .map(|range| range.start.max(start)..range.end.min(end))
        .filter(|range| range.start < range.end)
        .collect()
}
