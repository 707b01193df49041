use alloc::{vec, vec::Vec};

use super::{tests::*, *};

const LAST: Gva = Gva(u64::MAX);
const RX: PageFlags = PageFlags::READ_EL1.union(PageFlags::EXECUTE);
const RWX: PageFlags = RX.union(PageFlags::WRITE_EL1);

/// The mapped regions as (first, last, permissions).
fn mapped(state: PagingState, memory: &Memory) -> Vec<(u64, u64, PageFlags)> {
    let regions = state.regions(memory, Gva(0), LAST, 100_000);
    regions
        .filter_map(|region| Some((region.start.0, region.last.0, region.permissions?)))
        .collect()
}

fn lower(tcr: Tcr) -> Geometry {
    Geometry::of_stage_1(tcr, Half::Lower)
}

#[test]
fn regions_cover_the_address_space_without_gaps() {
    let memory = &mut Memory::default();
    let with = |granule, size| tcr(granule, size);
    map(
        memory,
        &lower(with(Granule::Kib4, 25)),
        3,
        0x12_3456_7000,
        0x7000 | PAGE | AF,
    );
    let wide = with(Granule::Kib4, 12).with_ds(true).with_ips(0b110);
    let vtcr = Vtcr::new().with_t0sz(25).with_sl0(0b01).with_ps(0b101);
    let mut states = vec![
        PagingState::from_registers(&registers::file()),
        PagingState::stage_2(vtcr, ROOT),
        state(wide),
        state(Tcr::new()),
        state(with(Granule::Kib4, 25).with_epd0(true)),
        state(with(Granule::Kib4, 25)).with_ttbr1(0x7777_0000),
    ];
    for granule in [Granule::Kib4, Granule::Kib16, Granule::Kib64] {
        states.extend([16, 25, 36].map(|size| state(with(granule, size))));
    }
    for state in states {
        let mut regions = state.regions(memory, Gva(0), LAST, 100_000);
        let mut next = Some(Gva(0));
        let mut previous = None;
        for region in &mut regions {
            assert_eq!(Some(region.start), next, "{state:?}");
            assert!(region.last >= region.start);
            assert_ne!(previous, Some(region.permissions));
            previous = Some(region.permissions);
            next = region.last.checked_add(1);
        }
        assert_eq!(next, None, "{state:?}");
        assert_eq!(regions.resume(), None);
    }
}

#[test]
fn adjacent_pages_of_equal_permissions_are_one_region() {
    let tcr = tcr(Granule::Kib16, 28);
    let geometry = lower(tcr);
    let mut memory = Memory::default();
    for page in 0..4 {
        // Neither the frames nor the access flag matter.
        let leaf = (0x10_0000 - page * 0x4000) | PAGE | (page & 1) << 10;
        map(&mut memory, &geometry, 3, 0x20_0000 + page * 0x4000, leaf);
    }
    map(
        &mut memory,
        &geometry,
        3,
        0x21_0000,
        0x8000 | PAGE | READ_ONLY,
    );
    map(
        &mut memory,
        &geometry,
        3,
        0x21_8000,
        0x8000 | PAGE | PXN | UXN,
    );
    let data = PageFlags::READ_EL1 | PageFlags::WRITE_EL1;
    let state = state(tcr.with_epd1(true));
    assert_eq!(
        mapped(state, &memory),
        vec![
            (0x20_0000, 0x20_ffff, RWX),
            (0x21_0000, 0x21_3fff, RX),
            (0x21_8000, 0x21_bfff, data),
        ]
    );
}

#[test]
fn both_halves_are_listed() {
    let tcr = tcr(Granule::Kib64, 22);
    let mut memory = Memory::default();
    map(&mut memory, &lower(tcr), 2, 0, BLOCK);
    let block = 512 << 20;
    let upper = 0xffff_fc00_0000_0000;
    assert_eq!(
        mapped(state(tcr), &memory),
        vec![(0, block - 1, RWX), (upper, upper + block - 1, RWX)]
    );
}

#[test]
fn without_translation_everything_is_one_region() {
    let state = PagingState::from_registers(&registers::file()).with_physical_bits(48);
    let all = vec![(0, (1 << 48) - 1, PageFlags::PERMISSIONS)];
    assert_eq!(mapped(state, &Memory::default()), all);
}

#[test]
fn a_large_hole_costs_one_entry() {
    let tcr = tcr(Granule::Kib4, 16);
    let mut memory = Memory::default();
    map(&mut memory, &lower(tcr), 0, 0, 0);
    let state = state(tcr).with_ttbr1(ROOT);
    let start = Gva(0x1234_5000);
    let mut regions = state.regions(&memory, start, Gva(0x7f_ffff_ffff), 1);
    let hole = regions.next().unwrap();
    assert_eq!((hole.last, hole.permissions), (Gva(0x7f_ffff_ffff), None));
    assert_eq!(regions.next(), None);
}

#[test]
fn a_missing_table_is_a_hole_of_what_it_would_map() {
    let tcr = tcr(Granule::Kib4, 25).with_epd1(true);
    let mut memory = Memory::default();
    memory.set(ROOT, 0x7777_0000 | TABLE);
    memory.set(ROOT + 8, BLOCK);
    let gib = 1 << 30;
    assert_eq!(mapped(state(tcr), &memory), vec![(gib, 2 * gib - 1, RWX)]);
}

#[test]
fn a_spent_budget_says_where_to_go_on() {
    let tcr = tcr(Granule::Kib4, 25).with_epd1(true);
    let mut memory = Memory::default();
    for page in 0..8 {
        let leaf = 0x7000 | PAGE | if page % 2 == 0 { 0 } else { READ_ONLY };
        map(&mut memory, &lower(tcr), 3, page * 0x1000, leaf);
    }
    let state = state(tcr);
    let mut regions = state.regions(&memory, Gva(0), LAST, 4);
    assert_eq!(regions.by_ref().count(), 4);
    assert_eq!(regions.resume(), Some(Gva(0x4000)));
    let rest = state.regions(&memory, Gva(0x4000), Gva(0x4fff), 4);
    assert_eq!(rest.count(), 1);
    assert_eq!(state.regions(&memory, Gva(1), Gva(0), 4).count(), 0);
}

#[test]
fn neighbouring_entries_are_read_at_once() {
    let tcr = tcr(Granule::Kib64, 22).with_epd1(true);
    let mut memory = Memory::default();
    for page in 0..256 {
        map(
            &mut memory,
            &lower(tcr),
            3,
            page * 0x1_0000,
            0x7_0000 | PAGE,
        );
    }
    memory.reads.replace(0);
    let list = state(tcr).regions(&memory, Gva(0), Gva(0xff_ffff), 1000);
    assert_eq!(list.count(), 1);
    assert!(*memory.reads.borrow() < 8, "{}", memory.reads.borrow());
}

#[test]
fn noise_for_tables_ends_every_list() {
    for seed in 0..300 {
        let granules = [Granule::Kib4, Granule::Kib16, Granule::Kib64];
        let tcr = tcr(granules[(seed % 3) as usize], (16 + mix(seed) % 30) as u8);
        let noise = Noise(seed);
        let mut regions = state(tcr).regions(&noise, Gva(mix(seed + 1)), LAST, 200);
        let mut previous: Option<Gva> = None;
        for region in &mut regions {
            assert!(region.start <= region.last);
            assert!(previous.is_none_or(|previous| previous.0 + 1 == region.start.0));
            previous = Some(region.last);
        }
        assert!(regions.resume().is_none() || previous.is_some());
    }
}
