use super::*;
use crate::x86_64::{
    control::Cr4,
    segment::{Segment, SegmentAttributes},
};

/// What decides the mode.
#[derive(Clone, Copy, Default)]
struct Machine {
    pe: bool,
    lma: bool,
    vm: bool,
    l: bool,
    db: bool,
    cs_base: u64,
}

impl Machine {
    fn registers(self) -> RegisterFile {
        let mut registers = registers::file();
        Cr0::new()
            .with_pe(self.pe)
            .with_pg(self.lma)
            .write(&mut registers);
        Cr4::new().with_pae(self.lma).write(&mut registers);
        Efer::new().with_lma(self.lma).write(&mut registers);
        Rflags::new().with_vm(self.vm).write(&mut registers);
        let attributes = SegmentAttributes::new()
            .with_l(self.l)
            .with_db(self.db)
            .with_p(true);
        let segment = Segment {
            selector: 8,
            base: self.cs_base,
            limit: u32::MAX,
            attributes,
        };
        SegmentRegister::Cs.write(&mut registers, segment);
        registers
    }
}

const REAL: Machine = Machine {
    pe: false,
    lma: false,
    vm: false,
    l: false,
    db: false,
    cs_base: 0,
};
const PROTECTED: Machine = Machine { pe: true, ..REAL };
const LONG: Machine = Machine {
    lma: true,
    ..PROTECTED
};

#[test]
fn each_mode_is_told_from_the_registers() {
    let mode = |machine: Machine| CpuMode::of(&machine.registers());
    assert_eq!(mode(REAL), CpuMode::Real);
    // A D bit left over from protected mode makes no 32-bit code.
    assert_eq!(mode(Machine { db: true, ..REAL }), CpuMode::Real);
    assert_eq!(
        mode(Machine {
            vm: true,
            ..PROTECTED
        }),
        CpuMode::Virtual8086
    );
    assert_eq!(mode(PROTECTED), CpuMode::Protected16);
    assert_eq!(
        mode(Machine {
            db: true,
            ..PROTECTED
        }),
        CpuMode::Protected32
    );
    assert_eq!(mode(LONG), CpuMode::Compatibility16);
    assert_eq!(mode(Machine { db: true, ..LONG }), CpuMode::Compatibility32);
    assert_eq!(mode(Machine { l: true, ..LONG }), CpuMode::Long64);
    // There is no virtual-8086 mode in long mode.
    assert_eq!(
        mode(Machine {
            l: true,
            vm: true,
            ..LONG
        }),
        CpuMode::Long64
    );
}

#[test]
fn the_pc_of_real_mode_has_the_segment_in_it() {
    let mut registers = Machine {
        cs_base: 0xf_0000,
        ..REAL
    }
    .registers();
    registers.set_u64(registers::RIP, 0xfff0);
    assert_eq!(linear_pc(&registers), Gva(0xf_fff0));
    // The reset vector: the base is not sixteen times the selector.
    let mut registers = Machine {
        cs_base: 0xffff_0000,
        ..REAL
    }
    .registers();
    registers.set_u64(registers::RIP, 0xfff0);
    assert_eq!(linear_pc(&registers), Gva(0xffff_fff0));
}

#[test]
fn linear_addresses_wrap_at_4_gib_outside_64_bit_code() {
    let mut registers = Machine {
        db: true,
        cs_base: 0xffff_f000,
        ..PROTECTED
    }
    .registers();
    registers.set_u64(registers::RIP, 0x2000);
    assert_eq!(linear_pc(&registers), Gva(0x1000));
}

#[test]
fn only_fs_and_gs_have_bases_in_64_bit_code() {
    let mut registers = Machine {
        l: true,
        cs_base: 0x1000,
        ..LONG
    }
    .registers();
    for segment in SegmentRegister::ALL {
        let value = Segment {
            base: 0xffff_8000_0000_0000,
            ..segment.read(&registers)
        };
        segment.write(&mut registers, value);
    }
    assert_eq!(linear(&registers, SegmentRegister::Ds, 0x10), Gva(0x10));
    assert_eq!(
        linear(&registers, SegmentRegister::Fs, 0x10),
        Gva(0xffff_8000_0000_0010)
    );
    assert_eq!(
        linear(&registers, SegmentRegister::Gs, u64::MAX),
        Gva(0xffff_7fff_ffff_ffff)
    );
}

#[test]
fn a_linear_pc_is_set_relative_to_the_code_segment() {
    let machines = [
        Machine {
            cs_base: 0xf_0000,
            ..REAL
        },
        Machine {
            cs_base: 0xffff_0000,
            ..REAL
        },
        Machine {
            db: true,
            cs_base: 0x1_0000,
            ..PROTECTED
        },
        Machine { l: true, ..LONG },
    ];
    for machine in machines {
        let mut registers = machine.registers();
        let pc = Gva(machine.cs_base + 0x1234);
        assert_eq!(set_linear_pc(&mut registers, pc), Ok(()));
        assert_eq!(linear_pc(&registers), pc);
        assert_eq!(registers.u64(registers::RIP), 0x1234);
    }
}

#[test]
fn a_linear_pc_out_of_reach_is_refused() {
    let real = Machine {
        cs_base: 0xf_0000,
        ..REAL
    };
    for pc in [0xe_ffff, 0x10_0000, 0x1_0000_0000, u64::MAX] {
        let mut registers = real.registers();
        let before = registers.clone();
        let error = PcError::OutsideCodeSegment {
            pc: Gva(pc),
            base: Gva(0xf_0000),
        };
        assert_eq!(set_linear_pc(&mut registers, Gva(pc)), Err(error));
        assert_eq!(registers, before);
    }
    let mut registers = Machine {
        db: true,
        ..PROTECTED
    }
    .registers();
    assert!(set_linear_pc(&mut registers, Gva(0xffff_ffff_8000_0000)).is_err());
}

#[test]
fn the_stack_pointer_has_the_stack_segments_size() {
    let stack = |machine: Machine, db| {
        let mut registers = machine.registers();
        registers.set_u64(registers::RSP, 0x1_2345_6789);
        let attributes = SegmentAttributes::new().with_db(db);
        let segment = Segment {
            base: 0x10_0000,
            attributes,
            ..Segment::default()
        };
        SegmentRegister::Ss.write(&mut registers, segment);
        linear_sp(&registers)
    };
    assert_eq!(stack(PROTECTED, false), Gva(0x10_6789));
    assert_eq!(stack(PROTECTED, true), Gva(0x2355_6789));
    assert_eq!(
        stack(Machine { l: true, ..LONG }, false),
        Gva(0x1_2345_6789)
    );
}

#[test]
fn the_privilege_level_is_that_of_the_stack() {
    let with_dpl = |machine: Machine| {
        let mut registers = machine.registers();
        let attributes = SegmentAttributes::new().with_dpl(2);
        SegmentRegister::Ss.write(
            &mut registers,
            Segment {
                attributes,
                ..Segment::default()
            },
        );
        cpl(&registers)
    };
    assert_eq!(with_dpl(REAL), 0);
    assert_eq!(
        with_dpl(Machine {
            vm: true,
            ..PROTECTED
        }),
        3
    );
    assert_eq!(with_dpl(PROTECTED), 2);
    assert_eq!(with_dpl(Machine { l: true, ..LONG }), 2);
}

#[test]
fn segments_read_back_what_was_written() {
    let mut registers = registers::file();
    let segment = |index: usize| Segment {
        selector: 0x1000 + index as u16,
        base: 0xffff_0000_0000_0000 + index as u64,
        limit: 0xf000_0000 + index as u32,
        attributes: SegmentAttributes::from_bits(0xa09b + index as u32),
    };
    for (index, name) in SegmentRegister::ALL.into_iter().enumerate() {
        name.write(&mut registers, segment(index));
    }
    for (index, name) in SegmentRegister::ALL.into_iter().enumerate() {
        assert_eq!(name.read(&registers), segment(index));
    }
}
