//! How to find a function's caller: the kernel's ORC tables as DWARF call frame information.
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

mod dwarf;
mod orc;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::iter::Peekable;

use trapline_arch::Gva;

use crate::kallsyms::{Kallsyms, Symbols};
use crate::memory::{VirtualMemory, read_exact};
use dwarf::FrameWriter;
use orc::{OrcEntry, OrcFormat};

/// The most entries that are read; a distribution's kernel has 400,000.
const MAX_ENTRIES: usize = 1 << 20;

/// The most call frame information that is kept, in bytes.
const MAX_BYTES: usize = 6 << 20;

/// How many entries are read at a time.
const CHUNK_ENTRIES: usize = 1024;

/// Returns the contents of `.debug_frame` for a kernel, or nothing if it has no ORC tables or they
/// are not what they should be.
#[must_use]
pub fn call_frames(memory: &dyn VirtualMemory, symbols: &Kallsyms) -> Vec<u8> {
    let Some(tables) = Tables::find(symbols) else {
        return Vec::new();
    };
    let mut writer = FrameWriter::new();
    let mut functions = Functions::new(symbols, tables.text_end);
    let mut format = None;
    let mut previous = 0;
    let mut unwind = None;
    for first in (0..tables.count).step_by(CHUNK_ENTRIES) {
        let count = tables.count.saturating_sub(first).min(CHUNK_ENTRIES);
        let Some(chunk) = tables.read(memory, first, count) else {
            return Vec::new();
        };
        let format = *format.get_or_insert_with(|| OrcFormat::guess(&chunk));
        for &(address, entry) in &chunk {
            if address < previous || writer.len() > MAX_BYTES {
                return Vec::new();
            }
            previous = address;
            // An entry may hold on into the next functions.
            while let Some(function) = functions.next_before(address) {
                if let Some(unwind) = &unwind {
                    writer.row(function, unwind, true);
                }
            }
            let row = format.unwind(entry);
            writer.row(address, &row, functions.starts_at(address));
            unwind = Some(row);
        }
    }
    writer.finish(tables.text_end)
}

/// The addresses at which functions begin, ascending. Each is described by a piece of its own: LLDB
/// looks for the description of an address from its function's start.
struct Functions<'a> {
    symbols: Peekable<Symbols<'a>>,
    end: u64,
}

impl<'a> Functions<'a> {
    fn new(symbols: &'a Kallsyms, end: u64) -> Self {
        Self {
            symbols: symbols.iter().peekable(),
            end,
        }
    }

    /// Takes the next function, if it begins before `address`.
    fn next_before(&mut self, address: u64) -> Option<u64> {
        let limit = address.min(self.end);
        while let Some(symbol) = self.symbols.next_if(|symbol| symbol.address.0 < limit) {
            if matches!(symbol.letter, b't' | b'T' | b'w' | b'W') {
                return Some(symbol.address.0);
            }
        }
        None
    }

    /// Takes the functions that begin at `address`. Returns whether there are any.
    fn starts_at(&mut self, address: u64) -> bool {
        let mut starts = false;
        while let Some(symbol) = self.symbols.next_if(|symbol| symbol.address.0 == address) {
            starts |= matches!(symbol.letter, b't' | b'T' | b'w' | b'W');
        }
        starts
    }
}

/// Where the tables are.
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
