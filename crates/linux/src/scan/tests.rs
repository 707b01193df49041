use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use trapline_arch::Gpa;

use super::{Progress, Scanner, find_vmcoreinfo};
use crate::testing::{DEBIAN, FakeMemory};

const BASE: u64 = 0x10_0000;
const PAGES: u64 = 256;

/// A text whose kernel has its release at 0x180 of the memory.
fn text() -> String {
    DEBIAN
        .replace("ffffffff861f9b60", "ffffffff80000100")
        .replace("(phys_base)=130023424", &format!("(phys_base)={BASE}"))
}

fn memory() -> FakeMemory {
    let mut memory = FakeMemory::new(BASE, vec![0; (PAGES * 4096) as usize]);
    memory.put(BASE + 0x100 + 130, b"6.1.0-56-cloud-amd64\0");
    memory
}

fn scanner() -> Scanner {
    Scanner::new([Gpa(BASE)..Gpa(BASE + PAGES * 4096)])
}

fn finish(scanner: &mut Scanner, memory: &FakeMemory, max_bytes: u64) -> Progress {
    for _ in 0..100_000 {
        let progress = scanner.step(memory, max_bytes);
        if progress != Progress::More {
            return progress;
        }
    }
    panic!("the search does not end");
}

fn is_found(progress: &Progress) -> bool {
    matches!(progress, Progress::Found(info) if info.text() == text())
}

#[test]
fn a_text_at_a_page_start_is_found_by_reading_page_starts() {
    let mut memory = memory();
    memory.put(BASE + 200 * 4096, text().as_bytes());
    assert!(is_found(&scanner().step(&memory, u64::MAX)));
    assert!(
        memory.bytes_read.get() < 16 << 10,
        "{}",
        memory.bytes_read.get()
    );
}

#[test]
fn the_note_is_found_too() {
    let mut memory = memory();
    let mut note: Vec<u8> = vec![11, 0, 0, 0, 0xbe, 0x0c, 0, 0, 0, 0, 0, 0];
    note.extend_from_slice(b"VMCOREINFO\0\0");
    note.extend_from_slice(text().as_bytes());
    memory.put(BASE + 100 * 4096, &note);
    assert!(is_found(&scanner().step(&memory, u64::MAX)));
    assert!(memory.bytes_read.get() < 16 << 10);
}

#[test]
fn a_text_anywhere_is_found_by_reading_all() {
    // Once inside a chunk, once across the end of one.
    for offset in [
        0x2_3456,
        0x1_0000 - 5,
        PAGES * 4096 - text().len() as u64 - 1,
    ] {
        let mut memory = memory();
        memory.put(BASE + offset, text().as_bytes());
        assert!(is_found(&finish(&mut scanner(), &memory, 1)), "{offset:#x}");
    }
}

#[test]
fn a_step_reads_no_more_than_it_may() {
    let memory = memory();
    let mut scanner = scanner();
    for max_bytes in [1, 100, 0x1000, 0x2_0000] {
        let before = memory.bytes_read.get();
        assert_eq!(scanner.step(&memory, max_bytes), Progress::More);
        assert!(memory.bytes_read.get() - before <= max_bytes + (64 << 10));
    }
}

#[test]
fn nothing_is_not_found_and_stays_so() {
    let memory = memory();
    let mut scanner = scanner();
    assert_eq!(finish(&mut scanner, &memory, 0x1_0000), Progress::NotFound);
    assert_eq!(scanner.step(&memory, 0x1_0000), Progress::NotFound);
    assert_eq!(Scanner::new([]).step(&memory, 1), Progress::NotFound);
}

#[test]
fn a_kernel_that_has_not_filled_the_text_in_is_not_yet_ready() {
    let mut memory = memory();
    memory.put(BASE + 0x1_2345, b"OSRELEASE=%s\n\0BUILD-ID=%*phN\n\0");
    assert_eq!(finish(&mut scanner(), &memory, 0x1_0000), Progress::NotYet);
}

#[test]
fn a_text_that_another_kernel_left_is_passed_over() {
    let mut memory = memory();
    memory.put(
        BASE + 10 * 4096,
        text().replace("80000100", "80000300").as_bytes(),
    );
    assert_eq!(
        finish(&mut scanner(), &memory, 0x10_0000),
        Progress::NotFound
    );
    memory.put(BASE + 20 * 4096, text().as_bytes());
    assert!(is_found(&finish(&mut scanner(), &memory, 0x10_0000)));
}

#[test]
fn holes_and_odd_regions_are_passed_over() {
    let mut memory = memory();
    memory.put(BASE + 20 * 4096, text().as_bytes());
    let regions = [
        Gpa(0)..Gpa(0x3_0000),
        Gpa(BASE + 100)..Gpa(BASE + 100),
        Gpa(BASE + 0x2000)..Gpa(BASE + 0x1000),
        Gpa(BASE + 100)..Gpa(BASE + PAGES * 4096),
        Gpa(u64::MAX - 5000)..Gpa(u64::MAX),
    ];
    assert!(find_vmcoreinfo(&memory, &regions, u64::MAX).is_some());
    assert!(find_vmcoreinfo(&memory, &regions, 64).is_none());
    memory.put(BASE + 20 * 4096, b"X");
    assert!(find_vmcoreinfo(&memory, &regions, u64::MAX).is_none());
}

#[test]
fn a_guest_that_sprinkles_the_first_key_ends_the_search_soon() {
    let mut memory = memory();
    memory.bytes = b"OSRELEASE=x\nPAGESIZE=4096\n".repeat(64 << 10);
    let _ = finish(&mut scanner(), &memory, 1 << 20);
    assert!(
        memory.bytes_read.get() < 64 << 20,
        "{}",
        memory.bytes_read.get()
    );
}
