//! The kernel's symbols as an ELF file that a debugger can read piece by piece.
//!
//! The file has no contents but its symbols and how to unwind from each address: sections of the
//! image are `SHT_NOBITS`. Headers, names and call frame information are kept in memory; each part
//! of `.symtab` and `.strtab` is made from the compressed table when it is read.
//!
//! ```text
//! ELF header │ program and section headers │ .note.gnu.build-id │ .debug_frame │ .shstrtab │ .symtab │ .strtab
//! └──────────────────────────────────── kept ─────────────────────────────────────────────┘ └─ made when read ─┘
//! ```
//!
//! Of a kernel of AArch64, `.debug_frame` is made when it is read too, from the code, and comes last.

mod elf;
mod sections;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use trapline_arch::Gva;

use crate::call_frames::CodeFrames;
use crate::kallsyms::{BLOCK_SYMBOLS, Kallsyms, Symbol, Symbols};
use crate::memory::VirtualMemory;
use crate::vmcoreinfo::VmcoreInfo;
use elf::{FrameSection, Layout, SYMBOL_BYTES, SymbolEntry, SymbolKind};
use sections::Sections;

/// The machine of an ELF file: `e_machine` (System V ABI, "ELF Header").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Machine(pub u16);

impl Machine {
    /// x86-64.
    pub const X86_64: Self = Self(62);
    /// AArch64.
    pub const AARCH64: Self = Self(183);
}

/// An ELF64 file, little-endian and executable, of a kernel's symbols at their run-time addresses.
///
/// Its one `PT_LOAD` segment begins at the run-time `_text` ([`text`](Self::text)), so that GDB
/// moves nothing when the server answers `qOffsets` with `TextSeg=` and that address. LLDB (19)
/// takes that answer for a distance and needs `Text=0;Data=0;Bss=0`; with no answer it shows no
/// names.
///
/// Symbols of the image are in its sections, with a size that reaches to the next symbol; others,
/// such as offsets of per-CPU variables, are `SHN_ABS`. Local symbols come before global ones, as
/// the ELF specification demands.
///
/// Every section is marked writable: LLDB takes what a section that is not writable holds from the
/// file, which would be zeros for code, in place of the guest's memory.
pub struct SymbolFile {
    symbols: Arc<Kallsyms>,
    sections: Sections,
    layout: Layout,
    /// The call frame information that is made from the code.
    frames: Option<CodeFrames>,
}

impl SymbolFile {
    /// Creates the file of `symbols`, with the build identifier of `info` if there is one, and with
    /// `frames` as its `.debug_frame`, unless that is empty. For AArch64 that is made from the code.
    #[must_use]
    pub fn new(
        symbols: Arc<Kallsyms>,
        machine: Machine,
        info: Option<&VmcoreInfo>,
        frames: &[u8],
    ) -> Self {
        let sections = Sections::of(&symbols);
        let build_id = info
            .and_then(VmcoreInfo::build_id)
            .and_then(hex_bytes)
            .unwrap_or_default();
        let code = sections.iter().filter(|section| section.is_code);
        let code = code.map(|section| section.start..section.end);
        let made = (machine == Machine::AARCH64).then(|| CodeFrames::new(&symbols, code));
        let section = match &made {
            Some(made) => FrameSection::Made(made.len()),
            None => FrameSection::Kept(frames),
        };
        let layout = Layout::new(&symbols, &sections, machine, &build_id, section);
        Self {
            symbols,
            sections,
            layout,
            frames: made,
        }
    }

    /// Returns the run-time address of the image's first byte, where the `PT_LOAD` segment begins.
    #[must_use]
    pub const fn text(&self) -> Gva {
        self.sections.start()
    }

    /// Returns the symbols that the file is made of.
    #[must_use]
    pub const fn symbols(&self) -> &Arc<Kallsyms> {
        &self.symbols
    }

    /// Returns the length of the file in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.layout.len_bytes
    }

    /// Returns whether the file is empty, which it never is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the file from `offset` on into `buffer` and returns how many bytes that were: all of
    /// `buffer` but at the file's end. `code` shows the kernel's code.
    pub fn read_at(&self, code: &dyn VirtualMemory, offset: u64, buffer: &mut [u8]) -> usize {
        let mut out = Window { buffer, filled: 0 };
        let head = usize::try_from(offset)
            .ok()
            .and_then(|start| self.layout.head.get(start..));
        out.put(0, head.unwrap_or_default());
        self.read_symbols(offset, &mut out);
        self.read_strings(offset, &mut out);
        self.read_frames(code, offset, &mut out);
        out.filled
    }

    fn read_symbols(&self, offset: u64, out: &mut Window<'_>) {
        let position = offset.saturating_add(out.filled as u64);
        if out.is_full() || !(self.layout.symbols..self.layout.strings).contains(&position) {
            return;
        }
        let at = position.saturating_sub(self.layout.symbols);
        let row = at.checked_div(SYMBOL_BYTES as u64).unwrap_or(0);
        let skip = at.checked_rem(SYMBOL_BYTES as u64).unwrap_or(0);
        let mut skip = usize::try_from(skip).unwrap_or(0);
        for entry in Rows::new(self, usize::try_from(row).unwrap_or(usize::MAX)) {
            out.put(skip, &entry);
            skip = 0;
            if out.is_full() {
                break;
            }
        }
    }

    fn read_strings(&self, offset: u64, out: &mut Window<'_>) {
        let position = offset.saturating_add(out.filled as u64);
        if out.is_full() || position < self.layout.strings || position >= self.layout.frames {
            return;
        }
        let at = position.saturating_sub(self.layout.strings);
        let Some(at) = at.checked_sub(1) else {
            // The first string is the empty one.
            out.put(0, b"\0");
            return self.read_strings(offset, out);
        };
        let blocks = self.symbols.blocks();
        let block = blocks.partition_point(|block| u64::from(block.text_bytes) <= at);
        let block = block.saturating_sub(1);
        let start = blocks
            .get(block)
            .map_or(0, |block| u64::from(block.text_bytes));
        let mut skip = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        for symbol in self
            .symbols
            .symbols_from(block.saturating_mul(BLOCK_SYMBOLS))
        {
            for part in symbol.name.parts().chain([b"\0".as_slice()]) {
                out.put(skip, part);
                skip = skip.saturating_sub(part.len());
            }
            if out.is_full() {
                break;
            }
        }
    }

    fn read_frames(&self, code: &dyn VirtualMemory, offset: u64, out: &mut Window<'_>) {
        let position = offset.saturating_add(out.filled as u64);
        let at = position.checked_sub(self.layout.frames);
        if let (Some(frames), Some(at), false) = (&self.frames, at, out.is_full()) {
            frames.read(&self.symbols, code, at, &mut |skip, bytes| {
                out.put(skip, bytes);
                !out.is_full()
            });
        }
    }

    /// Returns the entry of a symbol, whose name is at `name` of the strings.
    fn entry(&self, index: usize, symbol: &Symbol<'_>, name: u32) -> SymbolEntry {
        let address = symbol.address;
        let section = self.sections.find(address);
        let is_code = section.is_some_and(|(_, section)| section.is_code);
        let kind = match symbol.letter {
            b't' | b'T' | b'i' => SymbolKind::Function,
            b'w' | b'W' if is_code => SymbolKind::Function,
            b'a' | b'A' | b'n' | b'N' | b'?' | b'-' => SymbolKind::None,
            _ if section.is_none() => SymbolKind::None,
            _ => SymbolKind::Object,
        };
        let limit = section.map_or(address.0, |(_, section)| section.end.0);
        let size = self
            .next_address(index, address.0)
            .min(limit)
            .saturating_sub(address.0);
        SymbolEntry {
            name,
            kind,
            is_local: symbol.is_local(),
            is_weak: symbol.is_weak(),
            section: section.map(|(number, _)| number),
            address,
            size,
        }
    }

    /// Returns the lowest address of a symbol that is above `address`, which symbol `index` has.
    fn next_address(&self, index: usize, address: u64) -> u64 {
        // Most symbols share their address with no other one.
        let next = self
            .symbols
            .address(index.saturating_add(1))
            .unwrap_or(u64::MAX);
        if next > address {
            return next;
        }
        let above = self.symbols.partition_point(|other| other <= address);
        self.symbols.address(above).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for SymbolFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SymbolFile")
            .field("len", &self.len())
            .field("text", &self.text())
            .field("symbols", &self.symbols)
            .finish_non_exhaustive()
    }
}

/// The entries of `.symtab`: an empty one, the local symbols, the others.
struct Rows<'a> {
    file: &'a SymbolFile,
    symbols: Symbols<'a>,
    /// Where the next symbol's name is in `.strtab`.
    name: u32,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Empty,
    Locals,
    Globals,
}

impl<'a> Rows<'a> {
    /// Creates the entries from the given row on.
    fn new(file: &'a SymbolFile, row: usize) -> Self {
        let symbols = file.symbols.iter();
        let mut rows = Self {
            file,
            symbols,
            name: 1,
            part: Part::Empty,
        };
        let Some(ordinal) = row.checked_sub(1) else {
            return rows;
        };
        let local_count = file.symbols.total().local_count as usize;
        let (part, ordinal) = match ordinal.checked_sub(local_count) {
            Some(ordinal) => (Part::Globals, ordinal),
            None => (Part::Locals, ordinal),
        };
        rows.seek(part, ordinal);
        rows
    }

    /// Goes to the symbol of that ordinal among those of its part.
    fn seek(&mut self, part: Part, ordinal: usize) {
        self.part = part;
        let all = &self.file.symbols;
        // A block is chosen by how many symbols of this part are before it. Blocks are numbered
        // through `text_bytes`' order, so that a search over positions does both parts.
        let before = |number: usize| {
            let locals = all
                .blocks()
                .get(number)
                .map_or(0, |block| block.local_count as usize);
            match part {
                Part::Globals => number.saturating_mul(BLOCK_SYMBOLS).saturating_sub(locals),
                Part::Empty | Part::Locals => locals,
            }
        };
        let (mut low, mut high) = (0, all.blocks().len());
        while high.saturating_sub(low) > 1 {
            let middle = low.midpoint(high);
            if before(middle) <= ordinal {
                low = middle;
            } else {
                high = middle;
            }
        }
        let text_bytes = all.blocks().get(low).map_or(0, |block| block.text_bytes);
        self.symbols = all.symbols_from(low.saturating_mul(BLOCK_SYMBOLS));
        self.name = text_bytes.saturating_add(1);
        for _ in before(low)..ordinal {
            self.next_of_part();
        }
    }

    fn next_of_part(&mut self) -> Option<SymbolEntry> {
        let is_local = self.part == Part::Locals;
        loop {
            let index = self.symbols.index();
            let symbol = self.symbols.next()?;
            let name = self.name;
            let len_bytes = u32::try_from(symbol.name.len_bytes()).unwrap_or(u32::MAX);
            self.name = name.saturating_add(len_bytes).saturating_add(1);
            if symbol.is_local() == is_local {
                return Some(self.file.entry(index, &symbol, name));
            }
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = [u8; SYMBOL_BYTES];

    fn next(&mut self) -> Option<Self::Item> {
        if self.part == Part::Empty {
            self.seek(Part::Locals, 0);
            return Some([0; SYMBOL_BYTES]);
        }
        if let Some(entry) = self.next_of_part() {
            return Some(entry.bytes());
        }
        if self.part == Part::Globals {
            return None;
        }
        self.seek(Part::Globals, 0);
        self.next_of_part().map(|entry| entry.bytes())
    }
}

/// A buffer that is filled from its start: `buffer[..filled]` is done.
struct Window<'a> {
    buffer: &'a mut [u8],
    filled: usize,
}

impl Window<'_> {
    /// Appends `bytes` without the first `skip`, as far as they fit.
    fn put(&mut self, skip: usize, bytes: &[u8]) {
        let bytes = bytes.get(skip..).unwrap_or_default();
        let rest = self.buffer.get_mut(self.filled..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        if let (Some(to), Some(from)) = (rest.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
            self.filled = self.filled.saturating_add(count);
        }
    }

    const fn is_full(&self) -> bool {
        self.filled >= self.buffer.len()
    }
}

/// Decodes pairs of hexadecimal digits, of which a build identifier has 16 to 64.
fn hex_bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().as_chunks::<2>().0;
    let fits = digits.len().is_multiple_of(2) && (1..=64).contains(&pairs.len());
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    let byte = |[high, low]: &[u8; 2]| Some(nibble(*high)? << 4 | nibble(*low)?);
    fits.then(|| pairs.iter().map(byte).collect()).flatten()
}
