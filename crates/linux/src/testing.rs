//! A guest's memory for tests, and an encoder of kallsyms tables in every format.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use trapline_arch::{Gpa, Gva, PhysicalMemory};

use crate::kallsyms::{AddressTable, TableAddresses};
use crate::memory::VirtualMemory;

/// The text of the Debian kernel 6.1.0-56-cloud-amd64, with KASLR on.
pub(crate) const DEBIAN: &str = include_str!("../tests/data/vmcoreinfo-debian-6.1.txt");

/// Bytes from `base` on. A read ends at the next page border, as a page walk's does.
pub(crate) struct FakeMemory {
    pub(crate) base: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) bytes_read: Cell<u64>,
}

impl FakeMemory {
    pub(crate) fn new(base: u64, bytes: Vec<u8>) -> Self {
        Self {
            base,
            bytes,
            bytes_read: Cell::new(0),
        }
    }

    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        let start = usize::try_from(address - self.base).unwrap();
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&self, address: u64, limit: usize, buffer: &mut [u8]) -> usize {
        let start = address
            .checked_sub(self.base)
            .and_then(|start| usize::try_from(start).ok());
        let rest = start
            .and_then(|start| self.bytes.get(start..))
            .unwrap_or_default();
        let count = rest.len().min(buffer.len()).min(limit);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.bytes_read.set(self.bytes_read.get() + count as u64);
        count
    }
}

impl PhysicalMemory for FakeMemory {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        self.read(address.0, usize::MAX, buffer)
    }
}

impl VirtualMemory for FakeMemory {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        let to_border = usize::try_from(0x1000 - address.offset_in(0x1000)).unwrap();
        self.read(address.0, to_border, buffer)
    }
}

/// A stream of numbers that look random and are the same in every run (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn byte(&mut self) -> u8 {
        self.below(256).to_le_bytes()[0]
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lengths {
    OneByte,
    OneOrTwoBytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Before 6.2.
    Old,
    /// 6.2 and 6.3: with `seqs_of_names`.
    OldWithSequence,
    /// Since 6.4.
    New,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    FromBase,
    AbsolutePerCpu,
    Absolute,
}

/// The format of a kernel's tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) lengths: Lengths,
    pub(crate) order: Order,
    pub(crate) rule: Rule,
}

impl Format {
    pub(crate) const LINUX_6_1: Self = Self {
        lengths: Lengths::OneOrTwoBytes,
        order: Order::Old,
        rule: Rule::AbsolutePerCpu,
    };

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Lengths::OneByte, Lengths::OneOrTwoBytes]
            .into_iter()
            .flat_map(|lengths| {
                [Order::Old, Order::OldWithSequence, Order::New]
                    .into_iter()
                    .flat_map(move |order| {
                        [Rule::FromBase, Rule::AbsolutePerCpu, Rule::Absolute]
                            .into_iter()
                            .map(move |rule| Self {
                                lengths,
                                order,
                                rule,
                            })
                    })
            })
    }
}

/// A symbol before it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) address: u64,
    pub(crate) letter: char,
    pub(crate) name: String,
}

pub(crate) fn plain(address: u64, letter: char, name: &str) -> Plain {
    Plain {
        address,
        letter,
        name: name.into(),
    }
}

/// The run-time address of `_text` in the made-up kernels.
pub(crate) const TEXT: u64 = 0xffff_ffff_9240_0000;

/// A small kernel: per-CPU values, aliases, every kind of letter, and all borders of sections.
pub(crate) fn small_kernel() -> Vec<Plain> {
    vec![
        plain(0, 'A', "fixed_percpu_data"),
        plain(0, 'A', "__per_cpu_start"),
        plain(0x1f000, 'A', "current_task"),
        plain(TEXT, 'T', "_stext"),
        plain(TEXT, 'T', "_text"),
        plain(TEXT + 0x70, 't', "local_helper"),
        plain(TEXT + 0x100, 'T', "vfs_read"),
        plain(TEXT + 0x180, 'W', "weak_function"),
        plain(TEXT + 0x1c0, 'T', "vfs_write"),
        plain(TEXT + 0x1f00, 't', "local_helper"),
        plain(TEXT + 0x2000, 'T', "_etext"),
        plain(TEXT + 0x3000, 'R', "linux_banner"),
        plain(TEXT + 0x4000, 'D', "_sdata"),
        plain(TEXT + 0x4000, 'D', "init_uts_ns"),
        plain(TEXT + 0x4200, 'd', "debug_level"),
        plain(TEXT + 0x5000, 'T', "_sinittext"),
        plain(TEXT + 0x5000, 'T', "start_kernel"),
        plain(TEXT + 0x6000, 'T', "_einittext"),
        plain(TEXT + 0x7000, 'B', "__bss_start"),
        plain(TEXT + 0x7100, 'b', "pool_0123456789"),
        plain(TEXT + 0x8000, 'B', "_end"),
    ]
}

/// A kernel of that many more functions.
pub(crate) fn large_kernel(functions: u64) -> Vec<Plain> {
    let mut symbols = small_kernel();
    let place = symbols
        .iter()
        .position(|symbol| symbol.address == TEXT + 0x1f00)
        .unwrap();
    let more = (0..functions).map(|number| {
        let letter = if number % 3 == 0 { 't' } else { 'T' };
        let name = alloc::format!("__do_sys_function_{number}");
        Plain {
            address: TEXT + 0x200 + number * 0x1c00 / functions.max(0x1c00),
            letter,
            name,
        }
    });
    symbols.splice(place..place, more);
    symbols
}

/// The tokens that the encoder knows beside single characters.
const WORDS: [&str; 8] = [
    "__do_sys_",
    "vfs_",
    "T__do",
    "func",
    "tion_",
    "read",
    "__",
    "te",
];
/// The code of the first of them.
const FIRST_WORD: usize = 0x80;

/// Tables at the addresses from `base` on, with some memory before and behind them.
pub(crate) struct Encoded {
    pub(crate) memory: FakeMemory,
    pub(crate) tables: TableAddresses,
}

impl Encoded {
    /// Adds memory before the tables, as there always is in a guest.
    pub(crate) fn with_memory_before(mut self, len_bytes: usize) -> Self {
        self.memory.base -= len_bytes as u64;
        self.memory
            .bytes
            .splice(0..0, core::iter::repeat_n(0xa5, len_bytes));
        self
    }
}

pub(crate) fn encode(symbols: &[Plain], format: Format, base: u64) -> Encoded {
    let mut out = Output {
        base,
        bytes: vec![0xa5; 0x3000],
    };
    let mut parts = Parts::default();
    let words: Vec<u64> = symbols.iter().map(|symbol| symbol.address).collect();
    if format.order != Order::New {
        parts.addresses = out.addresses(&words, format.rule);
    }
    parts.num_syms = out.table(&u32::try_from(symbols.len()).unwrap().to_le_bytes());
    let (names, markers) = encode_names(symbols, format.lengths);
    parts.names = out.table(&names);
    out.table(
        &markers
            .iter()
            .flat_map(|marker| marker.to_le_bytes())
            .collect::<Vec<_>>(),
    );
    let sequence: Vec<u8> = (0..symbols.len())
        .flat_map(|number| [0, (number >> 8) as u8, number as u8])
        .collect();
    if format.order == Order::OldWithSequence {
        out.table(&sequence);
    }
    let (tokens, index) = encode_tokens();
    parts.token_table = out.table(&tokens);
    parts.token_index = out.table(&index);
    if format.order == Order::New {
        parts.addresses = out.addresses(&words, format.rule);
        out.table(&sequence);
    }
    let bytes = out.bytes.len().next_multiple_of(0x1000) + 0x3000;
    out.bytes.resize(bytes, 0x5a);
    let (first, second) = parts.addresses;
    let tables = TableAddresses {
        num_syms: Gva(parts.num_syms),
        names: Gva(parts.names),
        token_table: Gva(parts.token_table),
        token_index: Gva(parts.token_index),
        addresses: match format.rule {
            Rule::Absolute => AddressTable::Absolute(Gva(first)),
            Rule::FromBase | Rule::AbsolutePerCpu => AddressTable::Relative {
                offsets: Gva(first),
                relative_base: Gva(second),
            },
        },
    };
    Encoded {
        memory: FakeMemory::new(base, out.bytes),
        tables,
    }
}

#[derive(Default)]
struct Parts {
    num_syms: u64,
    names: u64,
    token_table: u64,
    token_index: u64,
    addresses: (u64, u64),
}

struct Output {
    base: u64,
    bytes: Vec<u8>,
}

impl Output {
    /// Appends a table, padded to eight bytes, and returns its address.
    fn table(&mut self, bytes: &[u8]) -> u64 {
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        address
    }

    fn addresses(&mut self, words: &[u64], rule: Rule) -> (u64, u64) {
        let base = *words.iter().find(|word| **word >> 63 == 1).unwrap();
        let offset = |word: &u64| match rule {
            Rule::AbsolutePerCpu if *word >> 63 == 0 => u32::try_from(*word).unwrap(),
            Rule::AbsolutePerCpu => !u32::try_from(word - base).unwrap(),
            // A kernel with this rule has no absolute symbols.
            Rule::FromBase | Rule::Absolute => u32::try_from(word.saturating_sub(base)).unwrap(),
        };
        if rule == Rule::Absolute {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            return (self.table(&bytes), 0);
        }
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word| offset(word).to_le_bytes())
            .collect();
        let offsets = self.table(&bytes);
        (offsets, self.table(&base.to_le_bytes()))
    }
}

fn encode_names(symbols: &[Plain], lengths: Lengths) -> (Vec<u8>, Vec<u32>) {
    let (mut names, mut markers) = (Vec::new(), Vec::new());
    for (number, symbol) in symbols.iter().enumerate() {
        if number % 256 == 0 {
            markers.push(u32::try_from(names.len()).unwrap());
        }
        let codes = compress(&alloc::format!("{}{}", symbol.letter, symbol.name));
        match (lengths, u8::try_from(codes.len())) {
            (Lengths::OneByte, Ok(len)) => names.push(len),
            (Lengths::OneOrTwoBytes, Ok(len @ 0..=0x7f)) => names.push(len),
            _ => names.extend([codes.len() as u8 | 0x80, (codes.len() >> 7) as u8]),
        }
        names.extend(codes);
    }
    (names, markers)
}

fn compress(text: &str) -> Vec<u8> {
    let mut codes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let word = WORDS.iter().position(|word| rest.starts_with(word));
        let (code, len) = match word {
            Some(word) => ((FIRST_WORD + word) as u8, WORDS[word].len()),
            None => (first, 1),
        };
        codes.push(code);
        rest = &rest[len..];
    }
    codes
}

fn encode_tokens() -> (Vec<u8>, Vec<u8>) {
    let (mut tokens, mut index) = (Vec::new(), Vec::new());
    for code in 0..256_usize {
        index.extend(u16::try_from(tokens.len()).unwrap().to_le_bytes());
        match WORDS.get(code.wrapping_sub(FIRST_WORD)) {
            Some(word) => tokens.extend_from_slice(word.as_bytes()),
            None if (code as u8).is_ascii_graphic() => tokens.push(code as u8),
            None => {}
        }
        tokens.push(0);
    }
    (tokens, index)
}
