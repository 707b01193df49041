//! [`LinuxGuest`] over made-up memory.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use trapline_arch::{Architecture, Gpa, Gva, PhysicalMemory};
use trapline_engine::{FindProgress, GuestMemory, GuestOs, MemoryKind, MemoryRegion, VirtualView};

use super::{LinuxGuest, SLICE_BYTES};
use crate::call_frames::ARM_SLOT_BYTES;
use crate::kallsyms::AddressTable;
use crate::testing::{Encoded, Format, Plain, TEXT, encode, large_kernel};

/// Where the image's text is in physical memory.
const TEXT_GPA: u64 = 0x10_0000;
/// Where the tables are behind the text.
const TABLES: u64 = 0x4_0000;
const NOTE_GPA: u64 = 0x8_0000;
const RAM_BYTES: usize = 0x40_0000;
const RELEASE: &str = "6.1.0-test";

/// RAM from address 0 on.
struct Ram(Vec<u8>);

impl PhysicalMemory for Ram {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        count
    }
}

impl GuestMemory for Ram {
    fn write_physical(&self, _: Gpa, _: &[u8]) -> usize {
        0
    }
    fn regions(&self) -> Vec<MemoryRegion> {
        vec![MemoryRegion {
            start: Gpa(0),
            len_bytes: self.0.len() as u64,
            kind: MemoryKind::Ram,
        }]
    }
}

impl Ram {
    fn put(&mut self, address: u64, bytes: &[u8]) {
        let start = usize::try_from(address).unwrap();
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

/// The image as a vCPU has it mapped, or nothing.
struct Mapped<'a>(Option<&'a Ram>);

impl VirtualView for Mapped<'_> {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        let place = address.0.checked_sub(TEXT).map(|offset| TEXT_GPA + offset);
        match (self.0, place) {
            (Some(ram), Some(place)) => ram.read_physical(Gpa(place), buffer),
            _ => 0,
        }
    }
}

/// Asks what there is, as a client does. Returns whether a kernel is known then.
fn find(guest: &mut LinuxGuest, memory: &dyn GuestMemory, view: &dyn VirtualView) -> bool {
    guest.ask();
    while guest.find(memory, view) == FindProgress::More {}
    guest.kernel.is_some()
}

const UNMAPPED: Mapped<'static> = Mapped(None);

/// What VMCOREINFO has to say.
#[derive(Clone, Copy, PartialEq)]
enum Note {
    /// All.
    Full,
    /// No tables: before Linux 6.0.
    WithoutTables,
    /// Not filled in.
    Template,
    None,
}

/// A kernel with enough symbols for its tables to be told from other data.
fn kernel() -> Vec<Plain> {
    large_kernel(600)
}

/// Memory with a kernel and its note.
fn guest(note: Note) -> Ram {
    let mut ram = Ram(vec![0; RAM_BYTES]);
    put_kernel(&mut ram, &kernel(), note);
    ram
}

fn put_kernel(ram: &mut Ram, symbols: &[Plain], note: Note) {
    let encoded = encode(symbols, Format::LINUX_6_1, TEXT + TABLES);
    ram.put(TEXT_GPA + TABLES, &encoded.memory.bytes);
    let banner = format!("Linux version {RELEASE} (gcc) #1\n\0");
    ram.put(TEXT_GPA + 0x3000, banner.as_bytes());
    ram.put(TEXT_GPA + 0x4000 + 130, RELEASE.as_bytes());
    ram.put(NOTE_GPA, &[0; 0x1000]);
    let text = match note {
        Note::Full => described(&encoded),
        Note::WithoutTables => described(&encoded)
            .lines()
            .filter(|line| !line.contains("kallsyms"))
            .map(|line| format!("{line}\n"))
            .collect(),
        Note::Template => "OSRELEASE=%s\nBUILD-ID=%20phN\n".into(),
        Note::None => String::new(),
    };
    ram.put(NOTE_GPA, text.as_bytes());
}

fn described(encoded: &Encoded) -> String {
    let AddressTable::Relative {
        offsets,
        relative_base,
    } = encoded.tables.addresses
    else {
        panic!("the format has relative addresses");
    };
    let tables = &encoded.tables;
    let phys_base = TEXT_GPA.wrapping_sub(TEXT - 0xffff_ffff_8000_0000);
    format!(
        "OSRELEASE={RELEASE}\nBUILD-ID=0123456789abcdef\nPAGESIZE=4096\n\
         SYMBOL(init_uts_ns)={:x}\nOFFSET(uts_namespace.name)=0\nSYMBOL(_stext)={TEXT:x}\n\
         KERNELOFFSET=11400000\nNUMBER(phys_base)={}\nNUMBER(KERNEL_IMAGE_SIZE)=1073741824\n\
         SYMBOL(kallsyms_names)={:x}\nSYMBOL(kallsyms_num_syms)={:x}\n\
         SYMBOL(kallsyms_token_table)={:x}\nSYMBOL(kallsyms_token_index)={:x}\n\
         SYMBOL(kallsyms_offsets)={:x}\nSYMBOL(kallsyms_relative_base)={:x}\n",
        TEXT + 0x4000,
        phys_base.cast_signed(),
        tables.names,
        tables.num_syms,
        tables.token_table,
        tables.token_index,
        offsets,
        relative_base,
    )
}

fn linux() -> LinuxGuest {
    LinuxGuest::new(Architecture::X86_64)
}

fn fact(guest: &LinuxGuest, name: &str) -> Option<String> {
    let mut facts = guest.facts().into_iter();
    facts.find(|(fact, _)| *fact == name).map(|(_, text)| text)
}

#[test]
fn a_kernel_is_found_and_described() {
    let ram = guest(Note::Full);
    let mut guest = linux();
    assert_eq!(guest.description(), None);
    assert!(find(&mut guest, &ram, &UNMAPPED));
    assert_eq!(guest.description().as_deref(), Some("Linux 6.1.0-test"));
    assert_eq!(guest.text_placement(), Some((Gva(TEXT), 0x1140_0000)));
    assert_eq!(
        fact(&guest, "build ID").as_deref(),
        Some("0123456789abcdef")
    );
    assert_eq!(
        fact(&guest, "banner").as_deref(),
        Some("Linux version 6.1.0-test (gcc) #1")
    );
    assert!(fact(&guest, "symbols").unwrap().starts_with("621, in "));
}

#[test]
fn symbols_are_found_by_name_and_by_address() {
    let ram = guest(Note::Full);
    let mut guest = linux();
    find(&mut guest, &ram, &UNMAPPED);
    assert_eq!(guest.address_of("vfs_read"), Some(Gva(TEXT + 0x100)));
    assert_eq!(guest.address_of("vfs_reaD"), None);
    let found = guest.symbol_at(Gva(TEXT + 0x110)).unwrap();
    assert_eq!(
        (found.name.as_str(), found.offset_bytes),
        ("vfs_read", 0x10)
    );
    assert_eq!(guest.symbol_at(Gva(0x1000)), None);
    assert_eq!(guest.complete("vfs_", 10), ["vfs_read", "vfs_write"]);
    assert_eq!(guest.complete("vfs_", 1), ["vfs_read"]);
}

#[test]
fn the_symbol_file_is_served() {
    let ram = guest(Note::Full);
    let mut guest = linux();
    assert_eq!(guest.symbol_file_len(), None);
    assert_eq!(guest.read_symbol_file(&ram, &UNMAPPED, 0, &mut [0; 4]), 0);
    find(&mut guest, &ram, &UNMAPPED);
    let len = guest.symbol_file_len().unwrap();
    let mut head = [0; 20];
    assert_eq!(guest.read_symbol_file(&ram, &UNMAPPED, 0, &mut head), 20);
    assert_eq!(&head[..4], b"\x7fELF");
    assert_eq!(head[18], 62, "x86-64");
    assert_eq!(
        guest.read_symbol_file(&ram, &UNMAPPED, len - 4, &mut head),
        4
    );
}

#[test]
fn stops_search_a_little_each_and_rest_between() {
    let ram = Ram(vec![0; RAM_BYTES]);
    let mut guest = linux();
    let mut stops = 0;
    while fact(&guest, "kernel").unwrap().starts_with("not found yet") || !guest.search.is_resting()
    {
        assert!(!guest.refresh(&ram, &UNMAPPED));
        stops += 1;
        assert!(stops < 1000);
    }
    // 4 MiB of memory are gone through twice, by 256 KiB.
    assert!((32..40).contains(&stops), "{stops}");
    assert!(fact(&guest, "kernel").unwrap().contains("it is no Linux"));
    let with_kernel = super::tests::guest(Note::Full);
    for _ in 0..15 {
        assert!(!guest.refresh(&with_kernel, &UNMAPPED), "it rests");
    }
    assert!((0..40).any(|_| guest.refresh(&with_kernel, &UNMAPPED)));
}

#[test]
fn a_question_searches_all_memory_once_until_the_guest_has_run() {
    let empty = Ram(vec![0; RAM_BYTES]);
    let ram = guest(Note::Full);
    let mut guest = linux();
    assert!(!find(&mut guest, &empty, &UNMAPPED));
    assert!(guest.search.is_resting());
    // Nothing can have changed without a stop, so there is nothing to be found.
    assert!(!find(&mut guest, &ram, &UNMAPPED));
    assert!(!guest.refresh(&ram, &UNMAPPED));
    assert!(find(&mut guest, &ram, &UNMAPPED));
}

#[test]
fn an_older_kernels_tables_are_searched_for_in_its_image() {
    let ram = guest(Note::WithoutTables);
    let mut guest = linux();
    assert!(find(&mut guest, &ram, &UNMAPPED));
    assert_eq!(guest.address_of("vfs_read"), Some(Gva(TEXT + 0x100)));
    assert_eq!(guest.text_placement(), Some((Gva(TEXT), 0x1140_0000)));
}

#[test]
fn a_kernel_without_tables_is_known_all_the_same() {
    let mut ram = guest(Note::WithoutTables);
    ram.put(TEXT_GPA + TABLES, &vec![0; 0x2_0000]);
    let mut guest = linux();
    assert!(find(&mut guest, &ram, &UNMAPPED));
    assert_eq!(guest.description().as_deref(), Some("Linux 6.1.0-test"));
    assert_eq!(guest.text_placement(), Some((Gva(TEXT), 0x1140_0000)));
    assert_eq!(guest.symbol_file_len(), None);
    let symbols = fact(&guest, "symbols").unwrap();
    assert!(
        symbols.starts_with("none: the kernel does not tell"),
        "{symbols}"
    );
}

#[test]
fn damaged_tables_are_said() {
    let mut ram = guest(Note::Full);
    let encoded = encode(&kernel(), Format::LINUX_6_1, TEXT + TABLES);
    let count = encoded.tables.num_syms.0 - TEXT + TEXT_GPA;
    ram.put(count, &u32::MAX.to_le_bytes());
    let mut guest = linux();
    assert!(find(&mut guest, &ram, &UNMAPPED));
    assert_eq!(
        fact(&guest, "symbols").as_deref(),
        Some("none: 4294967295 symbols are none or too many")
    );
}

#[test]
fn a_starting_kernel_has_symbols_once_it_is_mapped() {
    for note in [Note::Template, Note::None] {
        let ram = guest(note);
        let mut guest = linux();
        assert!(
            !find(&mut guest, &ram, &UNMAPPED),
            "another kernel's leavings"
        );
        guest.refresh(&ram, &UNMAPPED);
        assert!(find(&mut guest, &ram, &Mapped(Some(&ram))));
        assert_eq!(guest.description().as_deref(), Some("Linux 6.1.0-test"));
        assert_eq!(guest.address_of("vfs_read"), Some(Gva(TEXT + 0x100)));
        assert_eq!(guest.text_placement(), None);
        assert!(fact(&guest, "moved by").unwrap().starts_with("not known"));
    }
}

#[test]
fn a_started_kernel_is_asked_again() {
    let starting = guest(Note::Template);
    let started = guest(Note::Full);
    let mut guest = linux();
    assert!(find(&mut guest, &starting, &Mapped(Some(&starting))));
    let file_len = guest.symbol_file_len();
    let view = Mapped(Some(&started));
    let learned = (0..100).any(|_| {
        guest.refresh(&started, &view);
        guest.text_placement().is_some()
    });
    assert!(learned);
    assert_eq!(
        fact(&guest, "build ID").as_deref(),
        Some("0123456789abcdef")
    );
    assert_eq!(guest.symbol_file_len(), file_len, "it may be in use");
}

#[test]
fn a_kernel_that_is_gone_is_forgotten_and_another_found() {
    let mut ram = guest(Note::Full);
    let mut guest = linux();
    assert!(find(&mut guest, &ram, &UNMAPPED));
    assert!(guest.refresh(&ram, &UNMAPPED));
    // Another kernel is loaded over it.
    let mut symbols = kernel();
    symbols.retain(|symbol| symbol.name != "vfs_read");
    ram.put(TEXT_GPA, &vec![0; 0x10_0000]);
    assert!(!guest.refresh(&ram, &UNMAPPED), "it is gone");
    assert_eq!(guest.description(), None);
    put_kernel(&mut ram, &symbols, Note::Full);
    assert!(find(&mut guest, &ram, &UNMAPPED));
    assert_eq!(guest.address_of("vfs_read"), None);
    assert_eq!(guest.address_of("vfs_write"), Some(Gva(TEXT + 0x1c0)));
}

#[test]
fn a_kernel_that_is_mapped_elsewhere_is_forgotten() {
    let ram = guest(Note::Full);
    let other = Ram(vec![0x55; RAM_BYTES]);
    let mut guest = linux();
    assert!(find(&mut guest, &ram, &UNMAPPED));
    // What is not mapped says nothing; other contents do.
    assert!(guest.refresh(&ram, &UNMAPPED));
    assert!(guest.refresh(&ram, &Mapped(Some(&ram))));
    assert!(!guest.refresh(&ram, &Mapped(Some(&other))));
}

/// Memory that counts how much is read of it.
struct Counting(Ram, AtomicU64);

impl Counting {
    fn new(ram: Ram) -> Self {
        Self(ram, AtomicU64::new(0))
    }

    /// Returns how many bytes were read since it was asked last.
    fn take(&self) -> u64 {
        self.1.swap(0, Ordering::Relaxed)
    }
}

impl PhysicalMemory for Counting {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.0.read_physical(address, buffer)
    }
}

impl GuestMemory for Counting {
    fn write_physical(&self, _: Gpa, _: &[u8]) -> usize {
        0
    }
    fn regions(&self) -> Vec<MemoryRegion> {
        self.0.regions()
    }
}

/// Returns the code length that the call frames of an Arm kernel's function tell, and its program.
fn arm_slot(guest: &LinuxGuest, ram: &Ram, view: &dyn VirtualView, function: u64) -> Vec<u8> {
    let mut file = vec![0; usize::try_from(guest.symbol_file_len().unwrap()).unwrap()];
    let count = guest.read_symbol_file(ram, view, 0, &mut file);
    assert_eq!(count, file.len());
    let start = function.to_le_bytes();
    let mut slots = file.rchunks_exact(ARM_SLOT_BYTES);
    let slot = slots.find(|slot| slot[8..16] == start);
    slot.unwrap()[25..].to_vec()
}

#[test]
fn call_frames_of_arm_are_made_from_the_code_that_is_mapped() {
    let mut ram = guest(Note::None);
    let code: [u32; 3] = [0xa9bd_7bfd, 0x9100_03fd, 0x9400_0000];
    let bytes = code.map(u32::to_le_bytes);
    ram.put(TEXT_GPA + 0x100, bytes.as_flattened());
    let mut guest = LinuxGuest::new(Architecture::Aarch64);
    assert!(find(&mut guest, &ram, &Mapped(Some(&ram))));
    let slot = arm_slot(&guest, &ram, &Mapped(Some(&ram)), TEXT + 0x100);
    assert_eq!(slot[..8], [0x41, 0x0e, 48, 0x41, 0x0d, 29, 0x9d, 6]);
    // Not mapped, and nothing tells where the image is.
    let slot = arm_slot(&guest, &ram, &UNMAPPED, TEXT + 0x100);
    assert_eq!(slot[..5], [0x0c, 29, 16, 0x9d, 2]);
}

#[test]
fn a_known_kernel_costs_two_small_reads_a_stop() {
    let ram = Counting::new(guest(Note::Full));
    let mut guest = linux();
    assert!(find(&mut guest, &ram, &UNMAPPED));
    ram.take();
    assert!(guest.refresh(&ram, &UNMAPPED));
    assert_eq!(ram.take(), 64);
}

#[test]
fn a_question_is_answered_in_slices_of_bounded_work() {
    for note in [Note::Full, Note::WithoutTables] {
        let mut ram = Ram(vec![0; RAM_BYTES]);
        put_kernel(&mut ram, &large_kernel(40_000), note);
        let ram = Counting::new(ram);
        let mut guest = linux();
        guest.ask();
        let mut slices = 0;
        while guest.find(&ram, &UNMAPPED) == FindProgress::More {
            slices += 1;
            let read = ram.take();
            assert!(read <= 3 * SLICE_BYTES, "{read} bytes in slice {slices}");
        }
        assert_eq!(guest.address_of("vfs_read"), Some(Gva(TEXT + 0x100)));
        assert!((6..100).contains(&slices), "{slices}");
    }
}

#[test]
fn a_kernel_that_changes_while_it_is_read_does_no_harm() {
    let whole = guest(Note::Full);
    let empty = Ram(vec![0; RAM_BYTES]);
    for gone_after in 0..40 {
        let mut guest = linux();
        guest.ask();
        let mut calls = 0;
        let mut is_more = true;
        while is_more {
            let ram = if calls < gone_after { &whole } else { &empty };
            is_more = guest.find(ram, &UNMAPPED) == FindProgress::More;
            calls += 1;
            assert!(calls < 1000);
        }
        guest.refresh(&empty, &UNMAPPED);
        assert!(guest.symbol_at(Gva(TEXT)).is_none(), "{gone_after}");
        assert!(find(&mut guest, &whole, &UNMAPPED), "{gone_after}");
    }
}

#[test]
fn a_reset_forgets_all() {
    let ram = guest(Note::Full);
    let mut guest = linux();
    find(&mut guest, &ram, &UNMAPPED);
    guest.forget();
    assert_eq!(guest.description(), None);
    assert_eq!(guest.symbol_at(Gva(TEXT)), None);
    assert!(find(&mut guest, &ram, &UNMAPPED));
}
