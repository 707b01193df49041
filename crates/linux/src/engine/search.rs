//! The search for the kernel, in slices.

use alloc::vec::Vec;
use core::ops::Range;

use trapline_arch::{Gpa, PhysicalMemory};
use trapline_engine::{GuestMemory, MemoryKind};

use super::kernel::Kernel;
use crate::kallsyms::{Kallsyms, KallsymsError, TableAddresses, TableProgress, TableScanner};
use crate::memory::{ImageMemory, PhysicalView, VirtualMemory};
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

    /// Searches about `max_bytes` of memory. `has_kernel` says that a kernel is known already of
    /// which only VMCOREINFO is missing.
    pub(super) fn step(
        &mut self,
        memory: &dyn GuestMemory,
        view: &dyn VirtualMemory,
        machine: Machine,
        has_kernel: bool,
        max_bytes: u64,
    ) -> Option<Kernel> {
        match &mut self.stage {
            Stage::Resting { .. } => None,
            Stage::Start => {
                self.stage = Stage::Note(Scanner::new(ram(memory)));
                self.step(memory, view, machine, has_kernel, max_bytes)
            }
            Stage::Note(scanner) => {
                let progress = scanner.step(memory, max_bytes);
                self.handle_note(progress, memory, view, machine, has_kernel)
            }
            Stage::Tables(scanner, info) => match scanner.step(memory, max_bytes) {
                TableProgress::More => None,
                TableProgress::Found(tables) => {
                    let kernel = load_tables(memory, view, machine, info.as_ref(), &tables)?;
                    self.rest();
                    Some(kernel)
                }
                TableProgress::NotFound => {
                    let info = info.take();
                    self.rest();
                    info.map(|info| Kernel::without_symbols(info, KallsymsError::NoTables))
                }
            },
        }
    }

    fn handle_note(
        &mut self,
        progress: Progress,
        memory: &dyn GuestMemory,
        view: &dyn VirtualMemory,
        machine: Machine,
        has_kernel: bool,
    ) -> Option<Kernel> {
        let info = match progress {
            Progress::More => return None,
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
                return None;
            }
        };
        match load_described(memory, machine, &info) {
            // What a vCPU has mapped there is something else: a former kernel's leavings.
            Ok(kernel) if !kernel.is_there(memory, view) => None,
            Ok(kernel) => {
                self.rest();
                Some(kernel)
            }
            Err(KallsymsError::NoTables) => {
                self.stage = Stage::Tables(TableScanner::new(image(memory, &info)), Some(info));
                None
            }
            Err(error) => {
                self.rest();
                Some(Kernel::without_symbols(info, error))
            }
        }
    }

    fn rest(&mut self) {
        self.stage = Stage::Resting {
            stops_left: self.rest_stops,
            is_stale: false,
        };
        self.rest_stops = self.rest_stops.saturating_mul(2).min(LONGEST_REST_STOPS);
    }
}

/// Reads the symbols of a kernel that tells where they are.
fn load_described(
    memory: &dyn PhysicalMemory,
    machine: Machine,
    info: &VmcoreInfo,
) -> Result<Kernel, KallsymsError> {
    let mapping = info.image_mapping().ok_or(KallsymsError::NoTables)?;
    let tables = TableAddresses::from_vmcoreinfo(info).ok_or(KallsymsError::NoTables)?;
    let tokens = mapping.physical(tables.token_table);
    let tokens = tokens.ok_or(KallsymsError::NoTables)?;
    let image = ImageMemory::new(memory, mapping);
    let symbols = Kallsyms::load(&image, info)?;
    Ok(Kernel::new(
        memory,
        &image,
        machine,
        symbols,
        tokens,
        Some(info),
    ))
}

/// Reads the symbols from tables that were found. Those of another kernel are left alone.
fn load_tables(
    memory: &dyn PhysicalMemory,
    view: &dyn VirtualMemory,
    machine: Machine,
    info: Option<&VmcoreInfo>,
    tables: &TableAddresses,
) -> Option<Kernel> {
    let stext = info.and_then(|info| info.symbol("_stext"));
    let symbols = Kallsyms::load_tables(&PhysicalView(memory), tables, stext).ok()?;
    let tokens = Gpa(tables.token_table.0);
    let mapping = info.and_then(VmcoreInfo::image_mapping);
    let own = mapping.map(|mapping| ImageMemory::new(memory, mapping));
    let image = own.as_ref().map_or(view, |image| image);
    let kernel = Kernel::new(memory, image, machine, symbols, tokens, info);
    let is_its = info.is_some() || kernel.is_in_use(view);
    (is_its && kernel.is_there(memory, view)).then_some(kernel)
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
