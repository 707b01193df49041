use std::format;

use super::*;
use crate::{RegisterGroup, RegisterGroups, Writable};

#[test]
fn registers_fill_the_file_without_gap_or_overlap() {
    let mut end = 0;
    for register in TABLE {
        assert_eq!(usize::from(register.offset), end, "{}", register.name);
        assert_ne!(register.bits, 0);
        assert_eq!(register.bits % 8, 0);
        end += register.len_bytes();
    }
    assert_eq!(file().bytes(PKRU).len(), 4);
}

#[test]
fn families_are_found_by_number() {
    let name = |id: Option<RegisterId>| id.map(|id| TABLE[usize::from(id.0)].name);
    for number in 0..40 {
        let below = |count| (number < count).then_some(number);
        let expect = |prefix: &str, suffix: &str, count| {
            below(count).map(|number| format!("{prefix}{number}{suffix}"))
        };
        assert_eq!(name(xmm(number)), expect("xmm", "", 32).as_deref());
        assert_eq!(name(ymmh(number)), expect("ymm", "h", 32).as_deref());
        assert_eq!(name(zmmh(number)), expect("zmm", "h", 32).as_deref());
        assert_eq!(name(st(number)), expect("st", "", 8).as_deref());
        assert_eq!(name(k(number)), expect("k", "", 8).as_deref());
    }
}

#[test]
fn values_are_little_endian_and_cut_to_the_width() {
    let mut registers = file();
    registers.set_u64(RAX, 0x0102_0304_0506_0708);
    assert_eq!(registers.bytes(RAX), [8, 7, 6, 5, 4, 3, 2, 1]);
    registers.set_u64(CS, 0xffff_1234);
    assert_eq!(registers.u64(CS), 0x1234);
    registers.bytes_mut(XMM3).fill(0xff);
    registers.set_u64(XMM3, 7);
    assert_eq!(registers.bytes(XMM3)[..9], [7, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_unknown_register_is_empty() {
    let mut registers = file();
    let unknown = RegisterId(u16::MAX);
    registers.set_u64(unknown, 1);
    assert_eq!(registers, file());
    assert_eq!(registers.u64(unknown), 0);
    assert!(registers.bytes_mut(unknown).is_empty());
}

#[test]
fn groups_are_copied_whole_and_alone() {
    let mut full = file();
    for index in 0..TABLE.len() {
        full.bytes_mut(RegisterId(u16::try_from(index).unwrap()))
            .fill(0xa5);
    }
    for group in RegisterGroup::ALL {
        let mut copy = file();
        copy.copy_groups(&full, group.into());
        for (index, register) in TABLE.iter().enumerate() {
            let bytes = copy.bytes(RegisterId(u16::try_from(index).unwrap()));
            assert_eq!(
                bytes.iter().all(|byte| *byte == 0xa5),
                register.group == group
            );
        }
    }
    let mut copy = file();
    copy.copy_groups(&full, RegisterGroups::all());
    assert_eq!(copy, full);
}

#[test]
fn everything_is_writable_by_a_debugger() {
    assert!(
        TABLE
            .iter()
            .all(|register| register.writable != Writable::No)
    );
}

#[test]
fn debug_output_shows_what_is_not_zero() {
    let mut registers = file();
    registers.set_u64(RBX, 0x1234);
    assert_eq!(format!("{registers:?}"), "{\"rbx\": 0x0000000000001234}");
}
