//! A kernel's symbols being read, in slices.

use alloc::boxed::Box;
use alloc::sync::Arc;

use trapline_arch::{Gpa, PhysicalMemory};

use super::kernel::{Kernel, Witness};
use crate::call_frames::FrameReader;
use crate::kallsyms::{Kallsyms, KallsymsError, Loader, TableAddresses};
use crate::memory::{ImageMemory, PhysicalView, VirtualMemory};
use crate::symbol_file::Machine;
use crate::vmcoreinfo::VmcoreInfo;

/// A kernel whose tables are known and not yet read.
pub(super) struct Loading {
    info: Option<VmcoreInfo>,
    /// The beginning of the tables as it was before they were read.
    witness: Option<Witness>,
    tables: Tables,
    part: Part,
}

/// How the tables are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tables {
    /// By their addresses in the image.
    InImage,
    /// By physical addresses.
    Physical,
}

enum Part {
    Symbols(Box<Loader>),
    Frames(Arc<Kallsyms>, Box<FrameReader>),
}

impl Loading {
    /// Begins with a kernel that tells where its tables are, or returns `None` for one that does
    /// not.
    pub(super) fn described(memory: &dyn PhysicalMemory, info: &VmcoreInfo) -> Option<Self> {
        let mapping = info.image_mapping()?;
        let tables = TableAddresses::from_vmcoreinfo(info)?;
        let tokens = mapping.physical(tables.token_table)?;
        let stext = info.symbol("_stext");
        Some(Self {
            witness: Witness::new(memory, tokens, Some(tables.token_table)),
            info: Some(info.clone()),
            tables: Tables::InImage,
            part: Part::Symbols(Box::new(Loader::new(tables, stext))),
        })
    }

    /// Begins with tables that were found in physical memory, of the kernel that `info` describes if
    /// that is known.
    pub(super) fn found(
        memory: &dyn PhysicalMemory,
        info: Option<&VmcoreInfo>,
        tables: TableAddresses,
    ) -> Self {
        let address = info.and_then(TableAddresses::from_vmcoreinfo);
        let address = address.map(|tables| tables.token_table);
        let stext = info.and_then(|info| info.symbol("_stext"));
        Self {
            witness: Witness::new(memory, Gpa(tables.token_table.0), address),
            info: info.cloned(),
            tables: Tables::Physical,
            part: Part::Symbols(Box::new(Loader::new(tables, stext))),
        }
    }

    /// Reads on for less than a millisecond. Returns `None` if there is more to be read.
    pub(super) fn step(
        &mut self,
        memory: &dyn PhysicalMemory,
        view: &dyn VirtualMemory,
        machine: Machine,
    ) -> Option<Result<Kernel, KallsymsError>> {
        let mapping = self.info.as_ref().and_then(VmcoreInfo::image_mapping);
        let own = mapping.map(|mapping| ImageMemory::new(memory, mapping));
        let image = own.as_ref().map_or(view, |image| image);
        match &mut self.part {
            Part::Symbols(loader) => {
                let symbols = match self.tables {
                    Tables::InImage => loader.step(image),
                    Tables::Physical => loader.step(&PhysicalView(memory)),
                };
                match symbols? {
                    Ok(symbols) => {
                        let frames = FrameReader::new(&symbols);
                        self.part = Part::Frames(Arc::new(symbols), Box::new(frames));
                        None
                    }
                    Err(error) => Some(Err(error)),
                }
            }
            Part::Frames(symbols, reader) => {
                let frames = reader.step(image, symbols)?;
                let symbols = Arc::clone(symbols);
                let (info, witness) = (self.info.as_ref(), self.witness.take());
                let kernel = Kernel::new(image, machine, symbols, &frames, witness, info);
                Some(Ok(kernel))
            }
        }
    }

    /// Returns the kernel that was to be read, without its symbols.
    pub(super) fn without_symbols(self, error: KallsymsError) -> Option<Kernel> {
        self.info.map(|info| Kernel::without_symbols(info, error))
    }
}
