//! System registers: segments, control registers, descriptor tables.

use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};
use trapline_arch::x86_64::{Segment, SegmentAttributes, SegmentRegister, registers as ids};
use trapline_arch::{RegisterFile, RegisterId};

/// Fills the system registers of `file`.
pub(super) fn load(registers: &kvm_sregs, file: &mut RegisterFile) {
    let mut copy = *registers;
    for (register, segment) in segments(&mut copy) {
        register.write(file, from_kvm(segment));
    }
    for (id, value) in words(&mut copy) {
        file.set_u64(id, *value);
    }
    for (base, limit, table) in tables(&mut copy) {
        file.set_u64(base, table.base);
        file.set_u64(limit, table.limit.into());
    }
}

/// Replaces those of `registers` that `file` knows.
pub(super) fn store(file: &RegisterFile, registers: &mut kvm_sregs) {
    for (register, segment) in segments(registers) {
        *segment = to_kvm(register.read(file));
    }
    for (id, value) in words(registers) {
        *value = file.u64(id);
    }
    for (base, limit, table) in tables(registers) {
        table.base = file.u64(base);
        table.limit = u16::try_from(file.u64(limit)).unwrap_or(u16::MAX);
    }
}

fn segments(registers: &mut kvm_sregs) -> [(SegmentRegister, &mut kvm_segment); 8] {
    [
        (SegmentRegister::Cs, &mut registers.cs),
        (SegmentRegister::Ds, &mut registers.ds),
        (SegmentRegister::Es, &mut registers.es),
        (SegmentRegister::Fs, &mut registers.fs),
        (SegmentRegister::Gs, &mut registers.gs),
        (SegmentRegister::Ss, &mut registers.ss),
        (SegmentRegister::Tr, &mut registers.tr),
        (SegmentRegister::Ldtr, &mut registers.ldt),
    ]
}

fn words(registers: &mut kvm_sregs) -> [(RegisterId, &mut u64); 7] {
    [
        (ids::CR0, &mut registers.cr0),
        (ids::CR2, &mut registers.cr2),
        (ids::CR3, &mut registers.cr3),
        (ids::CR4, &mut registers.cr4),
        (ids::CR8, &mut registers.cr8),
        (ids::EFER, &mut registers.efer),
        (ids::APIC_BASE, &mut registers.apic_base),
    ]
}

fn tables(registers: &mut kvm_sregs) -> [(RegisterId, RegisterId, &mut kvm_dtable); 2] {
    [
        (ids::GDTR_BASE, ids::GDTR_LIMIT, &mut registers.gdt),
        (ids::IDTR_BASE, ids::IDTR_LIMIT, &mut registers.idt),
    ]
}

fn from_kvm(segment: &kvm_segment) -> Segment {
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        attributes: SegmentAttributes::new()
            .with_type(segment.type_ & 0xf)
            .with_s(segment.s != 0)
            .with_dpl(segment.dpl & 0b11)
            .with_p(segment.present != 0)
            .with_avl(segment.avl != 0)
            .with_l(segment.l != 0)
            .with_db(segment.db != 0)
            .with_g(segment.g != 0)
            .with_unusable(segment.unusable != 0),
    }
}

fn to_kvm(segment: Segment) -> kvm_segment {
    let attributes = segment.attributes;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: attributes.r#type(),
        present: attributes.p().into(),
        dpl: attributes.dpl(),
        db: attributes.db().into(),
        s: attributes.s().into(),
        l: attributes.l().into(),
        g: attributes.g().into(),
        avl: attributes.avl().into(),
        unusable: attributes.unusable().into(),
        padding: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_round_trips_bit_by_bit() {
        for bit in 0..16 {
            let on = |n: u8| u8::from(bit == n);
            let segment = kvm_segment {
                base: u64::MAX << bit,
                limit: u32::MAX >> bit,
                selector: 1 << bit,
                type_: 0xf * on(0),
                present: on(1),
                dpl: 3 * on(2),
                db: on(3),
                s: on(4),
                l: on(5),
                g: on(6),
                avl: on(7),
                unusable: on(8),
                padding: 0,
            };
            assert_eq!(to_kvm(from_kvm(&segment)), segment);
        }
    }

    #[test]
    fn every_system_register_round_trips() {
        let mut registers = kvm_sregs::default();
        for (number, (_, segment)) in (1_u8..).zip(segments(&mut registers)) {
            segment.base = number.into();
            segment.type_ = number;
        }
        for (number, (_, word)) in (100..).zip(words(&mut registers)) {
            *word = number;
        }
        for (number, (_, _, table)) in (200_u8..).zip(tables(&mut registers)) {
            *table = kvm_dtable {
                base: number.into(),
                limit: number.into(),
                ..*table
            };
        }
        let mut file = ids::file();
        load(&registers, &mut file);
        let mut back = kvm_sregs::default();
        store(&file, &mut back);
        assert_eq!(back, registers);
    }
}
