use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use trapline_arch::{Gpa, Gva};

use super::load::{AddressTable, KallsymsError, TableAddresses};
use super::{Kallsyms, TableProgress, TableScanner};
use crate::memory::PhysicalView;
use crate::testing::{
    DEBIAN, Encoded, FakeMemory, Format, Lengths, Order, Plain, Random, Rule, TEXT, encode,
    large_kernel, plain, small_kernel,
};
use crate::vmcoreinfo::VmcoreInfo;

const BASE: u64 = 0xffff_ffff_a000_0000;

fn load(encoded: &Encoded) -> Result<Kallsyms, KallsymsError> {
    Kallsyms::load_tables(&encoded.memory, &encoded.tables, Some(Gva(TEXT)))
}

fn small() -> Kallsyms {
    load(&encode(&small_kernel(), Format::LINUX_6_1, BASE)).unwrap()
}

fn plain_of(symbols: &Kallsyms) -> Vec<Plain> {
    let plain_of = |symbol: super::Symbol<'_>| {
        plain(
            symbol.address.0,
            char::from(symbol.letter),
            &symbol.name.to_string(),
        )
    };
    symbols.iter().map(plain_of).collect()
}

/// The symbols that a kernel of this format would have: without absolute ones where it has none.
fn kernel_for(format: Format, functions: u64) -> Vec<Plain> {
    let mut symbols = large_kernel(functions);
    if format.rule == Rule::FromBase {
        symbols.retain(|symbol| symbol.address >= TEXT);
    }
    symbols
}

#[test]
fn symbols_of_every_format_are_read_back() {
    for format in Format::all() {
        for functions in [0, 107, 108, 1000] {
            let symbols = kernel_for(format, functions);
            let loaded = load(&encode(&symbols, format, BASE)).unwrap();
            assert_eq!(plain_of(&loaded), symbols, "{format:?}");
        }
    }
}

#[test]
fn names_of_128_bytes_and_more_are_read_back() {
    let modern = Format::LINUX_6_1;
    let old = Format {
        lengths: Lengths::OneByte,
        ..modern
    };
    for (format, longest) in [(modern, 511), (old, 254)] {
        for len in [126, 127, 128, 129, 200, 254, 511] {
            let mut symbols = small_kernel();
            symbols.insert(7, plain(TEXT + 0x120, 'T', &"x".repeat(len.min(longest))));
            let loaded = load(&encode(&symbols, format, BASE)).unwrap();
            assert_eq!(plain_of(&loaded), symbols, "{format:?} {len}");
        }
    }
}

#[test]
fn a_symbol_of_any_number_is_read() {
    let symbols = large_kernel(700);
    let loaded = load(&encode(&symbols, Format::LINUX_6_1, BASE)).unwrap();
    for (number, symbol) in symbols.iter().enumerate() {
        let found = loaded.symbol(number).unwrap();
        assert!(found.name == symbol.name.as_str() && found.address.0 == symbol.address);
        assert_eq!(found.name.len_bytes(), symbol.name.len());
    }
    assert!(loaded.symbol(symbols.len()).is_none());
    assert!(loaded.symbol(usize::MAX).is_none());
}

#[test]
fn symbols_are_found_by_name() {
    let symbols = small();
    assert_eq!(
        symbols.first_by_name("vfs_read").unwrap().address,
        Gva(TEXT + 0x100)
    );
    let both: Vec<_> = symbols
        .by_name("local_helper")
        .map(|symbol| symbol.address.0)
        .collect();
    assert_eq!(both, [TEXT + 0x70, TEXT + 0x1f00]);
    for name in ["", "vfs_rea", "vfs_read_", "Tvfs_read", "local", "\u{fc}"] {
        assert!(symbols.first_by_name(name).is_none(), "{name}");
    }
}

#[test]
fn symbols_are_found_by_address() {
    let symbols = small();
    let at = |address| {
        symbols
            .by_address(Gva(address))
            .map(|found| (found.symbol.name.to_string(), found.offset))
    };
    assert_eq!(at(TEXT), Some(("_stext".into(), 0)));
    assert_eq!(at(TEXT + 0x10f), Some(("vfs_read".into(), 0xf)));
    assert_eq!(at(TEXT + 0x4001), Some(("_sdata".into(), 1)));
    assert_eq!(at(TEXT + 0x8000), Some(("_end".into(), 0)));
    // Behind the image, before it, in a process, and offsets of per-CPU variables.
    for address in [TEXT + 0x8001, u64::MAX, TEXT - 1, 0x40_0000, 0x1f000, 0] {
        assert_eq!(at(address), None, "{address:#x}");
    }
}

#[test]
fn names_are_completed() {
    let symbols = small();
    assert_eq!(symbols.complete("vfs_", 10), ["vfs_read", "vfs_write"]);
    assert_eq!(symbols.complete("local", 10), ["local_helper"]);
    assert_eq!(symbols.complete("vfs_", 1), ["vfs_read"]);
    assert_eq!(symbols.complete("vfs_read", 10), ["vfs_read"]);
    assert_eq!(symbols.complete("", 1000).len(), 20);
    assert!(symbols.complete("vfs_", 0).is_empty() && symbols.complete("vfs_x", 9).is_empty());
}

#[test]
fn letters_tell_local_weak_and_absolute_symbols() {
    let symbols = small();
    let named = |name| symbols.first_by_name(name).unwrap();
    assert!(named("local_helper").is_local() && !named("vfs_read").is_local());
    assert!(named("weak_function").is_weak() && !named("weak_function").is_local());
    assert!(named("current_task").is_absolute() && !named("_end").is_absolute());
    assert_eq!(
        format!("{:?}", named("vfs_read")),
        "ffffffff92400100 T vfs_read"
    );
    let mut buffer = [0; 3];
    assert_eq!(named("vfs_read").name.copy_to(&mut buffer), b"vfs");
}

#[test]
fn a_large_table_stays_small() {
    let loaded = load(&encode(&large_kernel(130_000), Format::LINUX_6_1, BASE)).unwrap();
    assert!(
        loaded.resident_bytes() < 5 << 20,
        "{}",
        loaded.resident_bytes()
    );
}

#[test]
fn tables_are_found_through_vmcoreinfo() {
    let info = VmcoreInfo::parse(DEBIAN.as_bytes()).unwrap();
    let tables = TableAddresses::from_vmcoreinfo(&info).unwrap();
    assert_eq!(tables.names, Gva(0xffff_ffff_8577_5590));
    let old = VmcoreInfo::parse(DEBIAN.replace("kallsyms", "x").as_bytes()).unwrap();
    let memory = FakeMemory::new(0, vec![]);
    assert_eq!(
        Kallsyms::load(&memory, &old).unwrap_err(),
        KallsymsError::NoTables
    );
    let address = tables.num_syms;
    let table = "kallsyms_num_syms";
    let error = KallsymsError::Unreadable { table, address };
    assert_eq!(Kallsyms::load(&memory, &info).unwrap_err(), error);
}

#[test]
fn tables_of_another_kernel_are_refused() {
    let encoded = encode(&small_kernel(), Format::LINUX_6_1, BASE);
    let expected = Gva(TEXT + 0x20_0000);
    let error = Kallsyms::load_tables(&encoded.memory, &encoded.tables, Some(expected));
    assert_eq!(error.unwrap_err(), KallsymsError::Disagrees { expected });
    assert!(Kallsyms::load_tables(&encoded.memory, &encoded.tables, None).is_ok());
}

#[test]
fn impossible_counts_are_refused() {
    for count in [0, (512 << 10) + 1, u32::MAX] {
        let mut encoded = encode(&small_kernel(), Format::LINUX_6_1, BASE);
        encoded
            .memory
            .put(encoded.tables.num_syms.0, &count.to_le_bytes());
        assert_eq!(load(&encoded).unwrap_err(), KallsymsError::Count(count));
    }
}

#[test]
fn damaged_tables_are_refused() {
    let damage = |place: fn(&TableAddresses) -> u64, bytes: &[u8]| {
        let mut encoded = encode(&small_kernel(), Format::LINUX_6_1, BASE);
        encoded.memory.put(place(&encoded.tables), bytes);
        load(&encoded).unwrap_err()
    };
    let tokens = KallsymsError::Tokens;
    assert_eq!(damage(|tables| tables.token_index.0, &[1, 0]), tokens);
    assert_eq!(damage(|tables| tables.token_index.0 + 510, &[0, 0]), tokens);
    assert_eq!(damage(|tables| tables.token_table.0 + 0x40, b"\n"), tokens);
    assert_eq!(
        damage(|tables| tables.names.0, &[0]),
        KallsymsError::BadName(0)
    );
    assert_eq!(
        damage(|tables| tables.names.0 + 1, b"1"),
        KallsymsError::BadName(0)
    );
    assert_eq!(
        damage(|tables| tables.names.0, &[0xff, 0xff]),
        KallsymsError::BadName(0)
    );
    let offsets = |tables: &TableAddresses| match tables.addresses {
        AddressTable::Relative { offsets, .. } => offsets.0,
        AddressTable::Absolute(addresses) => addresses.0,
    };
    assert_eq!(damage(offsets, &[1, 0, 0, 0]), KallsymsError::Unsorted(1));
}

#[test]
fn tables_that_end_with_memory_are_read_and_cut_ones_refused() {
    let format = Format {
        order: Order::Old,
        ..Format::LINUX_6_1
    };
    let mut encoded = encode(&small_kernel(), format, BASE);
    let end = usize::try_from(encoded.tables.token_index.0 + 512 - BASE).unwrap();
    encoded.memory.bytes.truncate(end);
    assert!(load(&encoded).is_ok());
    for len in (0x3000..end).rev() {
        encoded.memory.bytes.truncate(len);
        assert!(load(&encoded).is_err(), "{len}");
    }
}

#[test]
fn mutated_tables_do_no_harm() {
    let mut random = Random(0xfeed_f00d_1234_5677);
    for format in Format::all() {
        for _ in 0..100 {
            let mut encoded = encode(&small_kernel(), format, BASE);
            for _ in 0..1 + random.below(4) {
                let place = 0x3000 + random.below(encoded.memory.bytes.len() - 0x6000);
                encoded.memory.bytes[place] = random.byte();
            }
            let Ok(symbols) = Kallsyms::load_tables(&encoded.memory, &encoded.tables, None) else {
                continue;
            };
            assert_eq!(symbols.iter().count(), symbols.len());
            for symbol in &symbols {
                let _ = (symbol.name.to_string(), symbols.by_address(symbol.address));
            }
        }
    }
}

/// The tables in physical memory, with as much before them as the search looks at.
fn in_physical_memory(symbols: &[Plain], format: Format) -> Encoded {
    encode(symbols, format, 0x100_0000).with_memory_before(0x3_0000)
}

fn table_scanner(memory: &FakeMemory) -> TableScanner {
    TableScanner::new([Gpa(memory.base)..Gpa(memory.base + memory.bytes.len() as u64)])
}

#[test]
fn tables_are_found_without_vmcoreinfo() {
    for format in Format::all().filter(|format| format.rule != Rule::Absolute) {
        for functions in [500, 760, 1000, 5000] {
            let symbols = kernel_for(format, functions);
            let encoded = in_physical_memory(&symbols, format);
            let mut scanner = table_scanner(&encoded.memory);
            let progress = scanner.step(&encoded.memory, u64::MAX);
            assert_eq!(
                progress,
                TableProgress::Found(encoded.tables),
                "{format:?} {functions}"
            );
            let view = PhysicalView(&encoded.memory);
            let loaded = Kallsyms::load_tables(&view, &encoded.tables, None).unwrap();
            assert_eq!(plain_of(&loaded), symbols);
            assert_eq!(
                scanner.step(&encoded.memory, u64::MAX),
                TableProgress::NotFound
            );
        }
    }
}

#[test]
fn a_search_for_tables_in_mutated_memory_ends() {
    let mut random = Random(0x0bad_cafe_1234_5677);
    for format in Format::all() {
        let mut memory = in_physical_memory(&kernel_for(format, 600), format).memory;
        for _ in 0..20 {
            for _ in 0..1 + random.below(4) {
                let place = 0x3_3000 + random.below(memory.bytes.len() - 0x3_3000);
                memory.bytes[place] = random.byte();
            }
            let mut scanner = table_scanner(&memory);
            let progress = |_| scanner.step(&memory, 1 << 20);
            assert!(
                (0..100)
                    .map(progress)
                    .any(|progress| progress == TableProgress::NotFound)
            );
        }
    }
}

#[test]
fn landmarks_are_found_as_other_names_are() {
    let mut symbols = large_kernel(20_000);
    let last = symbols.last().unwrap().address;
    // Some twice, some not at all.
    for (index, name) in ["_end", "__bss_start", "_end", "linux_banner"]
        .iter()
        .enumerate()
    {
        symbols.push(plain(last + 16 * index as u64, 'D', name));
    }
    let encoded = encode(&symbols, Format::LINUX_6_1, TEXT);
    let loaded = load(&encoded).unwrap();
    let mut found = 0;
    for name in super::LANDMARKS {
        let address = loaded.first_by_name(name).map(|symbol| symbol.address);
        let first = loaded.by_name(name).next();
        assert_eq!(address, first.map(|symbol| symbol.address), "{name}");
        found += usize::from(address.is_some());
    }
    assert!((4..super::LANDMARKS.len()).contains(&found), "{found}");
}
