//! The search for the kernel's symbol tables where VMCOREINFO does not name them: in kernels before
//! 6.0, and while a kernel starts.
//!
//! Symbols contain every digit, so that in the token table each digit stands for itself and the ten
//! tokens `0`…`9` lie side by side. From there the other tables follow, by the order in which
//! `scripts/kallsyms.c` writes them, each aligned to eight bytes:
//!
//! ```text
//! before 6.4   offsets  relative_base  num_syms  names  markers  (seqs_of_names)  token_table  token_index
//! since 6.4    num_syms  names  markers  token_table  token_index  offsets  relative_base  seqs_of_names
//! ```
//!
//! `seqs_of_names`, three bytes for each symbol, came with 6.2 and in updates of 6.1. Before 4.20 the
//! markers were 64 bits wide; those kernels are not found.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use trapline_arch::{Gpa, Gva, PhysicalMemory};

use super::load::{AddressTable, TableAddresses};
use super::tokens::{INDEX_BYTES, TOKEN_COUNT, TokenTable};
use super::{LengthEncoding, MAX_NAME_BYTES, MAX_SYMBOLS};
use crate::chunks::{ChunkSearch, Sought};
use crate::memory::PhysicalView;
use crate::vmcoreinfo::is_kernel_address;

/// The tokens of the digits.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// How much of the token table may follow the digits: some five times what kernels have.
const MAX_TABLE_BYTES: usize = 8 << 10;
/// How many symbols lie between two markers.
const MARKER_SYMBOLS: usize = 256;
/// The most markers.
const MAX_MARKERS: usize = (MAX_SYMBOLS as usize).div_ceil(MARKER_SYMBOLS);
/// The most bytes of names behind the last marker.
const MAX_TAIL_BYTES: usize = MARKER_SYMBOLS * (MAX_NAME_BYTES + 2);
/// How many places with digits are looked at; a kernel has one, its file in the page cache others.
const MAX_CANDIDATES: u32 = 64;
/// How many places may look like the number of symbols before a candidate is given up.
const MAX_COUNTS: usize = 16;
/// How many places may look like markers before a candidate is given up.
const MAX_MARKER_TRIES: u32 = 8;
/// What a look at a candidate counts for in a budget.
const CANDIDATE_COST_BYTES: u64 = 4 << 20;

/// A search for the symbol tables that stops after a given number of bytes and goes on later.
///
/// It reads all memory, at a few GB/s. What it finds are physical addresses, for
/// [`Kallsyms::load_tables`](super::Kallsyms::load_tables) with a
/// [`PhysicalView`](crate::PhysicalView); that checks the tables to their end.
///
/// A guest that was reset may leave the tables of its former life behind. Where `_stext` is known by
/// other means, `load_tables` tells them apart; the search then goes on.
pub struct TableScanner {
    digits: ChunkSearch,
    candidates: u32,
}

/// How far a [`TableScanner`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableProgress {
    /// Tables were found. Where they turn out to be damaged, the search can go on.
    Found(TableAddresses),
    /// The budget is used up; call again.
    More,
    /// All memory was searched.
    NotFound,
}

impl TableScanner {
    /// Creates a search through the regions of RAM, in their order.
    pub fn new(regions: impl IntoIterator<Item = Range<Gpa>>) -> Self {
        Self {
            digits: ChunkSearch::new(DIGITS, regions.into_iter().collect()),
            candidates: 0,
        }
    }

    /// Searches on for about `max_bytes` of memory, at least 64 KiB.
    pub fn step(&mut self, memory: &dyn PhysicalMemory, max_bytes: u64) -> TableProgress {
        let mut spent = 0;
        let limit = max_bytes.max(1);
        while self.candidates < MAX_CANDIDATES {
            match self.digits.next(memory, &mut spent, limit) {
                Sought::At(digits) => {
                    self.candidates = self.candidates.saturating_add(1);
                    spent = spent.saturating_add(CANDIDATE_COST_BYTES);
                    if let Some(tables) = locate(memory, digits) {
                        return TableProgress::Found(tables);
                    }
                }
                Sought::More => return TableProgress::More,
                Sought::End => break,
            }
        }
        TableProgress::NotFound
    }
}

impl fmt::Debug for TableScanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableScanner")
            .field("candidates", &self.candidates)
            .finish_non_exhaustive()
    }
}

/// Finds all tables from the place of the digits.
fn locate(memory: &dyn PhysicalMemory, digits: Gpa) -> Option<TableAddresses> {
    let (token_table, token_index) = locate_tokens(memory, digits)?;
    let (names, count) = adjacent_markers(memory, token_table)
        .and_then(|(markers, start)| locate_names(memory, &markers, start))
        .or_else(|| locate_behind_sequence(memory, token_table))?;
    let num_syms = before(names, 8)?;
    let offsets_bytes = u64::from(count)
        .checked_mul(4)?
        .checked_next_multiple_of(8)?;
    let old_base = before(num_syms, 8)?;
    let (offsets, relative_base) = if is_base(memory, old_base) {
        (before(old_base, offsets_bytes)?, old_base)
    } else {
        let offsets = token_index.checked_add(INDEX_BYTES as u64)?;
        let new_base = offsets.checked_add(offsets_bytes)?;
        is_base(memory, new_base).then_some((offsets, new_base))?
    };
    let addresses = AddressTable::Relative {
        offsets: Gva(offsets.0),
        relative_base: Gva(relative_base.0),
    };
    Some(TableAddresses {
        num_syms: Gva(num_syms.0),
        names: Gva(names.0),
        token_table: Gva(token_table.0),
        token_index: Gva(token_index.0),
        addresses,
    })
}

/// Returns where the token table and its index are.
fn locate_tokens(memory: &dyn PhysicalMemory, digits: Gpa) -> Option<(Gpa, Gpa)> {
    let mut bytes = vec![0; MAX_TABLE_BYTES];
    let count = memory.read_physical(digits, &mut bytes).min(bytes.len());
    let behind = TOKEN_COUNT.checked_sub(usize::from(b'0'))?;
    let mut ends = bytes
        .get(..count)?
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == 0);
    let (last_nul, _) = ends.nth(behind.checked_sub(1)?)?;
    let end = digits.checked_add(last_nul as u64)?.checked_add(1)?;
    let index = Gpa(end.0.checked_next_multiple_of(8)?);
    let entry = index.checked_add(u64::from(b'0').checked_mul(2)?)?;
    let mut zero_offset = [0; 2];
    if memory.read_physical(entry, &mut zero_offset) != zero_offset.len() {
        return None;
    }
    let table = before(digits, u16::from_le_bytes(zero_offset).into())?;
    let view = PhysicalView(memory);
    let tokens = TokenTable::load(&view, Gva(table.0), Gva(index.0)).ok()?;
    (table.0.is_multiple_of(8) && tokens.token(b'9') == b"9").then_some((table, index))
}

/// Reads the markers, which end at `end` and begin with a zero, and returns where that is.
fn adjacent_markers(memory: &dyn PhysicalMemory, end: Gpa) -> Option<(Vec<u32>, Gpa)> {
    let mut bytes = vec![0; MAX_MARKERS.checked_add(2)?.checked_mul(4)?];
    let start = before(end, bytes.len() as u64)?;
    if memory.read_physical(start, &mut bytes) != bytes.len() {
        return None;
    }
    let words = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    let mut backwards = words.rev().peekable();
    // An odd number of markers is followed by four bytes of padding.
    let padding = u64::from(backwards.next_if_eq(&0).is_some());
    let mut markers = Vec::new();
    for marker in backwards {
        if markers.last().is_some_and(|behind| *behind <= marker) {
            return None;
        }
        markers.push(marker);
        if marker == 0 {
            let len = padding.checked_add(markers.len() as u64)?;
            markers.reverse();
            let enough = markers.len() >= 2;
            return enough.then_some((markers, before(end, len.checked_mul(4)?)?));
        }
    }
    None
}

/// Finds the names where `seqs_of_names` is between the markers and `end`.
///
/// Its length is not known, but it tells the number of markers, so that only the first two of them
/// need to be looked at for each.
fn locate_behind_sequence(memory: &dyn PhysicalMemory, end: Gpa) -> Option<(Gpa, u32)> {
    let mut tries = 0_u32;
    for sequence_bytes in (8..=u64::from(MAX_SYMBOLS).checked_mul(3)?).step_by(8) {
        let most = sequence_bytes.checked_div(3)?;
        let least = sequence_bytes.checked_sub(5)?.checked_div(3)?;
        let counts = [most, least].map(|count| count.div_ceil(MARKER_SYMBOLS as u64));
        let distinct = if counts[0] == counts[1] {
            &counts[..1]
        } else {
            &counts[..]
        };
        for marker_count in distinct {
            let markers_bytes = marker_count.checked_mul(4)?.checked_next_multiple_of(8)?;
            let start = before(end, sequence_bytes.checked_add(markers_bytes)?)?;
            let second = memory.read_u64(start)?.rotate_left(32);
            if *marker_count < 2 || !(1..=MAX_TAIL_BYTES as u64).contains(&second) {
                continue;
            }
            tries = tries.saturating_add(1);
            let found = read_markers(memory, start, *marker_count)
                .and_then(|markers| locate_names(memory, &markers, start))
                .filter(|(_, count)| (least..=most).contains(&u64::from(*count)));
            if found.is_some() || tries == MAX_MARKER_TRIES {
                return found;
            }
        }
    }
    None
}

/// Reads markers from `start` on and checks that they ascend.
fn read_markers(memory: &dyn PhysicalMemory, start: Gpa, count: u64) -> Option<Vec<u32>> {
    let mut bytes = vec![0; usize::try_from(count).ok()?.checked_mul(4)?];
    if memory.read_physical(start, &mut bytes) != bytes.len() {
        return None;
    }
    let markers: Vec<u32> = bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
        .collect();
    markers
        .is_sorted_by(|before, behind| before < behind)
        .then_some(markers)
}

/// Finds the names, which end before the markers, and the number of symbols, which is before them.
fn locate_names(
    memory: &dyn PhysicalMemory,
    markers: &[u32],
    markers_start: Gpa,
) -> Option<(Gpa, u32)> {
    let (last, full) = markers.split_last()?;
    let least = full.len().checked_mul(MARKER_SYMBOLS)?;
    let most = least.checked_add(MARKER_SYMBOLS)?;
    // The names begin at a multiple of eight in `window`, with their number in the eight bytes
    // before them. It is as far before the window's end as the last marker is before that of
    // the names.
    let names_end = before(markers_start, u64::from(*last))?;
    let window_start = before(names_end, MAX_TAIL_BYTES.checked_add(8)? as u64)?.align_down(8);
    let window_len = usize::try_from(names_end.0.checked_sub(window_start.0)?).ok()?;
    let mut window = vec![0; window_len];
    if memory.read_physical(window_start, &mut window) != window.len() {
        return None;
    }
    let counts = window.as_chunks::<8>().0.iter().enumerate().rev();
    let plausible = counts.filter_map(|(place, word)| {
        let count = usize::try_from(u64::from_le_bytes(*word)).ok()?;
        (least < count && count <= most).then_some((place, count))
    });
    for (place, count) in plausible.take(MAX_COUNTS) {
        let names = window_start.checked_add((place as u64).checked_add(1)?.checked_mul(8)?)?;
        let tail = count.checked_sub(least)?;
        if names_fit(memory, names, markers, markers_start, tail) {
            return Some((names, u32::try_from(count).ok()?));
        }
    }
    None
}

/// Checks that the first marker and the last one fit the names: that 256 names end at the second
/// marker, and that `tail` names from the last marker on end where the markers begin.
fn names_fit(
    memory: &dyn PhysicalMemory,
    names: Gpa,
    markers: &[u32],
    markers_start: Gpa,
    tail: usize,
) -> bool {
    let first = walk(memory, names, MARKER_SYMBOLS);
    if first.map(u64::from) != markers.get(1).map(|marker| u64::from(*marker)) {
        return false;
    }
    let last = markers
        .last()
        .and_then(|marker| names.checked_add(u64::from(*marker)));
    let end = last.and_then(|last| {
        let len_bytes = walk(memory, last, tail)?;
        last.checked_add(u64::from(len_bytes))?
            .0
            .checked_next_multiple_of(8)
    });
    end == Some(markers_start.0)
}

/// Returns how many bytes `count` names from `place` on take.
fn walk(memory: &dyn PhysicalMemory, place: Gpa, count: usize) -> Option<u32> {
    let mut bytes = vec![0; MAX_TAIL_BYTES];
    let available = memory.read_physical(place, &mut bytes).min(bytes.len());
    let mut rest = bytes.get(..available)?;
    for _ in 0..count {
        let (_, len_bytes) = LengthEncoding::OneOrTwoBytes.split(rest)?;
        rest = rest.get(len_bytes..)?;
    }
    u32::try_from(available.checked_sub(rest.len())?).ok()
}

/// Whether there is what may be the base of the offsets, the address of `_text`, in a page's start.
fn is_base(memory: &dyn PhysicalMemory, place: Gpa) -> bool {
    memory
        .read_u64(place)
        .is_some_and(|base| is_kernel_address(Gva(base)) && base & 0xfff == 0)
}

fn before(address: Gpa, len_bytes: u64) -> Option<Gpa> {
    address.0.checked_sub(len_bytes).map(Gpa)
}
