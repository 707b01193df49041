//! Reading the kernel's symbol tables, with every count and length checked.

use alloc::boxed::Box;
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::names::NameReader;
use super::tokens::TokenTable;
use super::{Addresses, Kallsyms, LANDMARKS, LengthEncoding, MAX_SYMBOLS, OffsetRule};
use crate::memory::{VirtualMemory, read_exact, read_u32, read_u64};
use crate::vmcoreinfo::VmcoreInfo;

/// How much of the addresses is read at a time, in bytes.
const ADDRESS_CHUNK_BYTES: usize = 4096;
/// How many names are read in a step.
pub(super) const STEP_NAMES: u32 = 8192;

/// Where the kernel's symbol tables are.
///
/// They are addresses for the memory that is given to [`Kallsyms::load_tables`] with them: virtual
/// ones from VMCOREINFO, physical ones from a [`TableScanner`](super::TableScanner).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableAddresses {
    /// `kallsyms_num_syms`, a 32-bit word.
    pub num_syms: Gva,
    /// `kallsyms_names`.
    pub names: Gva,
    /// `kallsyms_token_table`.
    pub token_table: Gva,
    /// `kallsyms_token_index`, of 256 16-bit words.
    pub token_index: Gva,
    /// The addresses of the symbols.
    pub addresses: AddressTable,
}

/// Where the addresses of the symbols are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressTable {
    /// `CONFIG_KALLSYMS_BASE_RELATIVE`, as every 64-bit distribution kernel has it.
    Relative {
        /// `kallsyms_offsets`, 32-bit words.
        offsets: Gva,
        /// `kallsyms_relative_base`, a 64-bit word.
        relative_base: Gva,
    },
    /// `kallsyms_addresses`, 64-bit words.
    Absolute(Gva),
}

impl TableAddresses {
    /// Takes the addresses from VMCOREINFO, which has them since Linux 6.0.
    ///
    /// Returns `None` for an older kernel and for one without `CONFIG_KALLSYMS`.
    #[must_use]
    pub fn from_vmcoreinfo(info: &VmcoreInfo) -> Option<Self> {
        let relative = info
            .symbol("kallsyms_offsets")
            .zip(info.symbol("kallsyms_relative_base"));
        let addresses = match relative {
            Some((offsets, relative_base)) => AddressTable::Relative {
                offsets,
                relative_base,
            },
            None => AddressTable::Absolute(info.symbol("kallsyms_addresses")?),
        };
        Some(Self {
            num_syms: info.symbol("kallsyms_num_syms")?,
            names: info.symbol("kallsyms_names")?,
            token_table: info.symbol("kallsyms_token_table")?,
            token_index: info.symbol("kallsyms_token_index")?,
            addresses,
        })
    }
}

/// Why the kernel's symbols could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KallsymsError {
    /// VMCOREINFO does not tell where the tables are: the kernel is older than 6.0 or has no
    /// `CONFIG_KALLSYMS`. A [`TableScanner`](super::TableScanner) may find them.
    #[error("the kernel does not tell where its symbol tables are")]
    NoTables,
    /// Memory at the address is missing or not mapped.
    #[error("{table} at {address} cannot be read")]
    Unreadable {
        /// The kernel's name of the table.
        table: &'static str,
        /// Where the table was to be read.
        address: Gva,
    },
    /// The number of symbols is zero or above the limit of 524,288.
    #[error("{0} symbols are none or too many")]
    Count(u32),
    /// The token table and its index contradict each other.
    #[error("the token table is damaged")]
    Tokens,
    /// The entry of this symbol is empty, too long or begins with no type letter.
    #[error("the name of symbol {0} is damaged")]
    BadName(u32),
    /// The compressed names are longer than the limit of 8 MiB.
    #[error("the names are longer than 8 MiB")]
    NamesTooLong,
    /// The addresses are not in ascending order from this symbol on.
    #[error("the address of symbol {0} is out of order")]
    Unsorted(u32),
    /// The table does not give `_stext` the address that VMCOREINFO gives it.
    #[error("the tables do not have _stext at {expected}")]
    Disagrees {
        /// The address in VMCOREINFO.
        expected: Gva,
    },
    /// There is no memory for the tables in the debug server.
    #[error("out of memory")]
    OutOfMemory,
}

impl Kallsyms {
    /// Reads the symbols of the kernel that `info` describes.
    ///
    /// `memory` must show the kernel image: [`ImageMemory`](crate::ImageMemory), or a vCPU's page
    /// tables. It copies about 2 MB and takes some ten milliseconds.
    ///
    /// # Errors
    ///
    /// `NoTables` if `info` does not tell where the tables are; the others if they cannot be read
    /// or are not what a kernel has.
    pub fn load(memory: &dyn VirtualMemory, info: &VmcoreInfo) -> Result<Self, KallsymsError> {
        let tables = TableAddresses::from_vmcoreinfo(info).ok_or(KallsymsError::NoTables)?;
        Self::load_tables(memory, &tables, info.symbol("_stext"))
    }

    /// Reads the symbols from tables at known places.
    ///
    /// `stext` is the run-time address of `_stext` where that is known, to check the result by.
    ///
    /// # Errors
    ///
    /// All of [`KallsymsError`] but `NoTables`.
    pub fn load_tables(
        memory: &dyn VirtualMemory,
        tables: &TableAddresses,
        stext: Option<Gva>,
    ) -> Result<Self, KallsymsError> {
        let mut loader = Loader::new(*tables, stext);
        loop {
            if let Some(result) = loader.step(memory) {
                return result;
            }
        }
    }

    fn check_order(&self) -> Result<(), KallsymsError> {
        let mut last = 0;
        for index in 0..self.len() {
            let address = self.address(index).unwrap_or(0);
            if address < last {
                return Err(KallsymsError::Unsorted(
                    u32::try_from(index).unwrap_or(u32::MAX),
                ));
            }
            last = address;
        }
        Ok(())
    }
}

/// Symbol tables that are being read, a part at a time.
///
/// The memory may change between two steps, as it may under any reader of a guest's memory: what is
/// read is checked all the same, and holds its limits.
pub(crate) struct Loader {
    tables: TableAddresses,
    stext: Option<Gva>,
    lengths: LengthEncoding,
    /// Why they cannot be read with lengths as since Linux 6.1.
    modern: Option<KallsymsError>,
    part: Part,
}

/// What is to be done next.
enum Part {
    /// Reading what precedes the names.
    Start,
    /// Reading the names.
    Names(Box<Reading>),
    /// Looking for landmarks, from that symbol on.
    Landmarks(Box<Kallsyms>, usize),
}

/// What precedes the names was read.
struct Reading {
    count: u32,
    addresses: Addresses,
    names: NameReader,
}

impl Loader {
    pub(crate) const fn new(tables: TableAddresses, stext: Option<Gva>) -> Self {
        Self {
            tables,
            stext,
            lengths: LengthEncoding::OneOrTwoBytes,
            modern: None,
            part: Part::Start,
        }
    }

    /// Reads on for less than a millisecond, save that addresses are read at once, 4 MiB at most.
    /// Returns `None` if there is more to be read.
    pub(crate) fn step(
        &mut self,
        memory: &dyn VirtualMemory,
    ) -> Option<Result<Kallsyms, KallsymsError>> {
        match self.read(memory) {
            Ok(symbols) => symbols.map(Ok),
            // Before 6.1 the top bit of a length was part of it. Lengths from 128 on do not occur in
            // practice there, so the later reading fits both, but if it does not, it is not lost yet.
            Err(error @ (KallsymsError::BadName(_) | KallsymsError::Disagrees { .. }))
                if self.modern.is_none() =>
            {
                self.modern = Some(error);
                self.lengths = LengthEncoding::OneByte;
                self.part = Part::Start;
                None
            }
            Err(error) => Some(Err(self.modern.unwrap_or(error))),
        }
    }

    fn read(&mut self, memory: &dyn VirtualMemory) -> Result<Option<Kallsyms>, KallsymsError> {
        match core::mem::replace(&mut self.part, Part::Start) {
            Part::Start => self.part = Part::Names(Box::new(self.begin(memory)?)),
            Part::Names(mut reading) => {
                self.part = if reading.names.read(memory, reading.count)? {
                    Part::Landmarks(Box::new(self.finish(*reading)?), 0)
                } else {
                    Part::Names(reading)
                };
            }
            Part::Landmarks(mut symbols, first) => {
                let end = first.saturating_add(STEP_NAMES as usize);
                symbols.note_landmarks(first, end);
                if end >= symbols.len() {
                    return Ok(Some(*symbols));
                }
                self.part = Part::Landmarks(symbols, end);
            }
        }
        Ok(None)
    }

    fn begin(&self, memory: &dyn VirtualMemory) -> Result<Reading, KallsymsError> {
        let tables = &self.tables;
        let count = read_u32(memory, tables.num_syms)
            .ok_or(unreadable("kallsyms_num_syms", tables.num_syms))?;
        if count == 0 || count > MAX_SYMBOLS {
            return Err(KallsymsError::Count(count));
        }
        let tokens = TokenTable::load(memory, tables.token_table, tables.token_index)?;
        let addresses = load_addresses(memory, tables.addresses, count)?;
        let names = NameReader::new(tables.names, self.lengths, tokens, count)?;
        Ok(Reading {
            count,
            addresses,
            names,
        })
    }

    fn finish(&self, reading: Reading) -> Result<Kallsyms, KallsymsError> {
        let Reading {
            addresses, names, ..
        } = reading;
        let mut symbols = Kallsyms {
            tokens: Box::new(names.tokens),
            names: names.bytes,
            lengths: self.lengths,
            blocks: names.blocks,
            addresses,
            first_in_image: 0,
            total: names.total,
            landmarks: [None; LANDMARKS.len()],
        };
        symbols.check_order()?;
        symbols.first_in_image = symbols.partition_point(|address| address >> 63 == 0);
        match self.stext {
            Some(expected)
                if !symbols
                    .by_name("_stext")
                    .any(|found| found.address == expected) =>
            {
                Err(KallsymsError::Disagrees { expected })
            }
            _ => Ok(symbols),
        }
    }
}

pub(super) const fn unreadable(table: &'static str, address: Gva) -> KallsymsError {
    KallsymsError::Unreadable { table, address }
}

fn load_addresses(
    memory: &dyn VirtualMemory,
    table: AddressTable,
    count: u32,
) -> Result<Addresses, KallsymsError> {
    match table {
        AddressTable::Absolute(table) => {
            let words = load_words(memory, table, count, u64::from_le_bytes);
            Ok(Addresses::Absolute(
                words.map_err(|error| error.of("kallsyms_addresses", table))?,
            ))
        }
        AddressTable::Relative {
            offsets: table,
            relative_base,
        } => {
            let base = read_u64(memory, relative_base)
                .ok_or(unreadable("kallsyms_relative_base", relative_base))?;
            let offsets = load_words(memory, table, count, u32::from_le_bytes)
                .map_err(|error| error.of("kallsyms_offsets", table))?;
            // No image is 2 GiB long, so that a negative offset tells the rule: the first
            // address in the image, that of `_text`, has one if the rule is that one.
            let negative = offsets.iter().any(|offset| offset.cast_signed() < 0);
            let rule = if negative {
                OffsetRule::AbsolutePerCpu
            } else {
                OffsetRule::FromBase
            };
            Ok(Addresses::Relative {
                base,
                rule,
                offsets,
            })
        }
    }
}

/// Why words could not be loaded, before it is known which.
enum WordsError {
    Unreadable,
    OutOfMemory,
}

impl WordsError {
    const fn of(self, table: &'static str, address: Gva) -> KallsymsError {
        match self {
            Self::Unreadable => unreadable(table, address),
            Self::OutOfMemory => KallsymsError::OutOfMemory,
        }
    }
}

fn load_words<T, const SIZE: usize>(
    memory: &dyn VirtualMemory,
    table: Gva,
    count: u32,
    decode: impl Fn([u8; SIZE]) -> T,
) -> Result<Vec<T>, WordsError> {
    let count = count as usize;
    let mut words = Vec::new();
    words
        .try_reserve_exact(count)
        .map_err(|_| WordsError::OutOfMemory)?;
    let mut chunk = [0; ADDRESS_CHUNK_BYTES];
    while words.len() < count {
        let left_bytes = count.saturating_sub(words.len()).saturating_mul(SIZE);
        let chunk = chunk
            .get_mut(..left_bytes.min(ADDRESS_CHUNK_BYTES))
            .unwrap_or_default();
        let done_bytes = words.len().saturating_mul(SIZE) as u64;
        let place = table
            .checked_add(done_bytes)
            .ok_or(WordsError::Unreadable)?;
        if !read_exact(memory, place, chunk) {
            return Err(WordsError::Unreadable);
        }
        words.extend(
            chunk
                .as_chunks::<SIZE>()
                .0
                .iter()
                .map(|bytes| decode(*bytes)),
        );
    }
    Ok(words)
}
