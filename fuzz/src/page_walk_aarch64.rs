use trapline_arch::{
    Gpa, Gva, PhysicalMemory,
    aarch64::{
        control::Vtcr,
        paging::{AccessKind, PagingState, Privilege},
        registers,
    },
};

use crate::page_walk::Memory;

/// How many entries a list of regions may look at.
const BUDGET: usize = 64;

/// The registers that the words at the start of the input are for.
const HEADER: [trapline_arch::RegisterId; 8] = [
    registers::SCTLR_EL1,
    registers::TCR_EL1,
    registers::TTBR0_EL1,
    registers::TTBR1_EL1,
    registers::TCR2_EL1,
    registers::PIR_EL1,
    registers::PIRE0_EL1,
    registers::CPSR,
];

/// The first words of the input are registers of stage 1, a virtual address, a size of physical memory,
/// VTCR and VTTBR; the rest is the contents of memory, over and over.
pub fn page_walk_aarch64(data: &[u8]) {
    let Some((header, contents)) = data.split_at_checked((HEADER.len() + 4) * 8) else {
        return;
    };
    let word = |index: usize| u64::from_le_bytes(header[index * 8..][..8].try_into().unwrap());
    let mut file = registers::file();
    for (index, register) in HEADER.into_iter().enumerate() {
        file.set_u64(register, word(index));
    }
    let [address, len_bytes, vtcr, vttbr] = [8, 9, 10, 11].map(word);
    let address = Gva(address);
    let memory = Memory {
        contents,
        len_bytes,
    };
    let stage_1 = PagingState::from_registers(&file);
    let stage_2 = PagingState::stage_2(Vtcr::from_bits(vtcr), vttbr);
    for state in [
        stage_1,
        stage_1.with_physical_bits(len_bytes as u32 % 64),
        stage_1.with_ttbr0(vttbr).with_ttbr1(vttbr),
        stage_2,
    ] {
        walk(&state, &memory, address);
        list(&state, &memory, address);
    }
}

fn walk(state: &PagingState, memory: &Memory<'_>, address: Gva) {
    let walk = state.walk(memory, address);
    assert!(walk.steps.len() <= 5);
    assert_eq!(walk.result, state.translate(memory, address));
    let untagged = state.untag(address);
    assert_eq!(state.untag(untagged), untagged);
    let Ok(page) = walk.result else { return };
    let size = page.page_size_bytes;
    assert!(size.is_power_of_two());
    assert_eq!(page.gpa.offset_in(size), untagged.offset_in(size));
    assert!((1..=size).contains(&page.rest_of_page_bytes()));
    assert!((-1..=3).contains(&page.level));
    if state.is_on() {
        let Gpa(gpa) = page.gpa;
        assert!(gpa < 1 << PagingState::MAX_PHYSICAL_BITS);
    }
    for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
        for privilege in [Privilege::Unprivileged, Privilege::Privileged] {
            let _ = state.permits(untagged, &page, kind, privilege);
        }
    }
}

/// Regions follow one another without gaps, differ from their neighbours, agree with single
/// translations, and end where the list says it can be resumed.
fn list(state: &PagingState, memory: &dyn PhysicalMemory, start: Gva) {
    let last = Gva(u64::MAX);
    let mut regions = state.regions(memory, start, last, BUDGET);
    let mut next = Some(start);
    let mut previous = None;
    for region in &mut regions {
        assert_eq!(next, Some(region.start));
        assert!(region.start <= region.last);
        assert_ne!(previous, Some(region.permissions));
        if state.untag(region.start) == region.start {
            let page = state.translate(memory, region.start);
            assert_eq!(page.is_ok(), region.permissions.is_some(), "{page:?}");
        }
        previous = Some(region.permissions);
        next = region.last.checked_add(1);
    }
    assert_eq!(regions.resume(), next);
}
