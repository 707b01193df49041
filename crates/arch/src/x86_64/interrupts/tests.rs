use alloc::{collections::BTreeMap, vec::Vec};

use super::*;
use crate::x86_64::segment::Segment;

const IDT: u64 = 0x5000;

/// Linear memory of whole tables.
struct Memory(BTreeMap<u64, Vec<u8>>);

impl Memory {
    fn new<const COUNT: usize>(tables: [(u64, Vec<u8>); COUNT]) -> Self {
        Self(tables.into())
    }

    fn gate(&self, registers: &RegisterFile, vector: u8) -> Result<Gate, GateError> {
        gate(registers, vector, &mut |address, buffer| {
            let Some((start, table)) = self.0.range(..=address.0).next_back() else {
                return false;
            };
            let start = (address.0 - start) as usize;
            let Some(bytes) = table.get(start..start + buffer.len()) else {
                return false;
            };
            buffer.copy_from_slice(bytes);
            true
        })
    }
}

fn registers(mode: TableLayout) -> RegisterFile {
    let mut registers = registers::file();
    Cr0::new()
        .with_pe(!matches!(mode, TableLayout::RealMode))
        .write(&mut registers);
    Efer::new()
        .with_lma(matches!(mode, TableLayout::Long))
        .write(&mut registers);
    registers.set_u64(registers::IDTR_BASE, IDT);
    registers.set_u64(registers::IDTR_LIMIT, 0xfff);
    registers.set_u64(registers::GDTR_BASE, 0x6000);
    let ldt = Segment {
        base: 0x7000,
        ..Segment::default()
    };
    SegmentRegister::Ldtr.write(&mut registers, ldt);
    registers
}

fn table(entry_bytes: usize, vector: usize, entry: &[u8]) -> Vec<u8> {
    let mut table = alloc::vec![0; 256 * entry_bytes];
    table[vector * entry_bytes..][..entry.len()].copy_from_slice(entry);
    table
}

/// A gate for offset `0x1234_5678` in segment 0x10.
const LOW: u64 = 0x1234_8e00_0010_5678;

#[test]
fn real_mode_has_far_pointers() {
    let mut registers = registers(TableLayout::RealMode);
    registers.set_u64(registers::IDTR_BASE, 0);
    let memory = Memory::new([(0, table(4, 0x10, &[0x34, 0x12, 0x00, 0xf0]))]);
    let gate = memory.gate(&registers, 0x10).unwrap();
    assert_eq!((gate.handler, gate.selector), (Gva(0xf_1234), 0xf000));
    assert_eq!(gate.kind, GateKind::RealMode);
}

#[test]
fn legacy_gates_are_relative_to_their_segment() {
    let registers = registers(TableLayout::Legacy);
    // Base 0x1100_0000 in two pieces of the descriptor.
    let segment = 0x11cf_9b00_0000_ffff_u64.to_le_bytes();
    let gdt = table(8, 2, &segment);
    let memory = Memory::new([(IDT, table(8, 14, &LOW.to_le_bytes())), (0x6000, gdt)]);
    let gate = memory.gate(&registers, 14).unwrap();
    assert_eq!(gate.handler, Gva(0x2334_5678));
    assert_eq!(
        (gate.selector, gate.kind, gate.ist, gate.dpl),
        (0x10, GateKind::Interrupt, 0, 0)
    );
}

#[test]
fn a_local_selector_uses_the_local_table() {
    let registers = registers(TableLayout::Legacy);
    let local = LOW | 0b111 << 16;
    let segment = 0x0000_9b20_0000_ffff_u64.to_le_bytes();
    let memory = Memory::new([
        (IDT, table(8, 14, &local.to_le_bytes())),
        (0x7000, table(8, 2, &segment)),
    ]);
    assert_eq!(
        memory.gate(&registers, 14).unwrap().handler,
        Gva(0x1254_5678)
    );
}

#[test]
fn sixteen_bit_gates_have_sixteen_bits_of_offset() {
    let registers = registers(TableLayout::Legacy);
    for (kind, expected) in [(6, GateKind::Interrupt), (7, GateKind::Trap)] {
        let low = LOW & !(0xf << 40) | kind << 40;
        let memory = Memory::new([
            (IDT, table(8, 3, &low.to_le_bytes())),
            (0x6000, table(8, 2, &[0; 8])),
        ]);
        let gate = memory.gate(&registers, 3).unwrap();
        assert_eq!((gate.handler, gate.kind), (Gva(0x5678), expected));
    }
}

#[test]
fn long_gates_have_64_bits_of_offset() {
    let registers = registers(TableLayout::Long);
    let mut entry = (LOW | 0b101 << 32 | 3 << 45 | 1 << 40)
        .to_le_bytes()
        .to_vec();
    entry.extend(0xffff_ffff_u64.to_le_bytes());
    let memory = Memory::new([(IDT, table(16, 0xff, &entry))]);
    let gate = memory.gate(&registers, 0xff).unwrap();
    assert_eq!(gate.handler, Gva(0xffff_ffff_1234_5678));
    assert_eq!((gate.kind, gate.ist, gate.dpl), (GateKind::Trap, 5, 3));
}

#[test]
fn a_vector_past_the_limit_leads_nowhere() {
    let mut registers = registers(TableLayout::Long);
    let memory = Memory::new([(IDT, table(16, 3, &LOW.to_le_bytes()))]);
    registers.set_u64(registers::IDTR_LIMIT, 3 * 16 + 14);
    assert_eq!(
        memory.gate(&registers, 3),
        Err(GateError::PastLimit { vector: 3 })
    );
    registers.set_u64(registers::IDTR_LIMIT, 3 * 16 + 15);
    assert!(memory.gate(&registers, 3).is_ok());
}

#[test]
fn gates_that_cannot_be_used_are_refused() {
    let registers = registers(TableLayout::Legacy);
    let gate = |low: u64| Memory::new([(IDT, table(8, 3, &low.to_le_bytes()))]).gate(&registers, 3);
    assert_eq!(
        gate(LOW & !(1 << 47)),
        Err(GateError::NotPresent { vector: 3 })
    );
    let task = LOW & !(0xf << 40) | 5 << 40;
    assert_eq!(gate(task), Err(GateError::Kind { vector: 3, kind: 5 }));
    // A code segment is no gate.
    assert_eq!(
        gate(LOW | 1 << 44),
        Err(GateError::Kind {
            vector: 3,
            kind: 14
        })
    );
    // The handler's segment is not mapped.
    assert_eq!(
        gate(LOW),
        Err(GateError::Unreadable {
            address: Gva(0x6010)
        })
    );
    let nothing = Memory::new([]);
    assert_eq!(
        nothing.gate(&registers, 3),
        Err(GateError::Unreadable {
            address: Gva(IDT + 24)
        })
    );
}
