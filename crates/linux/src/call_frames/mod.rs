//! How to find a function's caller, as DWARF call frame information: on x86-64 by the kernel's ORC
//! tables, on AArch64 by its code.
//!
//! A kernel built with `CONFIG_UNWINDER_ORC`, as distributions' x86-64 kernels are, keeps no frame
//! pointers, so a debugger without debug information can follow the stack for one call only. But
//! the kernel carries tables from which it unwinds itself. They say the same as DWARF's
//! `.debug_frame`, which GDB and LLDB read, so they are written anew in that form.
//!
//! ```text
//!  __start_orc_unwind_ip   one i32 per entry: code address − own address, ascending
//!  __start_orc_unwind      one OrcEntry per entry: how to unwind from that address on
//! ```
//!
//! Source: Linux, `Documentation/arch/x86/orc-unwinder.rst`; DWARF 4, "Call Frame Information".

mod aarch64;
mod dwarf;
mod orc;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::iter::Peekable;

use trapline_arch::Gva;

pub(crate) use aarch64::CodeFrames;
#[cfg(test)]
pub(crate) use aarch64::SLOT_BYTES as ARM_SLOT_BYTES;

use crate::kallsyms::{Kallsyms, Symbol, Symbols};
use crate::memory::{VirtualMemory, read_exact};
use dwarf::FrameWriter;
use orc::{OrcEntry, OrcFormat, Unwind};

/// The most entries that are read; a distribution's kernel has 400,000.
const MAX_ENTRIES: usize = 1 << 20;

/// The most call frame information that is kept, in bytes.
const MAX_BYTES: usize = 6 << 20;

/// How many entries are read at a time.
const CHUNK_ENTRIES: usize = 1024;

/// How many entries are read in a step.
const STEP_ENTRIES: usize = 8192;

/// Returns the contents of `.debug_frame` for a kernel, or nothing if it has no ORC tables or they
/// are not what they should be.
#[must_use]
pub fn call_frames(memory: &dyn VirtualMemory, symbols: &Kallsyms) -> Vec<u8> {
    let mut reader = FrameReader::new(symbols);
    loop {
        if let Some(frames) = reader.step(memory, symbols) {
            return frames;
        }
    }
}

/// ORC tables that are being read, a part at a time, always with the same symbols.
pub(crate) struct FrameReader {
    /// Where they are, if there are any.
    tables: Option<Tables>,
    writer: FrameWriter,
    format: Option<OrcFormat>,
    /// The entry that comes next.
    next: usize,
    /// The symbol that comes next.
    symbol: usize,
    /// The address of the last entry, and what it says.
    previous: u64,
    unwind: Option<Unwind>,
}

impl FrameReader {
    pub(crate) fn new(symbols: &Kallsyms) -> Self {
        Self {
            tables: Tables::find(symbols),
            writer: FrameWriter::new(),
            format: None,
            next: 0,
            symbol: 0,
            previous: 0,
            unwind: None,
        }
    }

    /// Reads on for less than a millisecond. Returns the contents of `.debug_frame` at the end.
    pub(crate) fn step(
        &mut self,
        memory: &dyn VirtualMemory,
        symbols: &Kallsyms,
    ) -> Option<Vec<u8>> {
        let Some(tables) = self.tables else {
            return Some(Vec::new());
        };
        let (count, text_end) = (tables.count, tables.text_end);
        let end = self.next.saturating_add(STEP_ENTRIES).min(count);
        let mut functions = Functions::new(symbols, self.symbol, text_end);
        for first in (self.next..end).step_by(CHUNK_ENTRIES) {
            let count = end.saturating_sub(first).min(CHUNK_ENTRIES);
            let chunk = tables.read(memory, first, count);
            let is_right = chunk.is_some_and(|chunk| self.write(&chunk, &mut functions));
            if !is_right {
                return Some(Vec::new());
            }
        }
        self.symbol = functions.next;
        self.next = end;
        (end == count).then(|| self.writer.finish(text_end))
    }

    /// Writes what entries say. Returns whether they are what they should be.
    fn write(&mut self, chunk: &[(u64, OrcEntry)], functions: &mut Functions<'_>) -> bool {
        let format = *self.format.get_or_insert_with(|| OrcFormat::guess(chunk));
        for &(address, entry) in chunk {
            if address < self.previous || self.writer.len() > MAX_BYTES {
                return false;
            }
            self.previous = address;
            // An entry may hold on into the next functions.
            while let Some(function) = functions.next_before(address) {
                if let Some(unwind) = &self.unwind {
                    self.writer.row(function, unwind, true);
                }
            }
            let row = format.unwind(entry);
            self.writer.row(address, &row, functions.starts_at(address));
            self.unwind = Some(row);
        }
        true
    }
}

/// The addresses at which functions begin, ascending. Each is described by a piece of its own: LLDB
/// looks for the description of an address from its function's start.
struct Functions<'a> {
    /// The symbols from number `next` on.
    symbols: Peekable<Symbols<'a>>,
    next: usize,
    end: u64,
}

impl<'a> Functions<'a> {
    fn new(symbols: &'a Kallsyms, next: usize, end: u64) -> Self {
        Self {
            symbols: symbols.symbols_from(next).peekable(),
            next,
            end,
        }
    }

    /// Takes the next function, if it begins before `address`.
    fn next_before(&mut self, address: u64) -> Option<u64> {
        let limit = address.min(self.end);
        while let Some(symbol) = self.symbols.next_if(|symbol| symbol.address.0 < limit) {
            self.next = self.next.saturating_add(1);
            if is_function(&symbol) {
                return Some(symbol.address.0);
            }
        }
        None
    }

    /// Takes the functions that begin at `address`. Returns whether there are any.
    fn starts_at(&mut self, address: u64) -> bool {
        let mut starts = false;
        while let Some(symbol) = self.symbols.next_if(|symbol| symbol.address.0 == address) {
            self.next = self.next.saturating_add(1);
            starts |= is_function(&symbol);
        }
        starts
    }
}

const fn is_function(symbol: &Symbol<'_>) -> bool {
    matches!(symbol.letter, b't' | b'T' | b'w' | b'W')
}

/// Where the tables are.
#[derive(Clone, Copy)]
struct Tables {
    addresses: Gva,
    entries: Gva,
    count: usize,
    /// Where the kernel's code ends, and with it the last entry.
    text_end: u64,
}

impl Tables {
    fn find(symbols: &Kallsyms) -> Option<Self> {
        let address = |name| symbols.first_by_name(name).map(|symbol| symbol.address);
        let addresses = address("__start_orc_unwind_ip")?;
        let end = address("__stop_orc_unwind_ip")?;
        let entries = address("__start_orc_unwind")?;
        let count = usize::try_from(end.0.checked_sub(addresses.0)? / 4).ok()?;
        let text_end = address("_einittext").or_else(|| address("_etext"))?.0;
        (1..=MAX_ENTRIES).contains(&count).then_some(Self {
            addresses,
            entries,
            count,
            text_end,
        })
    }

    /// Reads entries with the addresses from which they hold.
    fn read(
        &self,
        memory: &dyn VirtualMemory,
        first: usize,
        count: usize,
    ) -> Option<Vec<(u64, OrcEntry)>> {
        let start = self.addresses.wrapping_add((first as u64).wrapping_mul(4));
        let mut offsets = alloc::vec![0; count.saturating_mul(4)];
        let mut entries = alloc::vec![0; count.saturating_mul(OrcEntry::LEN_BYTES)];
        let entries_start = (first as u64).wrapping_mul(OrcEntry::LEN_BYTES as u64);
        let is_read = read_exact(memory, start, &mut offsets)
            && read_exact(
                memory,
                self.entries.wrapping_add(entries_start),
                &mut entries,
            );
        if !is_read {
            return None;
        }
        let offsets = offsets
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes));
        let entries = entries.as_chunks::<{ OrcEntry::LEN_BYTES }>().0.iter();
        let own_addresses = (0..).map(|index: u64| start.0.wrapping_add(index.wrapping_mul(4)));
        let addresses = offsets
            .zip(own_addresses)
            .map(|(offset, own)| own.wrapping_add_signed(offset.into()));
        Some(
            addresses
                .zip(entries.map(|bytes| OrcEntry::from_bytes(*bytes)))
                .collect(),
        )
    }
}
