//! [`DarwinGuest`] over made-up memory.

use super::{DarwinGuest, PLACES_OF_A_CALL};
use crate::testing::{Header, Memory, NoMemory, UUID};
use trapline_arch::Gva;
use trapline_engine::{FindProgress, GuestOs};

const TEXT: u64 = 0xffff_fff0_0700_4000;
const MIB: u64 = 1 << 20;

/// A kernel of some mebibytes with its header at the beginning.
fn memory(len_bytes: u64) -> Memory {
    let mut memory = Memory::default();
    memory.map(TEXT, usize::try_from(len_bytes).unwrap());
    memory.overwrite(TEXT, &Header::kernel(TEXT).bytes());
    memory
}

/// Asks what there is, as a client does. Returns in how many calls.
fn find(guest: &mut DarwinGuest, memory: &Memory) -> u32 {
    for calls in 1..1000 {
        if guest.find_image(memory) == FindProgress::Done {
            return calls;
        }
    }
    panic!("a search without an end");
}

#[test]
fn a_kernel_is_found_from_its_vectors_and_from_the_program_counter() {
    let mut memory = memory(8 * MIB);
    for code in [
        [TEXT + 6 * MIB + 0x800, 0x1000],
        [0, TEXT + 7 * MIB + 4],
        [TEXT, TEXT],
    ] {
        memory.code = code.map(Gva).to_vec();
        let mut guest = DarwinGuest::new();
        assert_eq!(guest.image(), None);
        assert!(find(&mut guest, &memory) <= 3);
        let image = guest.image().unwrap();
        assert_eq!(image.address, Gva(TEXT));
        assert_eq!(image.uuid, UUID);
        assert_eq!(image.triple, "arm64-apple-ios");
        assert_eq!(guest.description().as_deref(), Some("Darwin"));
        assert!(guest.refresh(&NoMemory, &memory));
    }
}

#[test]
fn a_search_is_made_in_calls_of_bounded_work_and_ends() {
    // Nothing but zeroes from here to far below.
    let mut memory = Memory::default();
    memory.map(TEXT - 256 * MIB, 300 << 20);
    memory.code = [TEXT + MIB, TEXT].map(Gva).to_vec();
    let mut guest = DarwinGuest::new();
    let calls = find(&mut guest, &memory);
    assert!(guest.image().is_none());
    let places = 2 * (128 * MIB / (16 << 10) + 1);
    assert_eq!(u64::from(memory.reads.get()), places);
    assert!(memory.reads.get() <= calls * PLACES_OF_A_CALL);
}

#[test]
fn a_hole_ends_the_search_below_it() {
    let mut memory = memory(MIB);
    memory.map(TEXT + 64 * MIB, 1 << 20);
    memory.code = [Gva(TEXT + 64 * MIB)].to_vec();
    let mut guest = DarwinGuest::new();
    find(&mut guest, &memory);
    assert!(guest.image().is_none());
    assert!(memory.reads.get() < 100, "{}", memory.reads.get());
}

#[test]
fn the_lowest_addresses_are_looked_at_and_no_lower_ones() {
    let mut memory = Memory::default();
    memory.put(0, &Header::kernel(0).bytes());
    memory.code = [Gva(0x9000)].to_vec();
    let mut guest = DarwinGuest::new();
    find(&mut guest, &memory);
    assert_eq!(guest.image().unwrap().address, Gva(0));
    memory.code = [Gva(0x9000)].to_vec();
    memory.put(0, &[0; 4]);
    let mut guest = DarwinGuest::new();
    assert_eq!(find(&mut guest, &memory), 1);
}

#[test]
fn a_kernel_that_is_gone_is_forgotten_and_one_that_is_not_mapped_is_not() {
    let mut memory = memory(MIB);
    memory.code = [Gva(TEXT + 0x100)].to_vec();
    let mut guest = DarwinGuest::new();
    find(&mut guest, &memory);
    assert!(guest.refresh(&NoMemory, &Memory::default()));
    assert!(guest.image().is_some());
    memory.overwrite(TEXT, &[0; 64]);
    assert!(!guest.refresh(&NoMemory, &memory));
    assert!(guest.image().is_none());
    assert!(guest.facts().is_empty());
}

#[test]
fn a_reset_forgets_the_kernel() {
    let mut memory = memory(MIB);
    memory.code = [Gva(TEXT)].to_vec();
    let mut guest = DarwinGuest::new();
    find(&mut guest, &memory);
    assert!(guest.image().is_some());
    guest.forget();
    assert!(guest.image().is_none());
}
