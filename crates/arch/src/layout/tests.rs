use std::{collections::HashSet, format, vec};

use super::*;
use crate::{RegisterGroup, x86_64::registers::*};

fn layouts() -> [Layout; 4] {
    [
        Layout::new(LayoutKind::X86_64, FeatureSet::all()),
        Layout::new(LayoutKind::X86_64, FeatureSet::empty()),
        Layout::new(LayoutKind::I386, FeatureSet::all()),
        Layout::new(LayoutKind::I386, FeatureSet::empty()),
    ]
}

fn pattern(entry: &LayoutEntry) -> Vec<u8> {
    (0..entry.len_bytes())
        .map(|byte| (entry.number as usize * 31 + byte * 7 + 1) as u8)
        .collect()
}

fn read(entry: &LayoutEntry, registers: &RegisterFile) -> Vec<u8> {
    let mut value = Vec::new();
    entry.read(registers, &mut value);
    value
}

#[test]
fn every_register_reads_back_what_was_written() {
    for layout in layouts() {
        for entry in layout.entries() {
            let mut registers = file();
            let mut value = pattern(entry);
            entry.write(&mut registers, &value).unwrap();
            // What the register has no room for is dropped.
            value
                .iter_mut()
                .skip(entry.register.len_bytes())
                .for_each(|byte| *byte = 0);
            assert_eq!(read(entry, &registers), value, "{}", entry.view.name);
        }
    }
}

#[test]
fn a_write_changes_no_other_register() {
    for layout in layouts() {
        for entry in layout.entries() {
            let mut registers = file();
            entry
                .write(&mut registers, &vec![0xff; entry.len_bytes()])
                .unwrap();
            for other in layout.entries().iter().filter(|other| other.id != entry.id) {
                assert!(read(other, &registers).iter().all(|byte| *byte == 0));
            }
        }
    }
}

#[test]
fn the_g_packet_is_the_first_registers_one_after_another() {
    for layout in layouts() {
        let mut registers = file();
        let mut values = Vec::new();
        for entry in layout.g_entries() {
            assert_eq!(entry.offset_bytes, values.len());
            entry.write(&mut registers, &pattern(entry)).unwrap();
            entry.read(&registers, &mut values);
        }
        assert_eq!(values.len(), layout.g_len_bytes());
        let mut g = Vec::new();
        layout.read_g(&registers, &mut g);
        assert_eq!(g, values);
        let mut written = file();
        let groups = layout.write_g(&mut written, &g).unwrap();
        assert_eq!(written, registers);
        assert_eq!(groups, layout.g_groups());
    }
}

#[test]
fn a_g_packet_may_end_after_any_register_but_not_inside_one() {
    for layout in layouts() {
        let ends: HashSet<usize> = layout
            .g_entries()
            .iter()
            .map(|entry| entry.offset_bytes + entry.len_bytes())
            .collect();
        for len in 1..layout.g_len_bytes() + 2 {
            let mut registers = file();
            let result = layout.write_g(&mut registers, &vec![0xff; len]);
            assert_eq!(result.is_ok(), ends.contains(&len), "{len}");
            if result.is_err() {
                assert_eq!(registers, file());
            }
        }
    }
}

#[test]
fn a_value_of_another_length_is_refused() {
    let layout = &layouts()[0];
    let rip = layout.by_name("rip").unwrap();
    for given in (0..20).filter(|given| *given != 8) {
        let error = RegisterError::Length {
            number: 16,
            expected: 8,
            given,
        };
        assert_eq!(rip.write(&mut file(), &vec![0; given]), Err(error));
    }
}

#[test]
fn numbers_up_to_mxcsr_are_qemus() {
    let names = |layout: &Layout| {
        layout
            .g_entries()
            .iter()
            .map(|entry| entry.view.name)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let system = "cs ss ds es fs gs fs_base gs_base k_gs_base cr0 cr2 cr3 cr4 cr8 efer \
                  st0 st1 st2 st3 st4 st5 st6 st7 \
                  fctrl fstat ftag fiseg fioff foseg fooff fop \
                  xmm0 xmm1 xmm2 xmm3 xmm4 xmm5 xmm6 xmm7";
    assert_eq!(
        names(&layouts()[0]),
        format!(
            "rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags {system} \
             xmm8 xmm9 xmm10 xmm11 xmm12 xmm13 xmm14 xmm15 mxcsr"
        )
    );
    assert_eq!(
        names(&layouts()[2]),
        format!("eax ecx edx ebx esp ebp esi edi eip eflags {system} mxcsr")
    );
}

#[test]
fn numbers_of_what_every_vcpu_has_do_not_depend_on_features() {
    let [all, none, ..] = layouts();
    for entry in none.entries() {
        assert_eq!(all.number_of(entry.id), Some(entry.number));
    }
}

#[test]
fn optional_registers_come_with_their_feature_only() {
    let has = |features, name| {
        Layout::new(LayoutKind::X86_64, features)
            .by_name(name)
            .is_some()
    };
    for (feature, name) in [
        (FeatureSet::AVX, "ymm15h"),
        (FeatureSet::AVX | FeatureSet::AVX512, "zmm31h"),
        (FeatureSet::PKU, "pkru"),
        (FeatureSet::XSAVES, "xss"),
        (FeatureSet::TSC_AUX, "tsc_aux"),
        (FeatureSet::SPEC_CTRL, "spec_ctrl"),
    ] {
        assert!(has(feature, name), "{name}");
        assert!(!has(FeatureSet::all() - feature, name), "{name}");
    }
}

#[test]
fn names_are_unique_in_a_layout() {
    for layout in layouts() {
        let names: HashSet<_> = layout
            .entries()
            .iter()
            .map(|entry| entry.view.name)
            .collect();
        assert_eq!(names.len(), layout.len());
    }
}

#[test]
fn registers_are_found_by_every_name() {
    let [wide, _, narrow, _] = layouts();
    for name in ["rip", "pc"] {
        assert_eq!(wide.by_name(name).unwrap().id, RIP);
    }
    for name in ["eip", "rip", "pc"] {
        assert_eq!(narrow.by_name(name).unwrap().id, RIP);
    }
    for name in ["eflags", "rflags"] {
        assert_eq!(wide.by_name(name).unwrap().id, RFLAGS);
    }
    assert!(wide.by_name("r16").is_none());
    assert!(narrow.by_name("r8").is_none());
}

#[test]
fn the_program_counter_is_known_by_number() {
    let [wide, _, narrow, _] = layouts();
    assert_eq!((wide.pc_number(), narrow.pc_number()), (16, 8));
}

#[test]
fn the_g_packet_needs_no_debug_registers() {
    let groups = layouts()[0].g_groups();
    assert_eq!(groups, RegisterGroups::all() - RegisterGroups::DEBUG);
    assert!(groups.contains(RegisterGroup::Msr.into()));
}

#[test]
fn a_narrow_write_keeps_the_upper_half() {
    let narrow = &layouts()[2];
    let mut registers = file();
    registers.set_u64(RBX, 0x1122_3344_5566_7788);
    let ebx = narrow.by_name("ebx").unwrap();
    ebx.write(&mut registers, &[1, 2, 3, 4]).unwrap();
    assert_eq!(registers.u64(RBX), 0x1122_3344_0403_0201);
}

#[test]
fn there_is_no_register_past_the_last() {
    for layout in layouts() {
        let count = u32::try_from(layout.len()).unwrap();
        assert!(layout.register_info(count - 1).is_some());
        assert!(layout.register_info(count).is_none());
        assert!(layout.by_number(u32::MAX).is_none());
        assert!(!layout.is_empty());
    }
}

#[test]
fn register_information_carries_every_key() {
    let layout = &layouts()[0];
    assert_eq!(
        layout.register_info(5).unwrap(),
        "name:rdi;bitsize:64;offset:40;encoding:uint;format:hex;set:General Purpose Registers;\
         ehframe:5;dwarf:5;generic:arg1;"
    );
    assert_eq!(
        layout.register_info(49).unwrap(),
        "name:xmm0;bitsize:128;offset:348;encoding:vector;format:vector-uint8;\
         set:Vector Registers;ehframe:17;dwarf:17;"
    );
}
