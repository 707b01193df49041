//! A kernel that was found.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::{Gpa, Gva, PhysicalMemory};

use crate::kallsyms::{Kallsyms, KallsymsError};
use crate::memory::{ImageMemory, VirtualMemory};
use crate::slide::{Slide, read_banner};
use crate::symbol_file::{Machine, SymbolFile};
use crate::vmcoreinfo::VmcoreInfo;

/// How much of the kernel's memory is compared to see whether it is still there, in bytes. Each
/// kernel has its own tokens.
const WITNESS_BYTES: usize = 64;

/// What is known of a kernel.
pub(super) struct Kernel {
    info: Option<VmcoreInfo>,
    file: Result<SymbolFile, KallsymsError>,
    slide: Option<Slide>,
    banner: Option<String>,
    witness: Option<Witness>,
}

/// The beginning of the kernel's token table, and where it is. No symbol names that place, so its
/// address is known from VMCOREINFO alone.
pub(super) struct Witness {
    physical: Gpa,
    address: Option<Gva>,
    bytes: [u8; WITNESS_BYTES],
}

impl Kernel {
    /// Takes up a kernel whose tables were read. `image` shows the kernel's own memory.
    pub(super) fn new(
        image: &dyn VirtualMemory,
        machine: Machine,
        symbols: Arc<Kallsyms>,
        frames: &[u8],
        witness: Option<Witness>,
        info: Option<&VmcoreInfo>,
    ) -> Self {
        Self {
            slide: info.and_then(|info| Slide::new(info, Some(&symbols))),
            banner: read_banner(image, &symbols),
            witness,
            info: info.cloned(),
            file: Ok(SymbolFile::new(symbols, machine, info, frames)),
        }
    }

    /// Takes up a kernel that describes itself and whose symbols cannot be had.
    pub(super) fn without_symbols(info: VmcoreInfo, error: KallsymsError) -> Self {
        Self {
            slide: Slide::new(&info, None),
            info: Some(info),
            file: Err(error),
            banner: None,
            witness: None,
        }
    }

    /// Returns whether there is nothing more to be looked for.
    pub(super) const fn is_complete(&self) -> bool {
        self.info.is_some()
    }

    /// Takes what a later search has found. The symbol file stays as it is, for a client may be
    /// reading it, unless it is another kernel's.
    pub(super) fn learn(&mut self, found: Self) {
        let stext = |kernel: &Self| {
            let symbols = kernel.symbols()?;
            symbols.first_by_name("_stext").map(|symbol| symbol.address)
        };
        if found.symbols().is_some() && stext(self) != stext(&found) {
            *self = found;
            return;
        }
        self.slide = found.slide;
        self.info = found.info;
    }

    /// Returns whether symbols that were found without VMCOREINFO are those of the kernel in use: its
    /// banner is where they say, or, for a kernel whose data has no symbols, its text is mapped.
    pub(super) fn is_in_use(&self, view: &dyn VirtualMemory) -> bool {
        let Some(symbols) = self.symbols() else {
            return false;
        };
        if symbols.first_by_name("linux_banner").is_some() {
            return self.banner.is_some();
        }
        let stext = symbols.first_by_name("_stext");
        let is_mapped = |text: Gva| view.read_virtual(text, &mut [0; 8]) == 8;
        stext.is_some_and(|stext| is_mapped(stext.address))
    }

    /// Returns whether the kernel is still where it was found. An address that is not mapped now
    /// says nothing: the vCPU may run a process, or firmware.
    pub(super) fn is_there(&self, memory: &dyn PhysicalMemory, view: &dyn VirtualMemory) -> bool {
        match (&self.witness, &self.info) {
            (Some(witness), _) => witness.agrees(memory, view),
            (None, Some(info)) => info.agrees_with(memory),
            (None, None) => true,
        }
    }

    pub(super) fn file(&self) -> Option<&SymbolFile> {
        self.file.as_ref().ok()
    }

    /// Copies a part of the symbol file and returns how many bytes were copied.
    pub(super) fn read_file(
        &self,
        memory: &dyn PhysicalMemory,
        view: &dyn VirtualMemory,
        offset: u64,
        buffer: &mut [u8],
    ) -> usize {
        let mapping = self.info.as_ref().and_then(VmcoreInfo::image_mapping);
        let image = mapping.map(|mapping| ImageMemory::new(memory, mapping));
        let Some(file) = self.file() else {
            return 0;
        };
        let is_mapped = view.read_virtual(file.text(), &mut [0]) == 1;
        match image {
            // A vCPU in user mode may not have the kernel mapped.
            Some(image) if !is_mapped => file.read_at(&image, offset, buffer),
            // What the kernel has discarded, as its initialisation, is not mapped. Debuggers'
            // breakpoints are not seen.
            _ => file.read_at(view, offset, buffer),
        }
    }

    pub(super) fn symbols(&self) -> Option<&Kallsyms> {
        self.file().map(|file| file.symbols().as_ref())
    }

    pub(super) const fn slide(&self) -> Option<&Slide> {
        self.slide.as_ref()
    }

    /// Returns `Linux` and the release, if that is known.
    pub(super) fn description(&self) -> String {
        let of_banner = || self.banner.as_ref()?.split(' ').nth(2);
        let release = match &self.info {
            Some(info) => Some(info.os_release()),
            None => of_banner(),
        };
        match release {
            Some(release) => format!("Linux {release}"),
            None => "Linux".into(),
        }
    }

    /// Returns what else is known, for a person.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        if let Some(banner) = &self.banner {
            facts.push(("banner", banner.clone()));
        }
        match &self.info {
            Some(info) => {
                let build_id = info
                    .build_id()
                    .unwrap_or("none; the kernel is older than 5.9");
                facts.push(("build ID", build_id.to_string()));
            }
            None => facts.push((
                "moved by",
                "not known: the kernel has not written VMCOREINFO yet".into(),
            )),
        }
        match &self.file {
            Ok(file) => {
                let symbols = file.symbols();
                let kib = symbols.resident_bytes().div_ceil(1024);
                facts.push(("symbols", format!("{}, in {kib} KiB", symbols.len())));
            }
            Err(error) => facts.push(("symbols", format!("none: {error}"))),
        }
        facts
    }
}

impl Witness {
    /// Looks at a token table at `physical`, which the kernel has at `address`.
    pub(super) fn new(
        memory: &dyn PhysicalMemory,
        physical: Gpa,
        address: Option<Gva>,
    ) -> Option<Self> {
        let mut bytes = [0; WITNESS_BYTES];
        (memory.read_physical(physical, &mut bytes) == bytes.len()).then_some(Self {
            physical,
            address,
            bytes,
        })
    }

    fn agrees(&self, memory: &dyn PhysicalMemory, view: &dyn VirtualMemory) -> bool {
        let mut now = [0; WITNESS_BYTES];
        if memory.read_physical(self.physical, &mut now) != now.len() || now != self.bytes {
            return false;
        }
        let read = self
            .address
            .map_or(0, |address| view.read_virtual(address, &mut now));
        read != now.len() || now == self.bytes
    }
}
