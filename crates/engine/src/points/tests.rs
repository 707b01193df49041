#![expect(clippy::cast_possible_truncation, reason = "all numbers are small")]

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use trapline_arch::{Architecture, Gpa, Gva, PhysicalMemory};

use super::patch::{mask_patches, write_under_patches};
use super::{InsertError, Patch, PointKey, PointKind, PointTable};
use crate::contract::{Capabilities, GuestMemory, MemoryRegion, StopReason, WatchKind};
use crate::session::SessionId;

const ARCHITECTURE: Architecture = Architecture::X86_64;
const BRK: &[u8] = &[0x11, 0x22, 0x33, 0x44];
const FOUR: Capabilities = Capabilities {
    software_breakpoints: true,
    hardware_breakpoints: 4,
    watchpoints: 4,
    ..Capabilities::NONE
};

/// 64 bytes at 0, each the number of its address.
struct Memory([AtomicU8; 64]);

impl Memory {
    fn new() -> Self {
        let number = |index| AtomicU8::new(index as u8);
        Self(core::array::from_fn(number))
    }

    fn bytes(&self, start: usize, len: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; len];
        assert_eq!(self.read_physical(Gpa(start as u64), &mut bytes), len);
        bytes
    }
}

impl PhysicalMemory for Memory {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let from = self.0.get(address.0 as usize..).unwrap_or_default();
        for (to, from) in buffer.iter_mut().zip(from) {
            *to = from.load(Ordering::Relaxed);
        }
        buffer.len().min(from.len())
    }
}

impl GuestMemory for Memory {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let to = self.0.get(address.0 as usize..).unwrap_or_default();
        for (to, from) in to.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        to.len().min(bytes.len())
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        Vec::new()
    }
}

fn key(kind: PointKind, address: u64, len: u64) -> PointKey {
    PointKey {
        kind,
        address: Gva(address),
        len,
    }
}

#[test]
fn a_patch_shows_in_no_read_that_touches_it() {
    let memory = Memory::new();
    let patches: [Arc<Patch>; 1] = [Patch::plant(&memory, Gpa(16), BRK).unwrap()];
    assert_eq!(memory.bytes(16, 4), BRK);
    for start in 10..22 {
        for len in 0..12 {
            let mut read = memory.bytes(start, len);
            mask_patches(&patches, Gpa(start as u64), &mut read);
            let expected: Vec<u8> = (start..start + len).map(|at| at as u8).collect();
            assert_eq!(read, expected, "{len} from {start}");
        }
    }
}

#[test]
fn a_write_goes_under_every_patch_that_it_touches() {
    for start in 10..30 {
        for len in 0..12 {
            let memory = Memory::new();
            let plant = |at| Patch::plant(&memory, Gpa(at), BRK).unwrap();
            let patches = [plant(16), plant(24)];
            let bytes: Vec<u8> = (0..len).map(|index| 0x80 + index).collect();
            let written = write_under_patches(&patches, &memory, Gpa(start), &bytes);
            assert_eq!(written, bytes.len());
            assert_eq!(memory.bytes(16, 4), BRK);
            assert_eq!(memory.bytes(24, 4), BRK);
            patches.iter().for_each(|patch| patch.lift(&memory));
            let mut expected: Vec<u8> = (0..64).collect();
            expected[start as usize..][..bytes.len()].copy_from_slice(&bytes);
            assert_eq!(memory.bytes(0, 64), expected, "{len} at {start}");
        }
    }
}

#[test]
fn a_write_past_the_end_of_memory_stops_there() {
    let memory = Memory::new();
    let patches = [Patch::plant(&memory, Gpa(58), BRK).unwrap()];
    assert_eq!(write_under_patches(&patches, &memory, Gpa(56), &[1; 20]), 8);
    assert!(Patch::plant(&memory, Gpa(62), BRK).is_none());
}

#[test]
fn what_the_guest_writes_over_a_patch_is_not_undone() {
    let memory = Memory::new();
    let patch = Patch::plant(&memory, Gpa(16), BRK).unwrap();
    memory.write_physical(Gpa(16), &[1, 2, 3, 4]);
    patch.lift(&memory);
    assert_eq!(memory.bytes(16, 4), [1, 2, 3, 4]);
    patch.lower(&memory);
    memory.write_physical(Gpa(16), &[5, 6, 7, 8]);
    // A write of the debugger's then goes to memory itself.
    let patches = [patch];
    write_under_patches(&patches, &memory, Gpa(17), &[9]);
    patches[0].refresh(&memory);
    assert_eq!(memory.bytes(16, 4), BRK);
    patches[0].lift(&memory);
    assert_eq!(memory.bytes(16, 4), [5, 9, 7, 8]);
}

#[test]
fn a_watched_range_takes_a_slot_for_each_aligned_part() {
    let mut table = PointTable::new(ARCHITECTURE, FOUR);
    let write = PointKind::Watchpoint(WatchKind::Write);
    // 1 + 2 + 4 bytes.
    let owner = SessionId(1);
    assert_eq!(
        table.insert(owner, key(write, 1, 7), Vec::new(), None),
        Ok(())
    );
    assert_eq!(table.slot_usage(), (3, 4));
    let refused = table.insert(owner, key(write, 17, 2), Vec::new(), None);
    assert_eq!(refused, Err(InsertError::NoFreeSlot(4)));
    assert_eq!(table.slot_usage(), (3, 4));
    assert!(table.remove(owner, key(write, 1, 7)));
    assert!(!table.remove(owner, key(write, 1, 7)));
    assert_eq!(table.slot_usage(), (0, 4));
    assert_eq!(
        table.insert(owner, key(write, 0, 32), Vec::new(), None),
        Ok(())
    );
    assert_eq!(table.slot_usage(), (4, 4));
}

#[test]
fn a_point_stands_while_anybody_wants_it() {
    let memory = Memory::new();
    let mut table = PointTable::new(ARCHITECTURE, FOUR);
    let point = key(PointKind::SoftwareBreakpoint, 16, 1);
    let hit = StopReason::SoftwareBreakpoint {
        address: Gva(16),
        gpa: Some(Gpa(16)),
    };
    for owner in [1, 2] {
        let at = Some(Gpa(16));
        table
            .insert(SessionId(owner), point, Vec::new(), at)
            .unwrap();
    }
    table.publish(&memory);
    table.release(SessionId(1));
    table.publish(&memory);
    assert_eq!(memory.bytes(16, 4), [0xcc, 17, 18, 19]);
    let owners: Vec<_> = table.claims_of(hit).map(|(owner, _)| owner).collect();
    assert_eq!(owners, [SessionId(2).into()]);
    table.release(SessionId(2));
    assert_eq!(table.claims_of(hit).count(), 0);
    table.publish_changes(&memory);
    assert_eq!(memory.bytes(16, 4), [16, 17, 18, 19]);
}

#[test]
fn a_hit_belongs_to_the_point_at_its_own_byte() {
    let mut table = PointTable::new(ARCHITECTURE, FOUR);
    let point = key(PointKind::SoftwareBreakpoint, 16, 1);
    let at = Some(Gpa(32));
    table.insert(SessionId(1), point, Vec::new(), at).unwrap();
    let hit = |gpa| StopReason::SoftwareBreakpoint {
        address: Gva(16),
        gpa,
    };
    assert_eq!(table.claims_of(hit(Some(Gpa(32)))).count(), 1);
    assert_eq!(table.claims_of(hit(Some(Gpa(16)))).count(), 0);
    assert_eq!(table.claims_of(hit(None)).count(), 0);
    assert_eq!(table.claims_of(StopReason::Step).count(), 0);
}

#[test]
fn arm_watches_adjacent_bytes_and_long_ranges_with_a_slot_each() {
    let capabilities = Capabilities {
        slots_are_shared: false,
        ..FOUR
    };
    let mut table = PointTable::new(Architecture::Aarch64, capabilities);
    let mut insert =
        |kind, address, len| table.insert(SessionId(1), key(kind, address, len), Vec::new(), None);
    let write = PointKind::Watchpoint(WatchKind::Write);
    let read = PointKind::Watchpoint(WatchKind::Read);
    assert_eq!(insert(write, 1, 7), Ok(()));
    assert_eq!(insert(read, 0x8000_0000, 0x8000_0000), Ok(()));
    // The slots for execution are others.
    for address in [0, 4, 8, 12] {
        assert_eq!(insert(PointKind::HardwareBreakpoint, address, 4), Ok(()));
    }
    let misaligned = insert(PointKind::HardwareBreakpoint, 18, 4);
    assert_eq!(misaligned, Err(InsertError::Misaligned(Gva(18), 4)));
    let full = insert(PointKind::HardwareBreakpoint, 16, 4);
    assert_eq!(full, Err(InsertError::NoFreeSlot(4)));
    assert_eq!(insert(write, 12, 8), Ok(()), "in two doublewords");
    assert_eq!(insert(write, 32, 1), Err(InsertError::NoFreeSlot(4)));
}
