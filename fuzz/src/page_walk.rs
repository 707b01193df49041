use trapline_arch::{
    Gpa, Gva, PhysicalMemory,
    x86_64::{
        CpuMode, PagingState,
        control::{Cr0, Cr3, Cr4, Efer, Rflags},
        mode::linear_pc,
        paging::{AccessKind, Privilege},
        registers,
    },
};

/// How many entries a list of regions may look at.
const BUDGET: usize = 64;

/// The first seven words of the input are CR0, CR3, CR4, EFER, RFLAGS, a linear address and a size
/// of physical memory; the rest is the contents of memory, over and over.
pub fn page_walk(data: &[u8]) {
    let Some((header, contents)) = data.split_at_checked(7 * 8) else {
        return;
    };
    let word = |index: usize| u64::from_le_bytes(header[index * 8..][..8].try_into().unwrap());
    let mut file = registers::file();
    Cr0::from_bits(word(0)).write(&mut file);
    Cr3::from_bits(word(1)).write(&mut file);
    Cr4::from_bits(word(2)).write(&mut file);
    Efer::from_bits(word(3)).write(&mut file);
    Rflags::from_bits(word(4)).write(&mut file);
    let _ = (CpuMode::of(&file), linear_pc(&file));
    let address = Gva(word(5));
    let memory = Memory {
        contents,
        len_bytes: word(6),
    };
    let state = PagingState::from_registers(&file).with_physical_bits(word(6) as u32 % 64);
    walk(&state, &memory, address);
    walk(&state.with_root(word(4)), &memory, address);
    list(&state, &memory, address);
}

fn walk(state: &PagingState, memory: &Memory<'_>, address: Gva) {
    let walk = state.walk(memory, address);
    assert!(walk.steps.len() <= 5);
    assert_eq!(walk.result, state.translate(memory, address));
    let untagged = state.untag(address);
    assert_eq!(state.untag(untagged), untagged);
    let Ok(page) = walk.result else { return };
    assert!(state.mode().is_canonical(untagged));
    let size = page.page_size_bytes;
    assert_eq!(page.gpa.offset_in(size), untagged.offset_in(size));
    assert!((1..=size).contains(&page.rest_of_page_bytes()));
    for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Execute] {
        for privilege in [Privilege::User, Privilege::Supervisor, Privilege::Implicit] {
            let _ = state.permits(&page, kind, privilege);
        }
    }
}

/// Regions follow one another without gaps, differ from their neighbours, agree with single
/// translations, and end where the list says it can be resumed.
fn list(state: &PagingState, memory: &Memory<'_>, start: Gva) {
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
            assert_eq!(page.is_ok(), region.permissions.is_some());
        }
        previous = Some(region.permissions);
        next = region.last.checked_add(1);
    }
    assert_eq!(regions.resume(), next);
}

pub(crate) struct Memory<'a> {
    pub(crate) contents: &'a [u8],
    pub(crate) len_bytes: u64,
}

impl PhysicalMemory for Memory<'_> {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        if self.contents.is_empty() {
            return 0;
        }
        let rest = self.len_bytes.saturating_sub(address.0);
        let count = buffer.len().min(usize::try_from(rest).unwrap());
        let start = usize::try_from(address.0 % self.contents.len() as u64).unwrap();
        let repeated = self.contents.iter().cycle().skip(start);
        buffer[..count]
            .iter_mut()
            .zip(repeated)
            .for_each(|(to, from)| *to = *from);
        count
    }
}
