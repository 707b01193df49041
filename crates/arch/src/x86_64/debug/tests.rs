use std::vec;

use super::*;

/// A field's accessor and its lowest bit.
type Field<R, T> = (fn(R) -> T, u32);

#[test]
fn dr7_fields_are_where_the_manual_has_them() {
    let dr7 = Dr7::from_bits;
    let enables: [Field<Dr7, bool>; 13] = [
        (|dr7| dr7.l0(), 0),
        (|dr7| dr7.g0(), 1),
        (|dr7| dr7.l1(), 2),
        (|dr7| dr7.g1(), 3),
        (|dr7| dr7.l2(), 4),
        (|dr7| dr7.g2(), 5),
        (|dr7| dr7.l3(), 6),
        (|dr7| dr7.g3(), 7),
        (|dr7| dr7.le(), 8),
        (|dr7| dr7.ge(), 9),
        (|dr7| dr7.reserved_10(), 10),
        (|dr7| dr7.rtm(), 11),
        (|dr7| dr7.gd(), 13),
    ];
    for (field, bit) in enables {
        assert!(field(dr7(1 << bit)));
        assert!(!field(dr7(!(1 << bit))));
    }
    let kinds: [Field<Dr7, SlotKind>; 4] = [
        (|d| d.rw0(), 16),
        (|d| d.rw1(), 20),
        (|d| d.rw2(), 24),
        (|d| d.rw3(), 28),
    ];
    let lengths: [Field<Dr7, SlotLength>; 4] = [
        (|d| d.len0(), 18),
        (|d| d.len1(), 22),
        (|d| d.len2(), 26),
        (|d| d.len3(), 30),
    ];
    for code in 0..4_u64 {
        for (field, bit) in kinds {
            assert_eq!(field(dr7(code << bit)) as u64, code);
            assert_eq!(field(dr7(!(0b11 << bit) | code << bit)) as u64, code);
        }
        for (field, bit) in lengths {
            assert_eq!(field(dr7(code << bit)) as u64, code);
            assert_eq!(field(dr7(!(0b11 << bit) | code << bit)) as u64, code);
        }
    }
}

#[test]
fn dr6_fields_are_where_the_manual_has_them() {
    assert_eq!(Dr6::from_bits(0b1010).b(), 0b1010);
    let fields: [Field<Dr6, bool>; 5] = [
        (|dr6| dr6.bld(), 11),
        (|dr6| dr6.bd(), 13),
        (|dr6| dr6.bs(), 14),
        (|dr6| dr6.bt(), 15),
        (|dr6| dr6.rtm(), 16),
    ];
    for (field, bit) in fields {
        assert!(field(Dr6::from_bits(1 << bit)));
        assert!(!field(Dr6::from_bits(!(1 << bit))));
    }
}

#[test]
fn reset_values_are_the_manuals() {
    assert_eq!(Dr6::new().into_bits(), 0xffff_0ff0);
    assert_eq!(Dr7::new().into_bits(), 0x400);
}

#[test]
fn reserved_bits_survive() {
    for bits in [0, u64::MAX, 0x5555_5555_5555_5555] {
        let dr7 = Dr7::from_bits(bits).with_slot(2, None).with_gd(false);
        let changed = 0xf00_0030 | 1 << 13;
        assert_eq!(dr7.into_bits() & !changed, bits & !changed);
        let dr6 = Dr6::from_bits(bits).with_b(0);
        assert_eq!(dr6.into_bits() & !0xf, bits & !0xf);
    }
}

#[test]
fn slots_are_encoded_as_the_manual_says() {
    let watch = HardwareSlot {
        address: Gva(0x1008),
        kind: SlotKind::Write,
        length: SlotLength::Eight,
    };
    let debug = DebugRegisters::from_slots([
        Some(HardwareSlot::execute(Gva(0xffff_ffff_8100_0000))),
        None,
        Some(watch),
        None,
    ]);
    assert_eq!(
        debug.addresses,
        [Gva(0xffff_ffff_8100_0000), Gva(0), Gva(0x1008), Gva(0)]
    );
    // G0; G2, write, 8 bytes; the bit that reads 1.
    assert_eq!(
        debug.dr7.into_bits(),
        0b10 | 0b10_0000 | 0b1001 << 24 | 0x400
    );
}

#[test]
fn slots_decode_to_what_was_encoded() {
    let kinds = [
        SlotKind::Execute,
        SlotKind::Write,
        SlotKind::Io,
        SlotKind::ReadWrite,
    ];
    let lengths = [
        SlotLength::One,
        SlotLength::Two,
        SlotLength::Four,
        SlotLength::Eight,
    ];
    for index in 0..SLOT_COUNT {
        for (kind, length) in kinds
            .into_iter()
            .flat_map(|kind| lengths.map(|length| (kind, length)))
        {
            let mut slots = [None; SLOT_COUNT];
            slots[index] = Some(HardwareSlot {
                address: Gva(0x4000),
                kind,
                length,
            });
            let debug = DebugRegisters::from_slots(slots);
            assert_eq!(debug.slots(), slots);
            let mut registers = registers::file();
            debug.write(&mut registers);
            assert_eq!(DebugRegisters::read(&registers), debug);
        }
    }
}

#[test]
fn a_guests_local_enable_counts() {
    let debug = DebugRegisters {
        dr7: Dr7::new()
            .with_l1(true)
            .with_rw1(SlotKind::ReadWrite)
            .with_len1(SlotLength::Four),
        ..DebugRegisters::default()
    };
    let slot = HardwareSlot {
        address: Gva(0),
        kind: SlotKind::ReadWrite,
        length: SlotLength::Four,
    };
    assert_eq!(debug.slots(), [None, Some(slot), None, None]);
}

#[test]
fn hits_are_the_enabled_slots_that_dr6_names() {
    let slot = HardwareSlot::execute(Gva(0x1000));
    let mut debug = DebugRegisters::from_slots([Some(slot), None, None, Some(slot)]);
    debug.dr6.set_b(0b1010);
    assert_eq!(debug.hits().collect::<Vec<_>>(), vec![(3, slot)]);
}

#[test]
fn a_slot_that_is_not_there_is_left_alone() {
    let mut debug = DebugRegisters::default();
    debug.set_slot(4, Some(HardwareSlot::execute(Gva(1))));
    assert_eq!(debug, DebugRegisters::default());
    assert_eq!(debug.dr7.slot(4), None);
}

#[test]
fn an_access_touches_a_slot_it_overlaps() {
    let slot = HardwareSlot {
        address: Gva(0x1004),
        kind: SlotKind::Write,
        length: SlotLength::Four,
    };
    for (address, len, touches) in [
        (0x1000, 4, false),
        (0x1000, 5, true),
        (0x1000, 64, true),
        (0x1004, 1, true),
        (0x1007, 1, true),
        (0x1008, 8, false),
        (0x1005, 0, false),
    ] {
        assert_eq!(
            slot.touches(Gva(address), len),
            touches,
            "{address:#x}+{len}"
        );
    }
    let unaligned = HardwareSlot {
        address: Gva(0x1006),
        ..slot
    };
    assert!(unaligned.touches(Gva(0x1004), 1));
}

#[test]
fn a_range_is_split_into_aligned_pieces() {
    use SlotLength::{Eight, Four, One, Two};
    for (address, len, lengths) in [
        (0x1000, 1, vec![One]),
        (0x1000, 8, vec![Eight]),
        (0x1004, 8, vec![Four, Four]),
        (0x1001, 7, vec![One, Two, Four]),
        (0x1001, 8, vec![One, Two, Four, One]),
        (0x1000, 32, vec![Eight; 4]),
        (0x1000, 3, vec![Two, One]),
        (u64::MAX, 1, vec![One]),
    ] {
        let pieces = split_watch(Gva(address), len).unwrap();
        let mut next = Gva(address);
        for (start, length) in &pieces {
            assert_eq!(*start, next);
            assert_eq!(start.offset_in(length.bytes()), 0);
            next = next.wrapping_add(length.bytes());
        }
        assert_eq!(next, Gva(address).wrapping_add(len));
        let split: Vec<SlotLength> = pieces.into_iter().map(|(_, length)| length).collect();
        assert_eq!(split, lengths, "{address:#x}+{len}");
    }
}

#[test]
fn a_range_that_cannot_be_watched_is_refused() {
    assert_eq!(split_watch(Gva(0x1000), 0), Err(WatchError::Empty));
    for (address, len_bytes) in [(0x1000, 33), (0x1001, 30), (0, u64::MAX)] {
        let address = Gva(address);
        assert_eq!(
            split_watch(address, len_bytes),
            Err(WatchError::TooLong { address, len_bytes })
        );
    }
    let address = Gva(u64::MAX - 3);
    assert_eq!(split_watch(address, 8), Err(WatchError::Wraps { address }));
    assert!(split_watch(address, 4).is_ok());
}
