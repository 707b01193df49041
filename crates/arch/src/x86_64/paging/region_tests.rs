use alloc::{vec, vec::Vec};

use super::{tests::*, *};

const ALL: Gva = Gva(u64::MAX);
const R: PageFlags = PageFlags::USER;

fn four_level() -> PagingState {
    state(PagingMode::FourLevel, 0x1000)
}

/// The mapped regions as (first, last, permissions).
fn mapped(state: PagingState, memory: &Memory) -> Vec<(u64, u64, PageFlags)> {
    let regions = state.regions(memory, Gva(0), ALL, 100_000);
    regions
        .filter_map(|region| Some((region.start.0, region.last.0, region.permissions?)))
        .collect()
}

#[test]
fn regions_cover_the_address_space_without_gaps() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, 0xffff_9abc_def1_2000, 0x7000 | TABLE);
    map(&mut memory, 4, 2, 0x4000_0000, 0x20_0000 | PS | P | NX);
    for mode in [
        PagingMode::None,
        PagingMode::Bits32 {
            large_pages: LargePages::On,
        },
        PagingMode::Pae,
        PagingMode::FourLevel,
        PagingMode::FiveLevel,
    ] {
        let mut regions = state(mode, 0x1000).regions(&memory, Gva(0), ALL, 100_000);
        let mut next = Some(Gva(0));
        let mut previous = None;
        for region in &mut regions {
            assert_eq!(Some(region.start), next, "{mode:?}");
            assert!(region.last >= region.start);
            assert_ne!(previous, Some(region.permissions));
            previous = Some(region.permissions);
            next = region.last.checked_add(1);
        }
        assert_eq!(next, None, "{mode:?}");
        assert_eq!(regions.resume(), None);
    }
}

#[test]
fn adjacent_pages_of_equal_permissions_are_one_region() {
    let mut memory = Memory::default();
    for page in 0..4 {
        // Neither the frames nor the accessed and dirty bits matter.
        let leaf = (0x9000 - page * 0x1000) | P | US | page << 5;
        map(&mut memory, 4, 1, 0x10_0000 + page * 0x1000, leaf);
    }
    map(&mut memory, 4, 1, 0x10_4000, 0x9000 | P | RW);
    map(&mut memory, 4, 1, 0x10_6000, 0x9000 | P | RW | NX);
    assert_eq!(
        mapped(four_level(), &memory),
        vec![
            (0x10_0000, 0x10_3fff, R | PageFlags::EXECUTABLE),
            (
                0x10_4000,
                0x10_4fff,
                PageFlags::WRITABLE | PageFlags::EXECUTABLE
            ),
            (0x10_6000, 0x10_6fff, PageFlags::WRITABLE),
        ]
    );
}

#[test]
fn pages_of_different_sizes_join() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 2, 0x4020_0000, 0x20_0000 | PS | P);
    map(&mut memory, 4, 1, 0x4040_0000, 0x7000 | P);
    // The table of the small page hangs below the same directory as the large one.
    memory.set(0x3000 + 8 * 2, 0x4000 | TABLE);
    assert_eq!(
        mapped(four_level(), &memory),
        vec![(0x4020_0000, 0x4040_0fff, PageFlags::EXECUTABLE)]
    );
}

#[test]
fn the_last_page_of_the_address_space_is_listed() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, 0xffff_ffff_ffff_f000, 0x7000 | P);
    assert_eq!(
        mapped(four_level(), &memory),
        vec![(0xffff_ffff_ffff_f000, u64::MAX, PageFlags::EXECUTABLE)]
    );
}

#[test]
fn the_first_region_is_the_one_around_the_address() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 1, 0x10_0000, 0x7000 | P);
    let first = |address| {
        four_level()
            .regions(&memory, Gva(address), ALL, 10_000)
            .next()
            .unwrap()
    };
    let inside = first(0x10_0123);
    assert_eq!(
        (inside.start, inside.last),
        (Gva(0x10_0123), Gva(0x10_0fff))
    );
    assert!(inside.permissions.is_some());
    let hole = first(0x10_1000);
    assert_eq!(hole.permissions, None);
    // Nothing else is mapped, in either half.
    assert_eq!(hole.last, ALL);
    let between = first(0x0000_8000_0000_0000);
    assert_eq!((between.permissions, between.last), (None, ALL));
}

#[test]
fn a_missing_table_is_one_hole() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 2, 0, 0xdead_0000_0000 | TABLE);
    let mut regions = four_level().regions(&memory, Gva(0), Gva(0x1f_ffff), 1);
    let hole = regions.next().unwrap();
    assert_eq!(
        (hole.start, hole.last, hole.permissions),
        (Gva(0), Gva(0x1f_ffff), None)
    );
    assert_eq!(regions.resume(), None);
    let none = Memory::default();
    let mut regions = four_level().regions(&none, Gva(0), ALL, 8);
    assert_eq!(regions.next().unwrap().last, ALL);
}

#[test]
fn a_spent_budget_can_be_resumed() {
    let mut memory = Memory::default();
    for page in 0..64 {
        map(&mut memory, 4, 1, page * 0x1000, 0x7000 | P | page & US);
    }
    let whole = mapped(four_level(), &memory);
    let (mut parts, mut next) = (Vec::new(), Some(Gva(0)));
    let mut rounds = 0;
    while let Some(start) = next {
        let mut regions = four_level().regions(&memory, start, ALL, 7);
        parts.extend(&mut regions);
        next = regions.resume();
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(rounds > 64 / 7);
    let mut joined: Vec<Region> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(last) if last.permissions == part.permissions => last.last = part.last,
            _ => joined.push(part),
        }
    }
    let joined: Vec<_> = joined
        .into_iter()
        .filter_map(|region| Some((region.start.0, region.last.0, region.permissions?)))
        .collect();
    assert_eq!(joined, whole);
}

#[test]
fn a_range_is_not_exceeded() {
    let mut memory = Memory::default();
    map(&mut memory, 4, 2, 0, PS | P);
    let regions: Vec<_> = four_level()
        .regions(&memory, Gva(0x1800), Gva(0x27ff), 100)
        .collect();
    assert_eq!(
        regions,
        vec![Region {
            start: Gva(0x1800),
            last: Gva(0x27ff),
            permissions: Some(PageFlags::EXECUTABLE)
        }]
    );
    assert_eq!(
        four_level().regions(&memory, Gva(2), Gva(1), 100).next(),
        None
    );
}

#[test]
fn neighbouring_entries_cost_one_read_of_their_table() {
    let mut memory = Memory::default();
    for page in 0..512 {
        map(
            &mut memory,
            4,
            1,
            page * 0x1000,
            0x7000 | P | ((page % 2) * RW),
        );
    }
    *memory.reads.borrow_mut() = 0;
    let regions = four_level()
        .regions(&memory, Gva(0), Gva(0x1f_ffff), 10_000)
        .count();
    assert_eq!(regions, 512);
    assert_eq!(*memory.reads.borrow(), 4);
}

#[test]
fn noise_for_tables_is_listed_within_the_budget() {
    for seed in 0..300 {
        for mode in [
            PagingMode::Bits32 {
                large_pages: LargePages::On,
            },
            PagingMode::Pae,
            PagingMode::FourLevel,
            PagingMode::FiveLevel,
        ] {
            let noise = Noise(seed);
            let start = Gva(mix(seed));
            let regions = state(mode, mix(seed + 1)).regions(&noise, start, ALL, 200);
            let mut next = Some(start);
            for region in regions {
                assert_eq!(Some(region.start), next);
                next = region.last.checked_add(1);
            }
            assert_ne!(next, Some(start));
        }
    }
}
