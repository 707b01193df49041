//! The kernel's own symbol table, kallsyms: names, addresses and type letters.
//!
//! The table stays as the kernel keeps it, compressed, because a server has few MiB to spend: a
//! kernel of 130,000 symbols takes about 2.5 MB here, against 6 MB as ELF. A name is a
//! [`Name`], which yields its bytes from the token table.
//!
//! ```text
//! kallsyms_names       len code code … code   len code …        one entry per symbol
//!                           │
//! kallsyms_token_index [code] ──► kallsyms_token_table "Tvfs_\0" the first byte of a symbol's
//!                                                               first token is its type letter
//! kallsyms_offsets     [n]    ──► address, by kallsyms_relative_base
//! ```
//!
//! Source: Linux, `scripts/kallsyms.c` and `kernel/kallsyms.c`, 4.20 to 6.17.

mod find;
mod load;
mod name;
mod names;
#[cfg(test)]
mod tests;
mod tokens;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use trapline_arch::Gva;

pub use find::{TableProgress, TableScanner};
pub(crate) use load::Loader;
pub use load::{AddressTable, KallsymsError, TableAddresses};
pub use name::Name;

use crate::vmcoreinfo::is_kernel_address;
use name::Comparison;
use tokens::TokenTable;

/// The most symbols a table may have: three times those of a distribution's kernel.
pub(crate) const MAX_SYMBOLS: u32 = 512 << 10;
/// The most bytes of compressed names.
pub(crate) const MAX_NAMES_BYTES: usize = 8 << 20;
/// The longest name with its type letter: the kernel's `KSYM_NAME_LEN`.
pub(crate) const MAX_NAME_BYTES: usize = 512;
/// How many symbols there are in a block. A look-up decodes at most one block's lengths.
pub(crate) const BLOCK_SYMBOLS: usize = 128;

/// The symbols of a kernel, in the order of their addresses.
///
/// Symbols of modules are not among them. Several symbols may share an address or a name.
pub struct Kallsyms {
    tokens: Box<TokenTable>,
    names: Vec<u8>,
    lengths: LengthEncoding,
    blocks: Vec<Block>,
    addresses: Addresses,
    /// The first symbol that is in the kernel's half of the address space. Those before it are
    /// absolute values: offsets in the per-CPU area, mostly.
    first_in_image: usize,
    /// What comes before the end.
    total: Block,
    /// The number of the first symbol of each name in [`LANDMARKS`].
    landmarks: [Option<u32>; LANDMARKS.len()],
}

/// Symbols that are asked for whenever a kernel is found. They are looked for once, while the table
/// is read, for a look through all names takes milliseconds.
const LANDMARKS: [&str; 12] = [
    "_text",
    "_stext",
    "_etext",
    "_sdata",
    "_sinittext",
    "_einittext",
    "__bss_start",
    "_end",
    "__start_orc_unwind_ip",
    "__stop_orc_unwind_ip",
    "__start_orc_unwind",
    "linux_banner",
];

/// How the length before a compressed name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LengthEncoding {
    /// One byte: before Linux 6.1.
    OneByte,
    /// One byte, or, with its top bit set, the low seven bits of a length whose others are in the
    /// second byte.
    OneOrTwoBytes,
}

/// What came before a block of symbols.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Block {
    /// Compressed bytes in [`Kallsyms::names`].
    names_bytes: u32,
    /// Bytes of plain names, each with a terminating NUL.
    pub(crate) text_bytes: u32,
    /// Symbols with a local type letter.
    pub(crate) local_count: u32,
}

/// Addresses as the kernel keeps them.
enum Addresses {
    /// 32-bit offsets and their base.
    Relative {
        base: u64,
        rule: OffsetRule,
        offsets: Vec<u32>,
    },
    /// Plain addresses.
    Absolute(Vec<u64>),
}

/// What an offset means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OffsetRule {
    /// The address is `base + offset`.
    FromBase,
    /// `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`: a non-negative offset is the address; another one means
    /// the address `base - 1 - offset`.
    AbsolutePerCpu,
}

/// One symbol.
#[derive(Clone, Copy)]
pub struct Symbol<'a> {
    /// Where the symbol is when the guest runs; an absolute value if it is below the kernel's half.
    pub address: Gva,
    /// Its type as `nm` shows it: `T` text, `D` data, `B` bss, `R` read-only, `A` absolute, `W`
    /// and `V` weak. A lower-case letter is a local symbol.
    pub letter: u8,
    /// Its name.
    pub name: Name<'a>,
}

/// The symbol at or before an address.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    /// The first of the symbols with the greatest address that is not above the one asked for.
    pub symbol: Symbol<'a>,
    /// How far the address asked for is behind it, in bytes.
    pub offset: u64,
}

impl Kallsyms {
    /// Returns the number of symbols.
    #[must_use]
    pub const fn len(&self) -> usize {
        match &self.addresses {
            Addresses::Relative { offsets, .. } => offsets.len(),
            Addresses::Absolute(addresses) => addresses.len(),
        }
    }

    /// Returns whether there are no symbols, which a loaded table never is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the symbol of the given number, in address order.
    #[must_use]
    pub fn symbol(&self, index: usize) -> Option<Symbol<'_>> {
        self.symbols_from(index).next()
    }

    /// Returns all symbols, in address order.
    #[must_use]
    pub fn iter(&self) -> Symbols<'_> {
        self.symbols_from(0)
    }

    /// Returns the symbols from the given number on, in address order.
    #[must_use]
    pub fn symbols_from(&self, index: usize) -> Symbols<'_> {
        let block = index.checked_div(BLOCK_SYMBOLS).unwrap_or(0);
        let names_bytes = self
            .blocks
            .get(block)
            .map_or(0, |block| block.names_bytes as usize);
        let start = block.saturating_mul(BLOCK_SYMBOLS);
        let mut symbols = Symbols {
            table: self,
            index: start,
            position: names_bytes,
        };
        for _ in start..index.min(self.len()) {
            symbols.next_codes();
        }
        symbols.index = index;
        symbols
    }

    /// Returns the symbols of exactly that name, in address order.
    ///
    /// It reads the whole table: about a millisecond.
    pub fn by_name<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Symbol<'a>> {
        let wanted = name.as_bytes();
        self.iter()
            .filter(move |symbol| symbol.name.compare(wanted) == Comparison::Equal)
    }

    /// Returns the symbol of that name with the lowest address.
    #[must_use]
    pub fn first_by_name(&self, name: &str) -> Option<Symbol<'_>> {
        if let Some(place) = LANDMARKS.iter().position(|landmark| *landmark == name) {
            let number = self.landmarks.get(place).copied().flatten()?;
            return self.symbol(number as usize);
        }
        let wanted = name.as_bytes();
        self.iter()
            .find(|symbol| symbol.name.compare(wanted) == Comparison::Equal)
    }

    /// Notes the landmarks among the symbols `first..end`.
    fn note_landmarks(&mut self, first: usize, end: usize) {
        let mut landmarks = self.landmarks;
        let symbols = self.symbols_from(first).take(end.saturating_sub(first));
        for (symbol, number) in symbols.zip(u32::try_from(first).unwrap_or(u32::MAX)..) {
            let named = LANDMARKS
                .iter()
                .position(|name| symbol.name.compare(name.as_bytes()) == Comparison::Equal);
            if let Some(landmark) = named.and_then(|place| landmarks.get_mut(place)) {
                landmark.get_or_insert(number);
            }
        }
        self.landmarks = landmarks;
    }

    /// Returns at most `limit` different names that begin with `prefix`, sorted.
    ///
    /// Where there are more, those with the lowest addresses are taken.
    #[must_use]
    pub fn complete(&self, prefix: &str, limit: usize) -> Vec<String> {
        let wanted = prefix.as_bytes();
        let mut names: Vec<String> = Vec::new();
        for symbol in self.iter() {
            if names.len() >= limit {
                break;
            }
            if symbol.name.compare(wanted) == Comparison::Different {
                continue;
            }
            let name = symbol.name.to_string();
            if let Err(place) = names.binary_search(&name) {
                names.insert(place, name);
            }
        }
        names
    }

    /// Returns the symbol that `address` is in or behind.
    ///
    /// `None` before the image's first symbol and behind its last one: an address of a module, of
    /// a user process or of the linear map has no symbol here.
    #[must_use]
    pub fn by_address(&self, address: Gva) -> Option<Match<'_>> {
        let end = self.partition_point(|symbol| symbol <= address.0);
        let nearest = self.address(end.checked_sub(1)?)?;
        if end <= self.first_in_image || (end == self.len() && nearest != address.0) {
            return None;
        }
        // The kernel orders aliases so that the best name comes first.
        let first = self.partition_point(|symbol| symbol < nearest);
        let symbol = self.symbol(first)?;
        Some(Match {
            symbol,
            offset: address.0.checked_sub(nearest)?,
        })
    }

    /// Returns how much memory the table takes, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let addresses = match &self.addresses {
            Addresses::Relative { offsets, .. } => offsets.capacity().saturating_mul(4),
            Addresses::Absolute(addresses) => addresses.capacity().saturating_mul(8),
        };
        let blocks = self.blocks.capacity().saturating_mul(size_of::<Block>());
        size_of::<Self>()
            .saturating_add(self.tokens.resident_bytes())
            .saturating_add(self.names.capacity())
            .saturating_add(blocks)
            .saturating_add(addresses)
    }

    /// Returns the address of a symbol by its number.
    pub(crate) fn address(&self, index: usize) -> Option<u64> {
        match &self.addresses {
            Addresses::Relative {
                base,
                rule,
                offsets,
            } => offsets
                .get(index)
                .map(|offset| rule.address(*base, *offset)),
            Addresses::Absolute(addresses) => addresses.get(index).copied(),
        }
    }

    /// Returns how many symbols, from the first on, have an address for which `below` holds.
    pub(crate) fn partition_point(&self, below: impl Fn(u64) -> bool) -> usize {
        match &self.addresses {
            Addresses::Relative {
                base,
                rule,
                offsets,
            } => offsets.partition_point(|offset| below(rule.address(*base, *offset))),
            Addresses::Absolute(addresses) => addresses.partition_point(|address| below(*address)),
        }
    }

    /// Returns what comes before each block of [`BLOCK_SYMBOLS`] symbols.
    pub(crate) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Returns what comes before the end of the table.
    pub(crate) const fn total(&self) -> Block {
        self.total
    }

    /// Returns the number of the first symbol that is no absolute value.
    pub(crate) const fn first_in_image(&self) -> usize {
        self.first_in_image
    }
}

impl OffsetRule {
    const fn address(self, base: u64, offset: u32) -> u64 {
        match self {
            Self::FromBase => base.wrapping_add(offset as u64),
            Self::AbsolutePerCpu if offset.cast_signed() >= 0 => offset as u64,
            // `-1 - offset` is the complement of a negative number.
            Self::AbsolutePerCpu => base.wrapping_add(!offset as u64),
        }
    }
}

impl LengthEncoding {
    /// Splits the codes of the first entry off `names` and returns how long the entry is with them.
    fn split(self, names: &[u8]) -> Option<(&[u8], usize)> {
        let first = *names.first()?;
        let (count, head) = match self {
            Self::OneOrTwoBytes if first & 0x80 != 0 => {
                let high = usize::from(*names.get(1)?);
                (usize::from(first & 0x7f) | high << 7, 2_usize)
            }
            Self::OneByte | Self::OneOrTwoBytes => (usize::from(first), 1),
        };
        let end = head.checked_add(count)?;
        Some((names.get(head..end)?, end))
    }
}

impl Symbol<'_> {
    /// Returns whether the symbol is local to its file.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        Self::is_local_letter(self.letter)
    }

    const fn is_local_letter(letter: u8) -> bool {
        // `u` is a unique global symbol; `v` and `w` are weak ones without a default.
        letter.is_ascii_lowercase() && !matches!(letter, b'u' | b'v' | b'w')
    }

    /// Returns whether the symbol is weak.
    #[must_use]
    pub const fn is_weak(&self) -> bool {
        matches!(self.letter, b'v' | b'V' | b'w' | b'W')
    }

    /// Returns whether the symbol's value is no address in the image, such as the offset of a
    /// per-CPU variable.
    #[must_use]
    pub const fn is_absolute(&self) -> bool {
        !is_kernel_address(self.address)
    }
}

impl fmt::Debug for Symbol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:016x} {} {}",
            self.address,
            char::from(self.letter),
            self.name
        )
    }
}

impl fmt::Debug for Kallsyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kallsyms")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<'a> IntoIterator for &'a Kallsyms {
    type Item = Symbol<'a>;
    type IntoIter = Symbols<'a>;

    fn into_iter(self) -> Symbols<'a> {
        self.iter()
    }
}

/// Symbols in address order: see [`Kallsyms::iter`].
#[derive(Clone, Debug)]
pub struct Symbols<'a> {
    table: &'a Kallsyms,
    index: usize,
    position: usize,
}

impl<'a> Symbols<'a> {
    /// Returns the number of the symbol that comes next.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    fn next_codes(&mut self) -> Option<&'a [u8]> {
        let rest = self.table.names.get(self.position..)?;
        let (codes, len_bytes) = self.table.lengths.split(rest)?;
        self.position = self.position.saturating_add(len_bytes);
        Some(codes)
    }
}

impl<'a> Iterator for Symbols<'a> {
    type Item = Symbol<'a>;

    fn next(&mut self) -> Option<Symbol<'a>> {
        let address = Gva(self.table.address(self.index)?);
        let (letter, name) = Name::split(&self.table.tokens, self.next_codes()?)?;
        self.index = self.index.saturating_add(1);
        Some(Symbol {
            address,
            letter,
            name,
        })
    }
}
