use alloc::vec;
use alloc::vec::Vec;

use gimli::{BaseAddresses, CfaRule, DebugFrame, LittleEndian, Register, RegisterRule};
use gimli::{UnwindContext, UnwindSection, UnwindTableRow};

use super::call_frames;
use crate::kallsyms::Kallsyms;
use crate::testing::{FakeMemory, Format, encode, plain};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const TEXT_END: u64 = TEXT + 0x1000;
const TABLES: u64 = 0xffff_ffff_8200_0000;
const RBP: Register = Register(6);
const RSP: Register = Register(7);
const RETURN_ADDRESS: Register = Register(16);

/// One entry of the tables: from which address on, and its three fields.
type Row = (u64, i16, i16, u16);

/// Entries of Linux 6.1: in `sp_reg` 5 is RSP and 4 RBP, in `bp_reg` 1 is the caller's RSP.
const ROWS_6_1: [Row; 8] = [
    (TEXT, 8, 0, 0x005),
    (TEXT + 1, 16, -16, 0x015),
    (TEXT + 4, 16, -16, 0x014),
    (TEXT + 0x20, 8, 0, 0x005),
    (TEXT + 0x100, 0, 0, 0x205),
    (TEXT + 0x108, 0, 0, 0x105),
    (TEXT + 0x200, 0, 0, 0x400),
    (TEXT + 0x400, 8, 0, 0x005),
];

/// Returns a kernel's memory with those tables, and its symbols.
fn kernel(rows: &[Row]) -> (FakeMemory, Kallsyms) {
    let addresses_len = rows.len() as u64 * 4;
    let entries = TABLES + addresses_len;
    let end = entries + rows.len() as u64 * 6;
    let symbols = [
        plain(TEXT, 'T', "_text"),
        plain(TEXT, 'T', "_stext"),
        plain(TEXT + 0x30, 't', "second"),
        plain(TEXT_END, 'T', "_etext"),
        plain(TABLES, 'R', "__start_orc_unwind_ip"),
        plain(entries, 'R', "__start_orc_unwind"),
        plain(entries, 'R', "__stop_orc_unwind_ip"),
        plain(end, 'R', "__stop_orc_unwind"),
    ];
    let encoded = encode(&symbols, Format::LINUX_6_1, TEXT);
    let symbols = Kallsyms::load_tables(&encoded.memory, &encoded.tables, None).unwrap();
    let mut memory = FakeMemory::new(TABLES, vec![0; usize::try_from(end - TABLES).unwrap()]);
    for (index, &(address, sp_offset, bp_offset, bits)) in (0..).zip(rows) {
        let own = TABLES + index * 4;
        let distance = i32::try_from(address.cast_signed() - own.cast_signed()).unwrap();
        memory.put(own, &distance.to_le_bytes());
        let mut entry = Vec::from(sp_offset.to_le_bytes());
        entry.extend(bp_offset.to_le_bytes());
        entry.extend(bits.to_le_bytes());
        memory.put(entries + index * 6, &entry);
    }
    (memory, symbols)
}

/// Reads the row for an address back with an independent reader.
fn row(frames: &[u8], address: u64) -> UnwindTableRow<usize> {
    let section = DebugFrame::new(frames, LittleEndian);
    let bases = BaseAddresses::default();
    let mut context = UnwindContext::new();
    let found = section.unwind_info_for_address(&bases, &mut context, address, |s, b, o| {
        s.cie_from_offset(b, o)
    });
    found.unwrap().clone()
}

fn cfa(frames: &[u8], address: u64) -> (Register, i64) {
    match row(frames, address).cfa() {
        CfaRule::RegisterAndOffset { register, offset } => (*register, *offset),
        CfaRule::Expression(_) => panic!("an expression at {address:#x}"),
    }
}

#[test]
fn functions_unwind_by_stack_and_frame_pointer() {
    let (memory, symbols) = kernel(&ROWS_6_1);
    let frames = call_frames(&memory, &symbols);
    assert_eq!(cfa(&frames, TEXT), (RSP, 8));
    assert_eq!(cfa(&frames, TEXT + 3), (RSP, 16));
    assert_eq!(cfa(&frames, TEXT + 4), (RBP, 16));
    assert_eq!(cfa(&frames, TEXT + 0x20), (RSP, 8));
    let saved = row(&frames, TEXT + 1);
    assert_eq!(
        saved.register(RETURN_ADDRESS),
        Some(RegisterRule::Offset(-8))
    );
    assert_eq!(saved.register(RBP), Some(RegisterRule::Offset(-16)));
    let restored = row(&frames, TEXT + 0x20);
    assert_eq!(restored.register(RBP), Some(RegisterRule::SameValue));
}

#[test]
fn interrupts_unwind_by_what_was_pushed() {
    let (memory, symbols) = kernel(&ROWS_6_1);
    let frames = call_frames(&memory, &symbols);
    for (address, restores_rbp) in [(TEXT + 0x100, false), (TEXT + 0x108, true)] {
        let row = row(&frames, address);
        assert!(matches!(row.cfa(), CfaRule::Expression(_)));
        let rule = row.register(RETURN_ADDRESS);
        assert!(
            matches!(rule, Some(RegisterRule::Expression(_))),
            "{rule:?}"
        );
        let is_restored = matches!(row.register(RBP), Some(RegisterRule::Expression(_)));
        assert_eq!(is_restored, restores_rbp);
    }
}

#[test]
fn what_interrupts_enter_and_what_changes_stacks_are_signal_frames() {
    // An interrupt's entry begins with what the processor pushed, that of system calls with nothing.
    let by_interrupt = [(TEXT, 0, 0, 0x205), (TEXT + 8, 0, 0, 0x105)];
    let by_call = [(TEXT, 0, 0, 0x400), (TEXT + 8, 0, 0, 0x105)];
    let with_two_stacks = [(TEXT, 8, 0, 0x005), (TEXT + 8, 16, 0, 0x009)];
    let ordinary = [(TEXT, 8, 0, 0x005), (TEXT + 8, 16, 0, 0x005)];
    let kinds = [
        (by_interrupt, true),
        (by_call, false),
        (with_two_stacks, true),
        (ordinary, false),
    ];
    for (rows, is_signal) in kinds {
        let (memory, symbols) = kernel(&rows);
        let frames = call_frames(&memory, &symbols);
        let section = DebugFrame::new(&frames, LittleEndian);
        for address in [TEXT, TEXT + 8] {
            let found = section.fde_for_address(&BaseAddresses::default(), address, |s, b, o| {
                s.cie_from_offset(b, o)
            });
            assert_eq!(found.unwrap().is_signal_trampoline(), is_signal, "{rows:?}");
        }
    }
}

#[test]
fn the_end_of_the_stack_has_no_caller() {
    let (memory, symbols) = kernel(&ROWS_6_1);
    let frames = call_frames(&memory, &symbols);
    let rule = row(&frames, TEXT + 0x210).register(RETURN_ADDRESS);
    assert_eq!(rule, Some(RegisterRule::Undefined));
    let after = row(&frames, TEXT + 0x400).register(RETURN_ADDRESS);
    assert_eq!(after, Some(RegisterRule::Offset(-8)));
    assert_eq!(cfa(&frames, TEXT_END - 1), (RSP, 8));
}

#[test]
fn later_numbers_mean_the_same() {
    // Since Linux 6.4 a call has type 2, the end of the stack type 1.
    let with_types = ROWS_6_1.map(|(address, sp, bp, bits)| match bits {
        0x400 => (address, sp, bp, 0x100),
        _ => (address, sp, bp, bits + 0x200),
    });
    // Still later RSP is 3, RBP 4, and the caller's stack pointer 8.
    let renumbered = with_types.map(|(address, sp, bp, bits)| {
        let sp_register = match bits & 0xf {
            5 => 3,
            other => other,
        };
        let bp_register = if bits & 0xf0 == 0x10 { 0x80 } else { 0 };
        (address, sp, bp, bits & 0xf00 | bp_register | sp_register)
    });
    let frames = |rows: &[Row]| {
        let (memory, symbols) = kernel(rows);
        call_frames(&memory, &symbols)
    };
    assert_eq!(frames(&with_types), frames(&ROWS_6_1));
    assert_eq!(frames(&renumbered), frames(&ROWS_6_1));
}

#[test]
fn tables_that_are_not_what_they_should_be_give_nothing() {
    let mut unordered = ROWS_6_1;
    unordered.swap(1, 3);
    let (memory, symbols) = kernel(&unordered);
    assert!(call_frames(&memory, &symbols).is_empty());

    let (memory, symbols) = kernel(&ROWS_6_1);
    for len in 0..memory.bytes.len() {
        let cut = FakeMemory::new(TABLES, memory.bytes[..len].to_vec());
        assert!(call_frames(&cut, &symbols).is_empty());
    }
}

#[test]
fn many_entries_are_found_in_any_piece() {
    let rows: Vec<Row> = (0..3000_u64)
        .map(|n| {
            (
                TEXT + n,
                i16::try_from(8 + 8 * (n % 100)).unwrap(),
                0,
                0x005,
            )
        })
        .collect();
    let (memory, symbols) = kernel(&rows);
    let frames = call_frames(&memory, &symbols);
    for n in [0, 1, 127, 128, 1023, 1024, 2999] {
        let expected = i64::try_from(8 + 8 * (n % 100)).unwrap();
        assert_eq!(cfa(&frames, TEXT + n), (RSP, expected), "entry {n}");
    }
}

#[test]
fn each_function_has_a_description_of_its_own() {
    let (memory, symbols) = kernel(&ROWS_6_1);
    let frames = call_frames(&memory, &symbols);
    let section = DebugFrame::new(&frames, LittleEndian);
    let bases = BaseAddresses::default();
    let start = |address| {
        let found = section.fde_for_address(&bases, address, |s, b, o| s.cie_from_offset(b, o));
        found.unwrap().initial_address()
    };
    assert_eq!(start(TEXT + 0x2f), TEXT);
    // No entry begins there: the one before holds on.
    assert_eq!(start(TEXT + 0x31), TEXT + 0x30);
    assert_eq!(cfa(&frames, TEXT + 0x31), (RSP, 8));
}
