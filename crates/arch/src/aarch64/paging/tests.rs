use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::cell::RefCell;

use super::*;
use crate::{PhysicalMemory, aarch64::paging::geometry::low_bits};

pub(super) const VALID: u64 = 1 << 0;
pub(super) const TABLE: u64 = 0b11;
pub(super) const PAGE: u64 = 0b11;
pub(super) const BLOCK: u64 = 0b01;
pub(super) const AF: u64 = 1 << 10;
const EL0: u64 = 0b01 << 6;
pub(super) const READ_ONLY: u64 = 0b10 << 6;
const NOT_GLOBAL: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
pub(super) const PXN: u64 = 1 << 53;
pub(super) const UXN: u64 = 1 << 54;
const PXN_TABLE: u64 = 1 << 59;
const UXN_TABLE: u64 = 1 << 60;
const AP_TABLE_NO_EL0: u64 = 0b01 << 61;
const AP_TABLE_READ_ONLY: u64 = 0b10 << 61;

/// Where the first table of a tree is.
pub(super) const ROOT: u64 = 0x10_0000;
/// What one table takes at most, the concatenated ones of stage 2 included.
const TABLE_STRIDE: u64 = 0x10_0000;

/// Memory of single 4 KiB pages, which are zero when first written to.
#[derive(Default)]
pub(super) struct Memory {
    pages: BTreeMap<u64, Vec<u8>>,
    pub(super) reads: RefCell<usize>,
}

impl Memory {
    pub(super) fn set(&mut self, address: u64, entry: u64) {
        let page = self
            .pages
            .entry(address & !0xfff)
            .or_insert_with(|| vec![0; 4096]);
        let at = (address & 0xfff) as usize;
        page[at..at + 8].copy_from_slice(&entry.to_le_bytes());
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

/// Makes the tables of `geometry` from its first level to the entry of `level` for `address`, which
/// becomes `leaf`. The table of each level is at a place of its own; `table` are the bits of the
/// descriptors that lead there.
pub(super) fn map_below(
    memory: &mut Memory,
    geometry: &Geometry,
    level: i8,
    address: u64,
    leaf: u64,
    table: u64,
) {
    let place =
        |level: i8| ROOT + TABLE_STRIDE * u64::from((level - geometry.start_level).unsigned_abs());
    for at in geometry.start_level..=level {
        let entry = if at == level {
            leaf
        } else {
            place(at + 1) | table
        };
        memory.set(place(at) + 8 * geometry.index(at, address), entry);
    }
}

pub(super) fn map(memory: &mut Memory, geometry: &Geometry, level: i8, address: u64, leaf: u64) {
    map_below(memory, geometry, level, address, leaf, TABLE);
}

/// Both halves with a granule and a size, 48-bit addresses.
pub(super) fn tcr(granule: Granule, size: u8) -> Tcr {
    let (tg0, tg1) = match granule {
        Granule::Kib4 => (0b00, 0b10),
        Granule::Kib16 => (0b10, 0b01),
        Granule::Kib64 => (0b01, 0b11),
    };
    Tcr::new()
        .with_t0sz(size)
        .with_t1sz(size)
        .with_tg0(tg0)
        .with_tg1(tg1)
        .with_ips(0b101)
}

pub(super) fn registers_with(tcr: Tcr, sctlr: Sctlr) -> RegisterFile {
    let mut registers = registers::file();
    sctlr.with_m(true).write(&mut registers);
    tcr.write(&mut registers);
    registers.set_u64(registers::TTBR0_EL1, ROOT);
    registers.set_u64(registers::TTBR1_EL1, ROOT);
    registers
}

pub(super) fn state(tcr: Tcr) -> PagingState {
    PagingState::from_registers(&registers_with(tcr, Sctlr::new()))
}

const GRANULES: [Granule; 3] = [Granule::Kib4, Granule::Kib16, Granule::Kib64];

/// An address with a different index at every level, of either half.
fn address_in(half: Half, input_bits: u32) -> u64 {
    let low = 0x0123_4567_89ab_cdef & low_bits(input_bits);
    match half {
        Half::Lower => low,
        Half::Upper => low | !low_bits(input_bits),
    }
}

fn fault(cause: FaultCause, level: i8) -> TranslateError {
    TranslateError::Fault { cause, level }
}

#[test]
fn every_granule_size_level_and_half_translates() {
    let mut start_levels = Vec::new();
    for granule in GRANULES {
        for wide in [false, true] {
            let ips = if wide { 0b110 } else { 0b101 };
            let smallest = if granule == Granule::Kib64 { 47 } else { 48 };
            let largest = if wide || granule == Granule::Kib64 {
                12
            } else {
                16
            };
            for (size, half) in
                (largest..=smallest).flat_map(|size| [(size, Half::Lower), (size, Half::Upper)])
            {
                let tcr = tcr(granule, size).with_ds(wide).with_ips(ips);
                let state = state(tcr);
                let geometry = Geometry::of_stage_1(tcr, half);
                start_levels.push((granule, geometry.start_level));
                let address = address_in(half, 64 - u32::from(size));
                for level in geometry.start_level..=3 {
                    let is_leaf = level == 3 || geometry.has_blocks(level);
                    let kind = if level == 3 { PAGE } else { BLOCK };
                    let frame = 0x0000_7654_3210_0000 & !low_bits(geometry.shift(level));
                    let mut memory = Memory::default();
                    map(&mut memory, &geometry, level, address, frame | kind | AF);
                    let walk = state.walk(&memory, Gva(address));
                    assert_eq!(
                        walk.steps.len(),
                        usize::from((level - geometry.start_level + 1).unsigned_abs())
                    );
                    if !is_leaf {
                        assert_eq!(walk.result, Err(fault(FaultCause::Translation, level)));
                        continue;
                    }
                    let page = walk.result.unwrap();
                    let covered = geometry.covered_bytes(level);
                    assert_eq!(
                        page.gpa.0,
                        frame | address & (covered - 1),
                        "{tcr:?} {level}"
                    );
                    assert_eq!((page.page_size_bytes, page.level), (covered, level));
                    assert_eq!(
                        page.rest_of_page_bytes(),
                        covered - (address & (covered - 1))
                    );
                }
            }
        }
    }
    for (granule, highest) in [
        (Granule::Kib4, -1),
        (Granule::Kib16, 0),
        (Granule::Kib64, 1),
    ] {
        for level in highest..=3 {
            assert!(
                start_levels.contains(&(granule, level)),
                "{granule} {level}"
            );
        }
    }
}

#[test]
fn sizes_of_pages_and_blocks_are_the_manuals() {
    const KIB: u64 = 1 << 10;
    let sizes = |granule, levels: [i8; 3]| {
        let geometry = Geometry::of_stage_1(tcr(granule, 16), Half::Lower);
        levels.map(|level| geometry.covered_bytes(level) / KIB)
    };
    assert_eq!(sizes(Granule::Kib4, [3, 2, 1]), [4, 2 << 10, 1 << 20]);
    assert_eq!(sizes(Granule::Kib16, [3, 2, 1]), [16, 32 << 10, 64 << 20]);
    assert_eq!(sizes(Granule::Kib64, [3, 2, 1]), [64, 512 << 10, 4 << 30]);
}

#[test]
fn blocks_are_where_the_format_has_them() {
    let highest = |granule, ds, ips| {
        let tcr = tcr(granule, 16).with_ds(ds).with_ips(ips);
        let geometry = Geometry::of_stage_1(tcr, Half::Lower);
        (-1..4_i8).find(|level| geometry.has_blocks(*level))
    };
    assert_eq!(highest(Granule::Kib4, false, 0b101), Some(1));
    assert_eq!(highest(Granule::Kib4, true, 0b110), Some(0));
    assert_eq!(highest(Granule::Kib16, false, 0b101), Some(2));
    assert_eq!(highest(Granule::Kib16, true, 0b110), Some(1));
    assert_eq!(highest(Granule::Kib64, false, 0b101), Some(2));
    assert_eq!(highest(Granule::Kib64, false, 0b110), Some(1));
}

#[test]
fn addresses_of_52_bits_are_put_together() {
    // FEAT_LPA: bits 51:48 are bits 15:12 of the descriptor.
    let lpa = tcr(Granule::Kib64, 12).with_ips(0b110);
    let geometry = Geometry::of_stage_1(lpa, Half::Lower);
    let mut memory = Memory::default();
    let leaf = 0x0000_7654_3210_0000 | 0xa << 12 | PAGE | AF;
    map(&mut memory, &geometry, 3, 0x000f_1234_5678_9abc, leaf);
    let page = state(lpa).translate(&memory, Gva(0x000f_1234_5678_9abc));
    assert_eq!(page.unwrap().gpa, Gpa(0x000a_7654_3210_9abc));
    // FEAT_LPA2: bits 51:50 are bits 9:8, and 49:48 are in their place.
    for granule in [Granule::Kib4, Granule::Kib16] {
        let lpa2 = tcr(granule, 12).with_ds(true).with_ips(0b110);
        let geometry = Geometry::of_stage_1(lpa2, Half::Lower);
        let mut memory = Memory::default();
        let leaf = 0x0001_7654_3210_0000 | 0b10 << 8 | PAGE | AF;
        map(&mut memory, &geometry, 3, 0x000f_1234_5678_9abc, leaf);
        let page = state(lpa2)
            .translate(&memory, Gva(0x000f_1234_5678_9abc))
            .unwrap();
        let offset = 0x9abc & low_bits(granule.page_bits());
        assert_eq!(page.gpa, Gpa(0x0009_7654_3210_0000 | offset));
    }
}

#[test]
fn tables_can_be_beyond_48_bits() {
    let lpa2 = tcr(Granule::Kib4, 16).with_ds(true).with_ips(0b110);
    let mut memory = Memory::default();
    let root = 0x0006_0000_0001_0000;
    let next = 0x0009_0000_0002_0000_u64;
    let descriptor = |address: u64| address & low_bits(50) | (address >> 50) << 8;
    memory.set(root, descriptor(next) | TABLE);
    memory.set(next, 0x4000_0000 | BLOCK | AF);
    // Bits 51:48 of the base are bits 5:2 of TTBR.
    let state = state(lpa2).with_ttbr0(0x0001_0000 | 0x6 << 2);
    let walk = state.walk(&memory, Gva(0x1234));
    let places: Vec<u64> = walk.steps.iter().map(|step| step.gpa.0).collect();
    assert_eq!(places, [root, next]);
    assert_eq!(walk.result.unwrap().gpa, Gpa(0x4000_1234));
}

#[test]
fn the_halves_have_granules_and_sizes_of_their_own() {
    let both = tcr(Granule::Kib4, 25).with_t1sz(17).with_tg1(0b11);
    let lower = Geometry::of_stage_1(both, Half::Lower);
    let upper = Geometry::of_stage_1(both, Half::Upper);
    assert_eq!(
        (lower.granule, lower.start_level, lower.input_bits),
        (Granule::Kib4, 1, 39)
    );
    assert_eq!(
        (upper.granule, upper.start_level, upper.input_bits),
        (Granule::Kib64, 1, 47)
    );
    let mut memory = Memory::default();
    map(&mut memory, &lower, 3, 0x7f_ffff_f000, 0x7000 | PAGE | AF);
    let mut other = Memory::default();
    let kernel = 0xffff_8000_0001_2345;
    map(&mut other, &upper, 3, kernel, 0x9_0000 | PAGE | AF);
    let state = state(both);
    assert_eq!(
        state.translate(&memory, Gva(0x7f_ffff_f123)).unwrap().gpa,
        Gpa(0x7123)
    );
    assert_eq!(
        state.translate(&other, Gva(kernel)).unwrap().gpa,
        Gpa(0x9_2345)
    );
    assert!(
        state
            .root(Gva(kernel))
            .is_some_and(|(geometry, base)| { geometry == upper && base == ROOT })
    );
}

#[test]
fn addresses_in_the_hole_are_a_fault_at_level_0() {
    let state = state(tcr(Granule::Kib4, 25));
    let memory = Memory::default();
    for address in [1 << 39, 1 << 54, 1 << 55, 0xffff_ff7f_ffff_ffff, 1 << 63] {
        assert_eq!(
            state.translate(&memory, Gva(address)),
            Err(fault(FaultCause::Translation, 0)),
            "{address:#x}"
        );
    }
    assert_eq!(*memory.reads.borrow(), 0);
}

#[test]
fn sizes_that_no_table_has_are_a_fault() {
    for (granule, size) in [
        (Granule::Kib4, 0),
        (Granule::Kib4, 15),
        (Granule::Kib4, 49),
        (Granule::Kib16, 15),
        (Granule::Kib64, 11),
        (Granule::Kib64, 48),
        (Granule::Kib64, 63),
    ] {
        let result = state(tcr(granule, size)).translate(&Memory::default(), Gva(0));
        assert_eq!(result, Err(fault(FaultCause::Translation, 0)));
    }
}

#[test]
fn disabled_walks_are_a_fault_of_that_half_alone() {
    let mut memory = Memory::default();
    let tcr = tcr(Granule::Kib4, 25);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    map(&mut memory, &geometry, 1, 0, 0x4000_0000 | BLOCK | AF);
    let upper = Gva(0xffff_ff80_0000_0000);
    let no_lower = state(tcr.with_epd0(true));
    assert_eq!(
        no_lower.translate(&memory, Gva(0)),
        Err(fault(FaultCause::Translation, 0))
    );
    assert!(no_lower.translate(&memory, upper).is_ok());
    assert_eq!(no_lower.root(Gva(0)), None);
    let no_upper = state(tcr.with_epd1(true));
    assert!(no_upper.translate(&memory, Gva(0)).is_ok());
    assert!(no_upper.translate(&memory, upper).is_err());
}

#[test]
fn invalid_descriptors_fault_at_their_level() {
    let tcr = tcr(Granule::Kib4, 16);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    for level in 0..=3 {
        let mut memory = Memory::default();
        map(&mut memory, &geometry, level, 0x1234_5678, 0xdead_0000);
        let walk = state(tcr).walk(&memory, Gva(0x1234_5678));
        assert_eq!(walk.result, Err(fault(FaultCause::Translation, level)));
        let last = walk.steps.last().unwrap();
        assert_eq!((last.kind, last.output), (DescriptorKind::Invalid, None));
    }
    // A block at the lowest level is reserved.
    let mut memory = Memory::default();
    map(&mut memory, &geometry, 3, 0, 0x7000 | BLOCK | AF);
    let result = state(tcr).translate(&memory, Gva(0));
    assert_eq!(result, Err(fault(FaultCause::Translation, 3)));
}

#[test]
fn addresses_wider_than_physical_ones_are_a_fault() {
    let tcr = tcr(Granule::Kib4, 16).with_ips(0b001);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    let mut memory = Memory::default();
    map(&mut memory, &geometry, 2, 0, 1 << 36 | BLOCK | AF);
    let size = |level| Err(fault(FaultCause::AddressSize, level));
    assert_eq!(state(tcr).translate(&memory, Gva(0)), size(2));
    let wider = state(tcr.with_ips(0b010));
    assert!(wider.translate(&memory, Gva(0)).is_ok());
    assert_eq!(
        wider.with_physical_bits(36).translate(&memory, Gva(0)),
        size(2)
    );
    memory.set(ROOT, 1 << 40 | TABLE);
    assert_eq!(wider.translate(&memory, Gva(0)), size(0));
    assert_eq!(
        wider.with_ttbr0(1 << 40).translate(&memory, Gva(0)),
        size(0)
    );
    // The address space is no part of the base.
    let tagged = wider.with_ttbr0(ROOT | 0xffff << 48 | 1);
    assert_eq!(tagged.walk(&memory, Gva(0)).steps[0].gpa, Gpa(ROOT));
}

#[test]
fn missing_tables_are_said_to_be_missing() {
    let tcr = tcr(Granule::Kib16, 17);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    let mut memory = Memory::default();
    map(&mut memory, &geometry, 1, 0, 0x7fff_0000 | TABLE);
    let result = state(tcr).translate(&memory, Gva(0x4000));
    let missing = TranslateError::TableMissing {
        gpa: Gpa(0x7fff_0000),
        level: 2,
    };
    assert_eq!(result, Err(missing));
    assert_eq!(missing.fault_status(), Some(0b01_0110));
}

#[test]
fn fault_status_codes_are_the_manuals() {
    use FaultCause::{AccessFlag, AddressSize, Permission, Translation};
    for (cause, level, code) in [
        (AddressSize, 0, 0b00_0000),
        (AddressSize, 3, 0b00_0011),
        (AddressSize, -1, 0b10_1001),
        (Translation, 0, 0b00_0100),
        (Translation, 3, 0b00_0111),
        (Translation, -1, 0b10_1011),
        (AccessFlag, 1, 0b00_1001),
        (AccessFlag, 3, 0b00_1011),
        (Permission, 2, 0b00_1110),
        (Permission, 3, 0b00_1111),
    ] {
        assert_eq!(fault(cause, level).fault_status(), Some(code));
    }
    let gpa = Gpa(0);
    let missing = TranslateError::TableMissing { gpa, level: -1 };
    assert_eq!(missing.fault_status(), Some(0b01_0011));
    assert_eq!(TranslateError::WideDescriptors.fault_status(), None);
}

fn flags_of(tcr: Tcr, sctlr: Sctlr, table: u64, leaf: u64) -> PageFlags {
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    let mut memory = Memory::default();
    map_below(
        &mut memory,
        &geometry,
        3,
        0,
        0x7000 | PAGE | leaf,
        TABLE | table,
    );
    let state = PagingState::from_registers(&registers_with(tcr, sctlr));
    state.translate(&memory, Gva(0)).unwrap().flags & !(PageFlags::GLOBAL | PageFlags::ACCESSED)
}

const RW: PageFlags = PageFlags::READ_EL1.union(PageFlags::WRITE_EL1);
const ALL: PageFlags = PageFlags::PERMISSIONS;

#[test]
fn direct_permissions_are_the_manuals() {
    use PageFlags as F;
    let tcr = tcr(Granule::Kib4, 25);
    let flags = |leaf| flags_of(tcr, Sctlr::new(), 0, leaf);
    assert_eq!(flags(0), RW | F::EXECUTE);
    // EL1 does not execute what EL0 can write.
    assert_eq!(flags(EL0), F::READ | F::WRITE | F::EXECUTE_EL0);
    assert_eq!(flags(READ_ONLY), F::READ_EL1 | F::EXECUTE);
    assert_eq!(flags(READ_ONLY | EL0), F::READ | F::EXECUTE);
    assert_eq!(flags(PXN), RW | F::EXECUTE_EL0);
    assert_eq!(flags(UXN), RW | F::EXECUTE_EL1);
    assert_eq!(flags(UXN | PXN | READ_ONLY), F::READ_EL1);
    let wxn = Sctlr::new().with_wxn(true);
    assert_eq!(flags_of(tcr, wxn, 0, EL0), F::READ | F::WRITE);
    assert_eq!(flags_of(tcr, wxn, 0, 0), RW | F::EXECUTE_EL0);
    assert_eq!(flags_of(tcr, wxn, 0, READ_ONLY), F::READ_EL1 | F::EXECUTE);
}

#[test]
fn tables_restrict_what_is_below_them() {
    use PageFlags as F;
    let tcr = tcr(Granule::Kib4, 25);
    let flags = |table, leaf| flags_of(tcr, Sctlr::new(), table, leaf);
    assert_eq!(flags(AP_TABLE_NO_EL0, EL0), RW | F::EXECUTE);
    assert_eq!(flags(AP_TABLE_READ_ONLY, EL0), F::READ | F::EXECUTE);
    assert_eq!(flags(PXN_TABLE, 0), RW | F::EXECUTE_EL0);
    assert_eq!(flags(UXN_TABLE, 0), RW | F::EXECUTE_EL1);
    let all = PXN_TABLE | UXN_TABLE | AP_TABLE_NO_EL0 | AP_TABLE_READ_ONLY;
    assert_eq!(flags(all, EL0), F::READ_EL1);
    let disabled = tcr.with_hpd0(true);
    assert_eq!(
        flags_of(disabled, Sctlr::new(), all, READ_ONLY | EL0),
        F::READ | F::EXECUTE
    );
    let other_half = tcr.with_hpd1(true);
    assert_eq!(flags_of(other_half, Sctlr::new(), all, EL0), F::READ_EL1);
}

#[test]
fn dirty_pages_are_told_from_clean_ones() {
    use PageFlags as F;
    let hd = tcr(Granule::Kib4, 25).with_ha(true).with_hd(true);
    let flags = |tcr, leaf| flags_of(tcr, Sctlr::new(), 0, leaf | UXN | PXN);
    assert_eq!(flags(hd, DBM | READ_ONLY), RW | F::CLEAN);
    assert_eq!(flags(hd, DBM), RW);
    assert_eq!(flags(hd, READ_ONLY), F::READ_EL1);
    assert_eq!(flags(hd.with_hd(false), DBM | READ_ONLY), F::READ_EL1);
    // A table above that is read-only keeps it from being written.
    let below = flags_of(
        hd,
        Sctlr::new(),
        AP_TABLE_READ_ONLY,
        DBM | READ_ONLY | UXN | PXN,
    );
    assert_eq!(below, F::READ_EL1);
}

#[test]
fn indirect_permissions_come_from_the_index() {
    use PageFlags as F;
    let tcr = tcr(Granule::Kib4, 25);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    let flags = |index: u64, pir: u64, pire0: u64, not_dirty: bool, hd: bool| {
        let leaf = (index >> 3 & 1) << 54
            | (index >> 2 & 1) << 53
            | (index >> 1 & 1) << 51
            | (index & 1) << 6
            | u64::from(not_dirty) << 7;
        let mut memory = Memory::default();
        // What tables say counts for nothing.
        map_below(
            &mut memory,
            &geometry,
            3,
            0,
            0x7000 | PAGE | leaf,
            TABLE | PXN_TABLE,
        );
        let tcr = tcr.with_ha(hd).with_hd(hd);
        let mut registers = registers_with(tcr, Sctlr::new().with_wxn(true));
        registers.set_u64(registers::TCR2_EL1, 0b10);
        registers.set_u64(registers::PIR_EL1, pir << (4 * index));
        registers.set_u64(registers::PIRE0_EL1, pire0 << (4 * index));
        let state = PagingState::from_registers(&registers);
        state.translate(&memory, Gva(0)).unwrap().flags & (ALL | F::CLEAN)
    };
    for index in 0..16 {
        assert_eq!(flags(index, 0b1100, 0b1000, false, false), RW | F::READ_EL0);
        assert_eq!(
            flags(index, 0b1010, 0b0010, false, false),
            F::READ_EL1 | F::EXECUTE
        );
        assert_eq!(flags(index, 0b1110, 0, false, false), RW | F::EXECUTE_EL1);
        assert_eq!(
            flags(index, 0, 0b0101, false, false),
            F::READ_EL0 | F::WRITE_EL0
        );
        assert_eq!(flags(index, 0b0100, 0b1111, false, false), F::empty());
        assert_eq!(flags(index, 0b1100, 0b1000, true, false), F::READ);
        assert_eq!(flags(index, 0b1100, 0, true, true), RW | F::CLEAN);
        assert_eq!(flags(index, 0b1000, 0, true, true), F::READ_EL1);
    }
}

#[test]
fn a_translation_says_what_the_entry_says() {
    let tcr = tcr(Granule::Kib4, 25);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    let page = |leaf| {
        let mut memory = Memory::default();
        map(&mut memory, &geometry, 3, 0, 0x7000 | PAGE | leaf);
        state(tcr).translate(&memory, Gva(0)).unwrap()
    };
    assert!(page(0).flags.contains(PageFlags::GLOBAL));
    assert!(!page(NOT_GLOBAL).flags.contains(PageFlags::GLOBAL));
    assert!(!page(0).flags.contains(PageFlags::ACCESSED));
    assert!(page(AF).flags.contains(PageFlags::ACCESSED));
    assert_eq!(page(0b100 << 2).attributes, 0b100);
    assert_eq!(page(0).contiguous_bytes, None);
    assert_eq!(page(CONTIGUOUS).contiguous_bytes, Some(0x1_0000));
}

#[test]
fn contiguous_groups_are_as_large_as_the_manual_says() {
    const MIB: u64 = 1 << 20;
    let group = |granule, level| {
        let geometry = Geometry::of_stage_1(tcr(granule, 16), Half::Lower);
        Some(geometry.contiguous_entries(level)? * geometry.covered_bytes(level))
    };
    assert_eq!(group(Granule::Kib4, 3), Some(64 << 10));
    assert_eq!(group(Granule::Kib4, 2), Some(32 * MIB));
    assert_eq!(group(Granule::Kib4, 1), Some(16 << 30));
    assert_eq!(group(Granule::Kib16, 3), Some(2 * MIB));
    assert_eq!(group(Granule::Kib16, 2), Some(1 << 30));
    assert_eq!(group(Granule::Kib64, 3), Some(2 * MIB));
    assert_eq!(group(Granule::Kib64, 2), Some(16 << 30));
    assert_eq!(group(Granule::Kib4, 0), None);
    assert_eq!(group(Granule::Kib64, 1), None);
}

#[test]
fn the_guests_own_accesses_are_judged_as_at_judges_them() {
    use AccessKind::{Execute, Read, Write};
    use Privilege::{Privileged, Unprivileged};
    let tcr = tcr(Granule::Kib4, 25);
    let geometry = Geometry::of_stage_1(tcr, Half::Lower);
    let check = |tcr, pan: bool, epan: bool, leaf, kind, privilege| {
        let mut memory = Memory::default();
        map(&mut memory, &geometry, 3, 0, 0x7000 | PAGE | leaf);
        let mut registers = registers_with(tcr, Sctlr::new().with_epan(epan));
        Pstate::new().with_pan(pan).write(&mut registers);
        let state = PagingState::from_registers(&registers);
        let page = state.translate(&memory, Gva(0)).unwrap();
        state.permits(Gva(0), &page, kind, privilege)
    };
    let plain = |leaf, kind, privilege| check(tcr, false, false, leaf, kind, privilege);
    let denied = Err(fault(FaultCause::Permission, 3));
    assert_eq!(plain(AF, Write, Privileged), Ok(()));
    assert_eq!(plain(AF, Read, Unprivileged), denied);
    assert_eq!(plain(AF | EL0, Write, Unprivileged), Ok(()));
    assert_eq!(plain(AF | EL0, Execute, Privileged), denied);
    assert_eq!(plain(AF | READ_ONLY, Write, Privileged), denied);
    assert_eq!(plain(AF | UXN, Execute, Unprivileged), denied);
    // The access flag comes before permissions.
    let unaccessed = Err(fault(FaultCause::AccessFlag, 3));
    assert_eq!(plain(READ_ONLY, Write, Privileged), unaccessed);
    let by_hardware = tcr.with_ha(true);
    assert_eq!(
        check(by_hardware, false, false, 0, Read, Privileged),
        Ok(())
    );
    let pan = |leaf, kind, privilege| check(tcr, true, false, leaf, kind, privilege);
    assert_eq!(pan(AF | EL0, Read, Privileged), denied);
    assert_eq!(pan(AF | EL0, Read, Unprivileged), Ok(()));
    assert_eq!(pan(AF, Read, Privileged), Ok(()));
    assert_eq!(check(tcr, true, true, AF, Read, Privileged), denied);
    assert_eq!(check(tcr, true, true, AF | UXN, Read, Privileged), Ok(()));
    let e0pd = tcr.with_e0pd0(true);
    let shut = Err(fault(FaultCause::Translation, 0));
    assert_eq!(
        check(e0pd, false, false, AF | EL0, Read, Unprivileged),
        shut
    );
    assert_eq!(
        check(e0pd, false, false, AF | EL0, Read, Privileged),
        Ok(())
    );
}

#[test]
fn without_translation_addresses_are_physical() {
    let state = PagingState::from_registers(&registers::file());
    assert!(!state.is_on());
    let page = state.translate(&Memory::default(), Gva(0x8_1234)).unwrap();
    assert_eq!(
        (page.gpa, page.rest_of_page_bytes()),
        (Gpa(0x8_1234), 0xdcc)
    );
    assert_eq!(
        state.permits(Gva(0), &page, AccessKind::Write, Privilege::Unprivileged),
        Ok(())
    );
    let high = state.translate(&Memory::default(), Gva(1 << 52));
    assert_eq!(high, Err(fault(FaultCause::AddressSize, 0)));
}

#[test]
fn tagged_and_signed_pointers_translate() {
    let tcr = tcr(Granule::Kib4, 16).with_tbi1(true);
    let geometry = Geometry::of_stage_1(tcr, Half::Upper);
    let mut memory = Memory::default();
    map(
        &mut memory,
        &geometry,
        3,
        0xffff_8000_1234_5000,
        0x7000 | PAGE | AF,
    );
    let registers = registers_with(tcr, Sctlr::new().with_en_ia(true));
    let state = PagingState::from_registers(&registers);
    for pointer in [
        0xffff_8000_1234_5678,
        0x12ff_8000_1234_5678,
        0xabc5_8000_1234_5678,
    ] {
        assert_eq!(
            state.translate(&memory, Gva(pointer)).unwrap().gpa,
            Gpa(0x7678)
        );
    }
    let unsigned = PagingState::from_registers(&registers_with(tcr, Sctlr::new()));
    assert!(
        unsigned
            .translate(&memory, Gva(0xabc5_8000_1234_5678))
            .is_err()
    );
}

#[test]
fn big_endian_tables_are_read() {
    let tcr = tcr(Granule::Kib4, 25);
    let mut memory = Memory::default();
    memory.set(ROOT, (0x4000_0000 | BLOCK | AF).swap_bytes());
    let registers = registers_with(tcr, Sctlr::new().with_ee(true));
    let page = PagingState::from_registers(&registers).translate(&memory, Gva(0x123));
    assert_eq!(page.unwrap().gpa, Gpa(0x4000_0123));
}

#[test]
fn wide_descriptors_are_refused_by_name() {
    let mut registers = registers_with(tcr(Granule::Kib4, 25), Sctlr::new());
    registers.set_u64(registers::TCR2_EL1, 1 << 5);
    let state = PagingState::from_registers(&registers);
    let result = state.translate(&Memory::default(), Gva(0));
    assert_eq!(result, Err(TranslateError::WideDescriptors));
}

#[test]
fn another_base_is_another_address_space() {
    let tcr = tcr(Granule::Kib4, 25);
    let mut memory = Memory::default();
    memory.set(ROOT, 0);
    memory.set(0x5_0000, 0x4000_0000 | BLOCK | AF);
    let state = state(tcr);
    let upper = Gva(0xffff_ff80_0000_0000);
    assert!(state.translate(&memory, Gva(0)).is_err());
    assert!(
        state
            .with_ttbr0(0x5_0000)
            .translate(&memory, Gva(0))
            .is_ok()
    );
    assert!(
        state
            .with_ttbr0(0x5_0000)
            .translate(&memory, upper)
            .is_err()
    );
    assert!(state.with_ttbr1(0x5_0000).translate(&memory, upper).is_ok());
}

/// Stage 2 with a granule, an input size and a start level.
fn vtcr(granule: Granule, input_bits: u8, sl0: u8) -> Vtcr {
    let tg0 = match granule {
        Granule::Kib4 => 0b00,
        Granule::Kib16 => 0b10,
        Granule::Kib64 => 0b01,
    };
    let t0sz = 64 - input_bits;
    Vtcr::new()
        .with_t0sz(t0sz)
        .with_tg0(tg0)
        .with_sl0(sl0)
        .with_ps(0b101)
}

#[test]
fn stage_2_starts_where_it_is_told_to() {
    for (granule, input_bits, sl0, level) in [
        (Granule::Kib4, 48, 0b10, 0),
        (Granule::Kib4, 39, 0b01, 1),
        (Granule::Kib4, 30, 0b00, 2),
        (Granule::Kib4, 21, 0b11, 3),
        (Granule::Kib16, 47, 0b10, 1),
        (Granule::Kib16, 36, 0b01, 2),
        (Granule::Kib16, 25, 0b00, 3),
        (Granule::Kib64, 42, 0b01, 2),
        (Granule::Kib64, 48, 0b10, 1),
        (Granule::Kib64, 29, 0b00, 3),
        // Concatenated tables: up to 16 of them, instead of a level more.
        (Granule::Kib4, 40, 0b01, 1),
        (Granule::Kib4, 43, 0b01, 1),
        (Granule::Kib4, 34, 0b00, 2),
        (Granule::Kib16, 48, 0b10, 1),
        (Granule::Kib16, 40, 0b01, 2),
        (Granule::Kib64, 46, 0b01, 2),
    ] {
        let vtcr = vtcr(granule, input_bits, sl0);
        let geometry = Geometry::of_stage_2(vtcr);
        assert_eq!(geometry.start_level, level);
        let state = PagingState::stage_2(vtcr, ROOT);
        let address = (1 << input_bits) - 1;
        let mut memory = Memory::default();
        map(
            &mut memory,
            &geometry,
            3,
            address,
            0x7_0000 | PAGE | AF | 0b11 << 6,
        );
        let walk = state.walk(&memory, Gva(address));
        assert_eq!(walk.steps[0].level, level);
        let offset = address & low_bits(granule.page_bits());
        assert_eq!(walk.result.unwrap().gpa, Gpa(0x7_0000 | offset));
        let beyond = state.translate(&memory, Gva(1 << input_bits));
        assert_eq!(beyond, Err(fault(FaultCause::Translation, 0)));
    }
}

#[test]
fn stage_2_of_52_bits_starts_at_level_minus_1() {
    let vtcr = vtcr(Granule::Kib4, 52, 0b00)
        .with_ds(true)
        .with_sl2(true)
        .with_ps(0b110);
    let geometry = Geometry::of_stage_2(vtcr);
    assert_eq!(
        (geometry.start_level, geometry.validity),
        (-1, Validity::Valid)
    );
    let mut memory = Memory::default();
    let address = 0x000f_1234_5678_9abc;
    map(&mut memory, &geometry, 0, address, 0b01 << 8 | BLOCK | AF);
    let page = PagingState::stage_2(vtcr, ROOT)
        .translate(&memory, Gva(address))
        .unwrap();
    assert_eq!(page.page_size_bytes, 512 << 30);
    assert_eq!(page.gpa.0, 1 << 50 | address & low_bits(39));
}

#[test]
fn a_start_level_that_does_not_fit_the_size_is_a_fault() {
    for (granule, input_bits, sl0) in [
        (Granule::Kib4, 44, 0b01),
        (Granule::Kib4, 30, 0b01),
        (Granule::Kib4, 35, 0b00),
        (Granule::Kib16, 41, 0b01),
        (Granule::Kib64, 47, 0b01),
    ] {
        let geometry = Geometry::of_stage_2(vtcr(granule, input_bits, sl0));
        assert_eq!(
            geometry.validity,
            Validity::Invalid,
            "{granule} {input_bits}"
        );
    }
}

#[test]
fn stage_2_permissions_are_the_manuals() {
    use PageFlags as F;
    let vtcr = vtcr(Granule::Kib4, 39, 0b01);
    let geometry = Geometry::of_stage_2(vtcr);
    let flags = |vtcr, leaf| {
        let mut memory = Memory::default();
        map_below(
            &mut memory,
            &geometry,
            3,
            0,
            0x7000 | PAGE | AF | leaf,
            TABLE | PXN_TABLE,
        );
        let state = PagingState::stage_2(vtcr, ROOT);
        state.translate(&memory, Gva(0)).unwrap().flags & (ALL | F::CLEAN | F::GLOBAL)
    };
    let (read, write) = (0b01 << 6, 0b10 << 6);
    assert_eq!(flags(vtcr, 0), F::EXECUTE);
    assert_eq!(flags(vtcr, read), F::READ | F::EXECUTE);
    assert_eq!(flags(vtcr, read | write), F::READ | F::WRITE | F::EXECUTE);
    assert_eq!(flags(vtcr, read | UXN), F::READ);
    assert_eq!(flags(vtcr, read | PXN), F::READ | F::EXECUTE_EL0);
    assert_eq!(flags(vtcr, read | UXN | PXN), F::READ | F::EXECUTE_EL1);
    let hd = vtcr.with_ha(true).with_hd(true);
    assert_eq!(flags(hd, read | DBM | UXN), F::READ | F::WRITE | F::CLEAN);
    assert_eq!(flags(vtcr, read | DBM | UXN), F::READ);
}

#[test]
fn stage_2_removes_no_tags() {
    let state = PagingState::stage_2(vtcr(Granule::Kib4, 39, 0b01), ROOT);
    let address = Gva(0xff00_0000_0000_0000);
    assert_eq!(state.untag(address), address);
    assert!(state.translate(&Memory::default(), address).is_err());
}

#[test]
fn kinds_of_descriptors_depend_on_the_level() {
    let geometry = Geometry::of_stage_1(tcr(Granule::Kib4, 16), Half::Lower);
    let kind = |bits, level| Descriptor::from_bits(bits).kind(&geometry, level);
    assert_eq!(kind(0b10, 2), DescriptorKind::Invalid);
    assert_eq!(kind(VALID, 0), DescriptorKind::Invalid);
    assert_eq!(kind(VALID, 1), DescriptorKind::Block);
    assert_eq!(kind(VALID, 3), DescriptorKind::Invalid);
    assert_eq!(kind(0b11, 2), DescriptorKind::Table);
    assert_eq!(kind(0b11, 3), DescriptorKind::Page);
}

/// Memory whose every word follows from its address and a seed.
pub(super) struct Noise(pub(super) u64);

impl PhysicalMemory for Noise {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        for (index, byte) in buffer.iter_mut().enumerate() {
            let at = address.0.wrapping_add(index as u64);
            let word = mix(self.0 ^ mix(at / 8));
            // Low addresses, mostly valid: walks that get somewhere.
            let entry = word & 0xfff0_0000_0fff_fffe | u64::from(word >> 60 != 0);
            *byte = entry.to_le_bytes()[(at % 8) as usize];
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
fn noise_for_tables_and_registers_ends_every_walk() {
    let mut mapped = 0;
    for seed in 0..20_000 {
        let mut registers = registers::file();
        for (id, salt) in [
            (registers::TCR_EL1, 1),
            (registers::TTBR0_EL1, 2),
            (registers::TTBR1_EL1, 3),
            (registers::SCTLR_EL1, 4),
        ] {
            registers.set_u64(id, mix(seed * 8 + salt));
        }
        if seed % 2 == 0 {
            let size = (12 + mix(seed) % 37) as u8;
            let tcr = Tcr::read(&registers).with_t0sz(size).with_t1sz(size);
            tcr.with_epd0(false)
                .with_epd1(false)
                .with_ips(0b110)
                .write(&mut registers);
            Sctlr::new().with_m(true).write(&mut registers);
        }
        let address = Gva(mix(seed + 5).unbounded_shr(mix(seed + 6) as u32 % 64));
        let vtcr = Vtcr::from_bits(mix(seed + 7));
        for state in [
            PagingState::from_registers(&registers),
            PagingState::stage_2(vtcr, mix(seed + 8)),
        ] {
            let walk = state.walk(&Noise(seed), address);
            assert!(walk.steps.len() <= 5);
            if let Ok(page) = walk.result {
                mapped += 1;
                assert!(page.rest_of_page_bytes() >= 1);
                let offset = state.untag(address).offset_in(page.page_size_bytes);
                assert_eq!(page.gpa.offset_in(page.page_size_bytes), offset);
            }
        }
    }
    assert!(mapped > 1000, "{mapped}");
}
