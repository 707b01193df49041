use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionKind, SymbolKind,
    SymbolSection,
};
use trapline_arch::Gva;

use super::{Machine, SymbolFile};
use crate::kallsyms::Kallsyms;
use crate::testing::{
    DEBIAN, FakeMemory, Format, Plain, Random, TEXT, encode, large_kernel, small_kernel,
};
use crate::vmcoreinfo::VmcoreInfo;

/// The file of x86-64 is made without the code.
fn no_code() -> FakeMemory {
    FakeMemory::new(0, Vec::new())
}

fn file_of(symbols: &[Plain]) -> SymbolFile {
    let encoded = encode(symbols, Format::LINUX_6_1, 0xffff_ffff_a000_0000);
    let loaded = Kallsyms::load_tables(&encoded.memory, &encoded.tables, None).unwrap();
    let info = VmcoreInfo::parse(DEBIAN.as_bytes()).unwrap();
    SymbolFile::new(Arc::new(loaded), Machine::X86_64, Some(&info), &[])
}

fn bytes_of(file: &SymbolFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len()).unwrap() + 1];
    let count = file.read_at(&no_code(), 0, &mut bytes);
    assert_eq!(count as u64, file.len());
    bytes.truncate(count);
    bytes
}

#[test]
fn the_file_says_what_the_kernel_is() {
    let file = file_of(&small_kernel());
    let bytes = bytes_of(&file);
    let elf = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).unwrap();
    assert_eq!(elf.architecture(), object::Architecture::X86_64);
    assert_eq!(elf.kind(), object::ObjectKind::Executable);
    let build_id = elf.build_id().unwrap().unwrap();
    assert_eq!(
        (build_id.len(), build_id[0], build_id[19]),
        (20, 0x3b, 0x35)
    );
    let segments: Vec<_> = elf
        .segments()
        .map(|part| (part.address(), part.size()))
        .collect();
    assert_eq!(segments, [(TEXT, 0x8000)]);
    assert_eq!(file.text(), Gva(TEXT));
}

#[test]
fn sections_follow_the_borders_in_the_image() {
    let bytes = bytes_of(&file_of(&small_kernel()));
    let elf = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).unwrap();
    let image: Vec<_> = elf
        .sections()
        .filter(|section| section.address() != 0)
        .map(|section| {
            (
                section.name().unwrap(),
                section.address() - TEXT,
                section.size(),
            )
        })
        .collect();
    let expected = [
        (".text", 0, 0x2000),
        (".rodata", 0x2000, 0x2000),
        (".data", 0x4000, 0x1000),
        (".init.text", 0x5000, 0x1000),
        (".init.data", 0x6000, 0x1000),
        (".bss", 0x7000, 0x1000),
    ];
    assert_eq!(image, expected);
    // What LLDB finds in a section that is not writable, it does not ask the guest for.
    for section in elf.sections().filter(|section| section.address() != 0) {
        let object::SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            panic!()
        };
        assert_eq!(sh_flags.0 & 3, 3);
        assert_eq!(section.kind(), SectionKind::UninitializedData);
    }
}

#[test]
fn every_symbol_is_in_the_file() {
    let symbols = large_kernel(1000);
    let bytes = bytes_of(&file_of(&symbols));
    let elf = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).unwrap();
    let mut found: Vec<_> = elf
        .symbols()
        .map(|symbol| (symbol.address(), symbol.name().unwrap()))
        .collect();
    let mut expected: Vec<_> = symbols
        .iter()
        .map(|symbol| (symbol.address, symbol.name.as_str()))
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let locals: Vec<_> = elf.symbols().map(|symbol| symbol.is_local()).collect();
    assert!(locals.is_sorted_by(|before, behind| before >= behind));
    assert_eq!(locals.iter().filter(|local| **local).count(), 334 + 4);
}

#[test]
fn symbols_have_kinds_sections_and_sizes() {
    let bytes = bytes_of(&file_of(&small_kernel()));
    let elf = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).unwrap();
    let of = |name| {
        let symbol = elf
            .symbols()
            .find(|symbol| symbol.name() == Ok(name))
            .unwrap();
        let section = match symbol.section() {
            SymbolSection::Section(index) => elf.section_by_index(index).unwrap().name().unwrap(),
            SymbolSection::Absolute => "*ABS*",
            other => panic!("{other:?}"),
        };
        (symbol.kind(), section, symbol.size(), symbol.is_weak())
    };
    assert_eq!(of("vfs_read"), (SymbolKind::Text, ".text", 0x80, false));
    assert_eq!(of("weak_function"), (SymbolKind::Text, ".text", 0x40, true));
    assert_eq!(of("_stext"), (SymbolKind::Text, ".text", 0x70, false));
    assert_eq!(
        of("start_kernel"),
        (SymbolKind::Text, ".init.text", 0x1000, false)
    );
    assert_eq!(
        of("linux_banner"),
        (SymbolKind::Data, ".rodata", 0x1000, false)
    );
    assert_eq!(of("init_uts_ns"), (SymbolKind::Data, ".data", 0x200, false));
    assert_eq!(
        of("pool_0123456789"),
        (SymbolKind::Data, ".bss", 0xf00, false)
    );
    assert_eq!(of("current_task"), (SymbolKind::Unknown, "*ABS*", 0, false));
}

#[test]
fn any_part_can_be_read() {
    let file = file_of(&large_kernel(600));
    let whole = bytes_of(&file);
    let mut random = Random(0x5555_1234_9876_5433);
    for _ in 0..3000 {
        let start = random.below(whole.len() + 10);
        let len = random.below(if start.is_multiple_of(2) { 60 } else { 5000 });
        let mut buffer = vec![0xee; len];
        let count = file.read_at(&no_code(), start as u64, &mut buffer);
        let expected = &whole[start.min(whole.len())..(start + len).min(whole.len())];
        assert_eq!(&buffer[..count], expected, "{start} {len}");
    }
    assert_eq!(file.read_at(&no_code(), u64::MAX, &mut [0; 8]), 0);
    assert_eq!(file.read_at(&no_code(), file.len(), &mut [0; 8]), 0);
}

#[test]
fn a_kernel_without_borders_has_one_section() {
    let symbols: Vec<_> = small_kernel()
        .into_iter()
        .filter(|symbol| symbol.name.contains("vfs"))
        .collect();
    let file = file_of(&symbols);
    let bytes = bytes_of(&file);
    let elf = ElfFile64::<LittleEndian>::parse(bytes.as_slice()).unwrap();
    assert_eq!(file.text(), Gva(TEXT + 0x100));
    assert_eq!(elf.section_by_name(".text").unwrap().size(), 0xc1);
}
