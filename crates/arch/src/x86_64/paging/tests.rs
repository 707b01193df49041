use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::cell::RefCell;

use super::*;
use crate::{Gpa, PhysicalMemory, x86_64::registers};

pub(super) const P: u64 = 1 << 0;
pub(super) const RW: u64 = 1 << 1;
pub(super) const US: u64 = 1 << 2;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
pub(super) const PS: u64 = 1 << 7;
const G: u64 = 1 << 8;
pub(super) const NX: u64 = 1 << 63;
pub(super) const TABLE: u64 = P | RW | US;

/// Memory of single 4 KiB pages, which are zero when first written to.
#[derive(Default)]
pub(super) struct Memory {
    pages: BTreeMap<u64, Vec<u8>>,
    pub(super) reads: RefCell<usize>,
}

impl Memory {
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) {
        for (address, byte) in (address..).zip(bytes) {
            let page = self
                .pages
                .entry(address & !0xfff)
                .or_insert_with(|| vec![0; 4096]);
            page[(address & 0xfff) as usize] = *byte;
        }
    }

    pub(super) fn set(&mut self, address: u64, entry: u64) {
        self.write(address, &entry.to_le_bytes());
    }

    fn set_32(&mut self, address: u64, entry: u32) {
        self.write(address, &entry.to_le_bytes());
    }
}

impl PhysicalMemory for Memory {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        *self.reads.borrow_mut() += 1;
        let byte =
            |address: u64| Some(self.pages.get(&(address & !0xfff))?[(address & 0xfff) as usize]);
        for (index, target) in buffer.iter_mut().enumerate() {
            let Some(byte) = address.0.checked_add(index as u64).and_then(byte) else {
                return index;
            };
            *target = byte;
        }
        buffer.len()
    }
}

pub(super) fn state(mode: PagingMode, cr3: u64) -> PagingState {
    state_with(mode, cr3, Cr4::new(), Cr0::new())
}

fn state_with(mode: PagingMode, cr3: u64, cr4: Cr4, cr0: Cr0) -> PagingState {
    PagingState::from_registers(&registers_of(mode, cr3, cr4, cr0))
}

fn registers_of(mode: PagingMode, cr3: u64, cr4: Cr4, cr0: Cr0) -> RegisterFile {
    let mut registers = registers::file();
    let long = matches!(mode, PagingMode::FourLevel | PagingMode::FiveLevel);
    cr0.with_pe(true)
        .with_pg(mode != PagingMode::None)
        .write(&mut registers);
    cr4.with_pae(long || mode == PagingMode::Pae)
        .with_la57(mode == PagingMode::FiveLevel)
        .with_pse(
            mode == PagingMode::Bits32 {
                large_pages: LargePages::On,
            },
        )
        .write(&mut registers);
    Efer::new()
        .with_lma(long)
        .with_nxe(true)
        .write(&mut registers);
    Cr3::from_bits(cr3).write(&mut registers);
    registers
}

const MODES: [PagingMode; 6] = [
    PagingMode::None,
    PagingMode::Bits32 {
        large_pages: LargePages::Off,
    },
    PagingMode::Bits32 {
        large_pages: LargePages::On,
    },
    PagingMode::Pae,
    PagingMode::FourLevel,
    PagingMode::FiveLevel,
];

/// A kernel address with a different index at each level.
const KERNEL: u64 = 0xffff_9abc_def1_2345;

/// Maps `address` through tables at 0x1000, 0x2000 … down to an entry of `level` that holds
/// `leaf`, in a mode of 64-bit entries.
pub(super) fn map(
    memory: &mut Memory,
    levels: u32,
    level: u32,
    address: u64,
    leaf: u64,
) -> Vec<u64> {
    let mut entries = Vec::new();
    for current in (level..=levels).rev() {
        let table = u64::from(levels - current + 1) * 0x1000;
        let index = address >> (12 + 9 * (current - 1)) & 0x1ff;
        let entry = if current == level {
            leaf
        } else {
            (table + 0x1000) | TABLE
        };
        memory.set(table + index * 8, entry);
        entries.push(table + index * 8);
    }
    entries
}

#[test]
fn modes_are_told_from_the_registers() {
    for mode in MODES {
        assert_eq!(state(mode, 0).mode(), mode);
    }
}

#[test]
fn without_paging_addresses_are_physical() {
    let memory = Memory::default();
    let page = state(PagingMode::None, 0)
        .translate(&memory, Gva(0xffff_fff0))
        .unwrap();
    assert_eq!(page.gpa, Gpa(0xffff_fff0));
    let above = Gva(0x1_0000_0000);
    let error = TranslateError::NonCanonical { address: above };
    assert_eq!(
        state(PagingMode::None, 0).translate(&memory, above),
        Err(error)
    );
}

#[test]
fn pages_of_every_size_translate_in_every_mode_of_64_bit_entries() {
    for (mode, levels, address, sizes) in [
        (PagingMode::Pae, 3, 0xdef1_2345, 2),
        (PagingMode::FourLevel, 4, KERNEL, 3),
        (
            PagingMode::FiveLevel,
            5,
            KERNEL & !(0xff << 47) | 0x5a << 48,
            3,
        ),
    ] {
        // The five-level address must be canonical at bit 56.
        let address = if levels == 5 {
            address | 0xff << 56
        } else {
            address
        };
        for level in 1..=sizes {
            let mut memory = Memory::default();
            let size = 1_u64 << (12 + 9 * (level - 1));
            let frame = 0x000a_bcde_0000_0000 & !(size - 1);
            let large = if level == 1 { 0 } else { PS };
            let entries = map(
                &mut memory,
                levels,
                level,
                address,
                frame | P | RW | large | A,
            );
            if mode == PagingMode::Pae {
                // The four top-level entries have no permission bits.
                memory.set(entries[0], 0x2000 | P);
            }
            let walk = state(mode, 0x1000).walk(&memory, Gva(address));
            let page = walk.result.unwrap();
            assert_eq!(
                page.gpa,
                Gpa(frame | address & (size - 1)),
                "{mode:?} {level}"
            );
            assert_eq!(page.page_size_bytes, size);
            assert_eq!(page.rest_of_page_bytes(), size - (address & (size - 1)));
            assert_eq!(
                page.flags,
                PageFlags::WRITABLE | PageFlags::EXECUTABLE | PageFlags::ACCESSED
            );
            let visited: Vec<u64> = walk.steps.iter().map(|step| step.gpa.0).collect();
            assert_eq!(visited, entries);
        }
    }
}

#[test]
fn pages_of_both_sizes_translate_in_32_bit_paging() {
    let on = PagingMode::Bits32 {
        large_pages: LargePages::On,
    };
    let off = PagingMode::Bits32 {
        large_pages: LargePages::Off,
    };
    let address = Gva(0xc123_4567);
    let (directory, table) = (0x5000 + 0x304 * 4, 0x6000 + 0x234 * 4);
    let mut memory = Memory::default();
    memory.set_32(directory, 0x6000 | TABLE as u32);
    memory.set_32(table, 0xfedc_b000 | (P | US | D | G) as u32);
    for mode in [on, off] {
        let page = state(mode, 0x5fff).translate(&memory, address).unwrap();
        assert_eq!((page.gpa, page.page_size_bytes), (Gpa(0xfedc_b567), 4096));
        let flags = PageFlags::USER | PageFlags::EXECUTABLE | PageFlags::DIRTY | PageFlags::GLOBAL;
        assert_eq!(page.flags, flags);
    }
    // Bits 20:13 are bits 39:32 of the address: PSE-36.
    memory.set_32(directory, 0x8040_0000 | 0x9a << 13 | (PS | TABLE) as u32);
    let page = state(on, 0x5000).translate(&memory, address).unwrap();
    assert_eq!(
        (page.gpa, page.page_size_bytes),
        (Gpa(0x9a_8063_4567), 4 << 20)
    );
    // Without PSE the bit is ignored.
    memory.set_32(directory, 0x6000 | (PS | TABLE) as u32);
    assert_eq!(
        state(off, 0x5000).translate(&memory, address).unwrap().gpa,
        Gpa(0xfedc_b567)
    );
}

#[test]
fn the_root_of_pae_paging_is_aligned_to_32_bytes() {
    let mut memory = Memory::default();
    memory.set(0x12e0 + 3 * 8, 0x3000 | P);
    memory.set(0x3000, 0x8000_0000 | PS | P);
    // Bits 4:0 are cache controls; bits above 31 are not there.
    let state = state(PagingMode::Pae, 0xffff_0000_0000_12f8);
    assert_eq!(
        state.translate(&memory, Gva(0xc000_0010)).unwrap().gpa,
        Gpa(0x8000_0010)
    );
}

#[test]
fn the_levels_permissions_are_combined() {
    for (denied, flag) in [
        (RW, PageFlags::WRITABLE),
        (US, PageFlags::USER),
        (NX, PageFlags::EXECUTABLE),
    ] {
        for level in 1..=4 {
            let mut memory = Memory::default();
            let entries = map(&mut memory, 4, 1, KERNEL, 0x7000 | TABLE);
            let entry = entries[4 - level];
            let value = memory.read_u64(Gpa(entry)).unwrap();
            memory.set(entry, value ^ denied);
            let page = state(PagingMode::FourLevel, 0x1000).translate(&memory, Gva(KERNEL));
            assert_eq!(page.unwrap().flags, PageFlags::PERMISSIONS - flag);
        }
    }
}

#[test]
fn the_low_bits_of_cr3_are_no_address() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, KERNEL, 0x7000 | TABLE);
    let state = state(PagingMode::FourLevel, 0x8000_0000_0000_1fff);
    assert_eq!(
        state.translate(&memory, Gva(KERNEL)).unwrap().gpa,
        Gpa(0x7345)
    );
}

#[test]
fn an_entry_that_is_not_present_ends_the_walk_at_each_level() {
    for (mode, levels, address) in [
        (PagingMode::Pae, 3, 0xdef1_2345),
        (PagingMode::FourLevel, 4, KERNEL),
        (PagingMode::FiveLevel, 5, KERNEL),
    ] {
        for level in 1..=levels {
            let mut memory = Memory::default();
            let entries = map(&mut memory, levels, level, address, 0x7000 | NX);
            if mode == PagingMode::Pae && level != 3 {
                memory.set(entries[0], 0x2000 | P);
            }
            let walk = state(mode, 0x1000).walk(&memory, Gva(address));
            let level = u8::try_from(level).unwrap();
            let entry = Entry::from_bits(0x7000 | NX);
            assert_eq!(
                walk.result,
                Err(TranslateError::NotPresent { level, entry })
            );
            assert_eq!(walk.steps.len(), entries.len());
        }
    }
}

#[test]
fn a_table_outside_memory_is_named() {
    for level in 1..4 {
        let mut memory = Memory::default();
        map(&mut memory, 4, level + 1, KERNEL, 0xdead_0000_0000 | TABLE);
        let index = KERNEL >> (12 + 9 * (level - 1)) & 0x1ff;
        let gpa = Gpa(0xdead_0000_0000 + index * 8);
        let level = u8::try_from(level).unwrap();
        assert_eq!(
            state(PagingMode::FourLevel, 0x1000).translate(&memory, Gva(KERNEL)),
            Err(TranslateError::TableMissing { gpa, level })
        );
    }
    let gpa = Gpa(0x1000);
    assert_eq!(
        state(PagingMode::FourLevel, 0x1000).translate(&Memory::default(), Gva(0)),
        Err(TranslateError::TableMissing { gpa, level: 4 })
    );
}

#[test]
fn reserved_bits_fault_where_they_are_reserved() {
    use PagingMode::{FiveLevel, FourLevel, Pae};

    let reserved = |mode, levels, level, bits: u64| {
        let mut memory = Memory::default();
        let address = 0x1234_5678;
        let permissions = if mode == Pae && level == 3 { P } else { TABLE };
        let entries = map(
            &mut memory,
            levels,
            level,
            address,
            0x20_0000 | permissions | bits,
        );
        if mode == Pae && level != 3 {
            memory.set(entries[0], 0x2000 | P);
        }
        let result = state(mode, 0x1000)
            .with_physical_bits(46)
            .translate(&memory, Gva(address));
        matches!(result, Err(TranslateError::ReservedBit { .. }))
    };
    // Large pages where the mode has none.
    assert!(reserved(FourLevel, 4, 4, PS));
    assert!(reserved(FiveLevel, 5, 5, PS));
    assert!(reserved(FiveLevel, 5, 4, PS));
    // Addresses wider than the vCPU's.
    for level in 1..=4 {
        assert!(reserved(FourLevel, 4, level, 1 << 46));
        assert!(reserved(FourLevel, 4, level, 1 << 51));
        assert!(!reserved(FourLevel, 4, level, 1 << 45));
        assert!(!reserved(FourLevel, 4, level, 0x7f << 52));
        assert!(!reserved(FourLevel, 4, level, 0xf << 59));
    }
    // Below the page, from bit 13: bit 12 selects the memory type.
    assert!(!reserved(FourLevel, 4, 2, PS | 1 << 12));
    assert!(reserved(FourLevel, 4, 2, PS | 1 << 13));
    assert!(reserved(FourLevel, 4, 2, PS | 1 << 20));
    assert!(reserved(FourLevel, 4, 3, PS | 1 << 29));
    // PAE paging reserves what longer modes ignore.
    for level in 1..=2 {
        assert!(reserved(Pae, 3, level, 1 << 52));
        assert!(reserved(Pae, 3, level, 1 << 62));
    }
    // Those at its top were checked when they were loaded.
    for bit in [1, 2, 5, 6, 7, 8, 52, 62, 63] {
        assert!(!reserved(Pae, 3, 3, 1 << bit), "{bit}");
    }
    assert!(!reserved(Pae, 3, 1, NX));
}

#[test]
fn reserved_bits_of_32_bit_large_pages_fault() {
    let mode = PagingMode::Bits32 {
        large_pages: LargePages::On,
    };
    let result = |physical_bits, bits: u32| {
        let mut memory = Memory::default();
        memory.set_32(0x1000, bits | (PS | TABLE) as u32);
        state(mode, 0x1000)
            .with_physical_bits(physical_bits)
            .translate(&memory, Gva(0))
    };
    assert!(result(52, 0xff << 13).is_ok());
    assert!(result(36, 0x0f << 13).is_ok());
    assert!(matches!(
        result(36, 0x10 << 13),
        Err(TranslateError::ReservedBit { .. })
    ));
    assert!(matches!(
        result(52, 1 << 21),
        Err(TranslateError::ReservedBit { .. })
    ));
}

#[test]
fn no_execute_is_reserved_unless_it_is_enabled() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, KERNEL, 0x7000 | TABLE | NX);
    let mut registers = registers_of(PagingMode::FourLevel, 0x1000, Cr4::new(), Cr0::new());
    Efer::new().with_lma(true).write(&mut registers);
    let state = PagingState::from_registers(&registers);
    assert!(matches!(
        state.translate(&memory, Gva(KERNEL)),
        Err(TranslateError::ReservedBit { level: 1, .. })
    ));
}

#[test]
fn addresses_that_are_not_canonical_are_refused() {
    let memory = Memory::default();
    for (mode, address) in [
        (PagingMode::FourLevel, 0x0000_8000_0000_0000),
        (PagingMode::FourLevel, 0xffff_7fff_ffff_ffff),
        (PagingMode::FiveLevel, 0x0100_0000_0000_0000),
        (PagingMode::FiveLevel, 0xfeff_ffff_ffff_ffff),
        (PagingMode::Pae, 0x1_0000_0000),
        (MODES[1], 0x1_0000_0000),
    ] {
        let address = Gva(address);
        assert_eq!(
            state(mode, 0).translate(&memory, address),
            Err(TranslateError::NonCanonical { address })
        );
        let (below, above) = mode.hole();
        assert!(mode.is_canonical(below));
        assert!(!mode.is_canonical(below.wrapping_add(1)));
        assert!(above.is_none_or(|above| mode.is_canonical(above)));
        assert!(above.is_none_or(|above| !mode.is_canonical(above.wrapping_add(u64::MAX))));
    }
}

#[test]
fn adjacent_pages_translate_on_their_own() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, 0x1000, 0x7000 | TABLE);
    map(&mut memory, 4, 1, 0x2000, 0x5000 | TABLE);
    let state = state(PagingMode::FourLevel, 0x1000);
    let last = state.translate(&memory, Gva(0x1fff)).unwrap();
    assert_eq!((last.gpa, last.rest_of_page_bytes()), (Gpa(0x7fff), 1));
    let first = state.translate(&memory, Gva(0x2000)).unwrap();
    assert_eq!((first.gpa, first.rest_of_page_bytes()), (Gpa(0x5000), 4096));
    assert!(state.translate(&memory, Gva(0x3000)).is_err());
}

#[test]
fn another_root_is_another_address_space() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, KERNEL, 0x7000 | TABLE);
    let user = state(PagingMode::FourLevel, 0x9000);
    memory.set(0x9000, 0);
    assert!(user.translate(&memory, Gva(KERNEL)).is_err());
    let kernel = user.with_root(0x1000);
    assert_eq!(
        kernel.translate(&memory, Gva(KERNEL)).unwrap().gpa,
        Gpa(0x7345)
    );
    assert_eq!(kernel.root().into_bits(), 0x1000);
}

#[test]
fn tags_are_removed_where_masking_is_on() {
    const LAM_U57: u64 = 1 << 61;
    const LAM_U48: u64 = 1 << 62;
    let lam_sup = Cr4::new().with_lam_sup(true);
    let untag =
        |mode, cr3, cr4, address| state_with(mode, cr3, cr4, Cr0::new()).untag(Gva(address)).0;
    use PagingMode::{FiveLevel, FourLevel, Pae};
    let user = 0x7e00_7fff_1234_5678;
    let kernel = 0x8100_8880_1234_5678;
    for mode in [FourLevel, FiveLevel] {
        assert_eq!(untag(mode, 0, Cr4::new(), user), user);
        assert_eq!(
            untag(mode, LAM_U57, Cr4::new(), user),
            0x0000_7fff_1234_5678
        );
        assert_eq!(
            untag(mode, LAM_U48, Cr4::new(), 0x7eef_7fff_1234_5678),
            0x7fff_1234_5678
        );
        // U57 wins over U48.
        let both = LAM_U48 | LAM_U57;
        assert_eq!(
            untag(mode, both, Cr4::new(), user | 1 << 52),
            0x0010_7fff_1234_5678
        );
        // Each half has its own switch.
        assert_eq!(untag(mode, both, Cr4::new(), kernel), kernel);
        assert_eq!(untag(mode, 0, lam_sup, user), user);
    }
    assert_eq!(untag(FourLevel, 0, lam_sup, kernel), 0xffff_8880_1234_5678);
    assert_eq!(
        untag(FiveLevel, 0, lam_sup, 0x8188_8880_1234_5678),
        0xff88_8880_1234_5678
    );
    // The sign must agree with bit 63, or the pointer is no tagged one.
    assert_eq!(
        untag(FourLevel, 0, lam_sup, 0x8100_0880_1234_5678),
        0x8100_0880_1234_5678
    );
    assert_eq!(
        untag(FourLevel, LAM_U57, Cr4::new(), 0x7f00_0000_0000_0000),
        0x7f00_0000_0000_0000
    );
    assert_eq!(untag(Pae, LAM_U57, lam_sup, user), user);
}

#[test]
fn tagged_addresses_translate() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, 0x7fff_1234_5678, 0x7000 | TABLE);
    let state = state(PagingMode::FourLevel, 0x1000 | 1 << 61);
    assert_eq!(
        state
            .translate(&memory, Gva(0x7e00_7fff_1234_5678))
            .unwrap()
            .gpa,
        Gpa(0x7678)
    );
}

#[test]
fn the_guests_own_accesses_are_judged_by_its_control_bits() {
    use AccessKind::{Execute, Read, Write};
    use Privilege::{Implicit, Supervisor, User};
    let page = |flags, protection_key| Translation {
        gpa: Gpa(0),
        page_size_bytes: 4096,
        flags,
        protection_key,
    };
    let kernel_text = page(PageFlags::EXECUTABLE, 0);
    let user_data = page(PageFlags::USER | PageFlags::WRITABLE, 1);
    let user_text = page(PageFlags::USER | PageFlags::EXECUTABLE, 0);
    let plain = state_with(PagingMode::FourLevel, 0, Cr4::new(), Cr0::new());
    assert!(!plain.permits(&kernel_text, Read, User));
    assert!(plain.permits(&kernel_text, Execute, Supervisor));
    assert!(plain.permits(&kernel_text, Write, Supervisor));
    assert!(plain.permits(&user_text, Execute, Supervisor));
    assert!(plain.permits(&user_text, Execute, User));
    assert!(!plain.permits(&user_text, Write, User));
    assert!(!plain.permits(&user_data, Execute, User));
    let protect = state_with(
        PagingMode::FourLevel,
        0,
        Cr4::new(),
        Cr0::new().with_wp(true),
    );
    assert!(!protect.permits(&kernel_text, Write, Supervisor));
    let cr4 = Cr4::new().with_smep(true).with_smap(true);
    let mut registers = registers_of(PagingMode::FourLevel, 0, cr4, Cr0::new());
    let strict = PagingState::from_registers(&registers);
    assert!(!strict.permits(&user_text, Execute, Supervisor));
    assert!(!strict.permits(&user_data, Read, Supervisor));
    assert!(strict.permits(&user_data, Write, User));
    Rflags::new().with_ac(true).write(&mut registers);
    let open = PagingState::from_registers(&registers);
    assert!(open.permits(&user_data, Read, Supervisor));
    assert!(!open.permits(&user_data, Read, Implicit));
    assert!(!open.permits(&user_text, Execute, Supervisor));
    let keys = state_with(
        PagingMode::FourLevel,
        0,
        Cr4::new().with_pke(true),
        Cr0::new(),
    );
    // Key 1: writes disabled, then all data accesses.
    assert!(!keys.with_pkru(0b1000).permits(&user_data, Write, User));
    assert!(keys.with_pkru(0b1000).permits(&user_data, Read, User));
    assert!(
        keys.with_pkru(0b1000)
            .permits(&user_data, Write, Supervisor)
    );
    assert!(!keys.with_pkru(0b0100).permits(&user_data, Read, User));
    assert!(!keys.with_pkru(0b0100).permits(&user_data, Read, Supervisor));
    assert!(plain.with_pkru(0b0100).permits(&user_data, Read, User));
    assert!(keys.with_pkru(u32::MAX).permits(&user_text, Execute, User));
}

/// Memory whose every word follows from its address and a seed.
pub(super) struct Noise(pub(super) u64);

impl PhysicalMemory for Noise {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        for (index, byte) in buffer.iter_mut().enumerate() {
            let word = mix(self.0 ^ mix(address.0.wrapping_add(index as u64) / 8));
            // Low addresses, mostly present, few reserved bits: walks that get somewhere.
            let entry = word & 0x8000_0000_0fff_ffe7 | u64::from(word & 0x700 != 0);
            *byte = entry.to_le_bytes()[(address.0.wrapping_add(index as u64) % 8) as usize];
        }
        buffer.len()
    }
}

pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[test]
fn noise_for_tables_ends_every_walk() {
    let mut mapped = 0;
    for seed in 0..20_000 {
        let mode = MODES[(mix(seed) % 6) as usize];
        let state = state(mode, mix(seed + 1)).with_physical_bits(mix(seed + 2) as u32 % 80);
        let address = mix(seed + 3).unbounded_shr(mix(seed + 4) as u32 % 64);
        let walk = state.walk(&Noise(seed), Gva(address));
        assert!(walk.steps.len() <= 5);
        if let Ok(page) = walk.result {
            mapped += 1;
            assert!(page.rest_of_page_bytes() >= 1);
            assert_eq!(
                page.gpa.offset_in(page.page_size_bytes),
                state.untag(Gva(address)).offset_in(page.page_size_bytes)
            );
        }
    }
    assert!(mapped > 1000, "{mapped}");
}
