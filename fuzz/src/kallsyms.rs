use std::sync::Arc;

use trapline_arch::{Gpa, Gva, PhysicalMemory};
use trapline_linux::{
    AddressTable, Kallsyms, Machine, PhysicalView, SymbolFile, TableAddresses, TableProgress,
    TableScanner, call_frames,
};

/// Where the tables are in memory. Below, there are zeros.
const BASE: u64 = 0x2_4000;
/// The places of the six tables, 16 bits each, and the kind of the addresses.
const HEADER_BYTES: usize = 14;

/// The input as a header and the memory with the tables: loaded from where the header says, and
/// searched for.
pub fn kallsyms(data: &[u8]) {
    let Some((header, tables)) = data.split_at_checked(HEADER_BYTES) else {
        return;
    };
    let memory = Memory(tables);
    let view = PhysicalView(&memory);
    if let Ok(symbols) = Kallsyms::load_tables(&view, &addresses(header), None) {
        check(&view, symbols);
    }
    let mut scanner = TableScanner::new([Gpa(BASE)..Gpa(BASE + tables.len() as u64)]);
    for _ in 0..=tables.len() {
        match scanner.step(&memory, 1) {
            TableProgress::Found(addresses) => {
                if let Ok(symbols) = Kallsyms::load_tables(&view, &addresses, None) {
                    check(&view, symbols);
                }
            }
            TableProgress::More => {}
            TableProgress::NotFound => return,
        }
    }
    panic!("the search does not end");
}

fn addresses(header: &[u8]) -> TableAddresses {
    let word = |n: usize| u16::from_le_bytes([header[2 * n], header[2 * n + 1]]);
    let place = |n| Gva(BASE + u64::from(word(n)));
    TableAddresses {
        num_syms: place(0),
        names: place(1),
        token_table: place(2),
        token_index: place(3),
        addresses: match word(6) % 2 {
            0 => AddressTable::Relative {
                offsets: place(4),
                relative_base: place(5),
            },
            _ => AddressTable::Absolute(place(4)),
        },
    }
}

fn check(view: &PhysicalView<'_>, symbols: Kallsyms) {
    assert_eq!(symbols.iter().count(), symbols.len());
    let mut last = 0;
    for symbol in &symbols {
        assert!(symbol.address.0 >= last);
        last = symbol.address.0;
        assert!(symbol.name.bytes().all(|byte| byte.is_ascii_graphic()));
        if let Some(found) = symbols.by_address(symbol.address) {
            assert_eq!((found.symbol.address, found.offset), (symbol.address, 0));
        }
    }
    let frames = call_frames(view, &symbols);
    let symbols = Arc::new(symbols);
    for machine in [Machine::X86_64, Machine::AARCH64] {
        let file = SymbolFile::new(Arc::clone(&symbols), machine, None, &frames);
        let mut whole = vec![0; file.len() as usize];
        assert_eq!(file.read_at(view, 0, &mut whole), whole.len());
        let mut part = [0; 61];
        for start in (0..whole.len()).step_by(4999) {
            let count = file.read_at(view, start as u64, &mut part);
            assert_eq!(part[..count], whole[start..][..count]);
        }
    }
}

struct Memory<'a>(&'a [u8]);

impl PhysicalMemory for Memory<'_> {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let zeros = usize::try_from(BASE.saturating_sub(address.0)).unwrap();
        let (low, high) = buffer.split_at_mut(zeros.min(buffer.len()));
        low.fill(0);
        let start = usize::try_from(address.0.saturating_sub(BASE)).unwrap();
        let rest = self.0.get(start..).unwrap_or_default();
        let count = rest.len().min(high.len());
        high[..count].copy_from_slice(&rest[..count]);
        low.len() + count
    }
}
