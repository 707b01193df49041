use std::{collections::HashSet, format, string::String, vec::Vec};

use super::*;
use crate::{
    Architecture, GenericRole, Layout, LayoutKind, RegisterGroups, Writable,
    aarch64::control::{Sctlr, Tcr},
};

fn layout(features: FeatureSet) -> Layout {
    Layout::new(LayoutKind::Aarch64, features)
}

fn register(id: RegisterId) -> &'static crate::Register {
    &TABLE[usize::from(id.0)]
}

#[test]
fn registers_have_places_of_their_own_but_v_is_the_low_part_of_z() {
    let mut ends = 0;
    for (index, row) in TABLE.iter().enumerate() {
        assert_eq!(row.bits % 8, 0);
        let id = RegisterId(u16::try_from(index).unwrap());
        if (V0.0..=V31.0).contains(&id.0) {
            let z = RegisterId(Z0.0 + id.0 - V0.0);
            assert_eq!(row.offset, register(z).offset, "{}", row.name);
            continue;
        }
        assert_eq!(usize::from(row.offset), ends, "{}", row.name);
        ends += row.len_bytes();
    }
    let mut registers = file();
    registers.bytes_mut(v(5).unwrap()).fill(0xab);
    let z5 = registers.bytes(z(5).unwrap());
    assert!(z5[..16].iter().all(|byte| *byte == 0xab));
    assert!(z5[16..].iter().all(|byte| *byte == 0));
}

#[test]
fn families_are_found_by_number() {
    let name = |id: Option<RegisterId>| id.map(|id| register(id).name);
    for number in 0..40_u8 {
        let expect = |prefix: &str, count| (number < count).then(|| format!("{prefix}{number}"));
        assert_eq!(name(x(number)), expect("x", 31).as_deref());
        assert_eq!(name(v(number)), expect("v", 32).as_deref());
        assert_eq!(name(z(number)), expect("z", 32).as_deref());
        assert_eq!(name(p(number)), expect("p", 16).as_deref());
    }
}

#[test]
fn numbers_up_to_fpcr_are_gdbs() {
    let names = |layout: &Layout| -> Vec<String> {
        layout
            .g_entries()
            .iter()
            .map(|entry| entry.view.name.into())
            .collect()
    };
    let mut expected: Vec<String> = (0..31).map(|number| format!("x{number}")).collect();
    expected.extend(["sp", "pc", "cpsr"].map(String::from));
    let general = expected.clone();
    expected.extend((0..32).map(|number| format!("v{number}")));
    expected.extend(["fpsr", "fpcr"].map(String::from));
    assert_eq!(names(&layout(FeatureSet::empty())), expected);
    let mut expected = general;
    expected.extend((0..32).map(|number| format!("z{number}")));
    expected.extend(["fpsr", "fpcr"].map(String::from));
    expected.extend((0..16).map(|number| format!("p{number}")));
    expected.extend(["ffr", "vg"].map(String::from));
    assert_eq!(names(&layout(FeatureSet::empty().with_sve(2))), expected);
}

#[test]
fn vectors_are_as_long_as_the_vector_length_says() {
    for quadwords in 1..=16_u8 {
        let layout = layout(FeatureSet::empty().with_sve(quadwords));
        let len = |name| layout.by_name(name).unwrap().len_bytes();
        let quadwords = usize::from(quadwords);
        assert_eq!(len("z0"), 16 * quadwords);
        assert_eq!(len("z31"), 16 * quadwords);
        assert_eq!(len("p15"), 2 * quadwords);
        assert_eq!(len("ffr"), 2 * quadwords);
        assert_eq!((len("vg"), len("fpcr"), len("x0")), (8, 4, 8));
    }
    let one = FeatureSet::empty().with_sve(0);
    assert_eq!(one.vector_quadwords(), 1);
    assert_eq!(FeatureSet::empty().with_sve(99).vector_quadwords(), 16);
    assert_eq!(FeatureSet::empty().vector_quadwords(), 1);
}

#[test]
fn status_and_control_stand_in_the_feature_of_the_vectors() {
    let feature = |features, name| layout(features).by_name(name).unwrap().view.feature;
    for name in ["fpsr", "fpcr"] {
        let plain = feature(FeatureSet::empty(), name);
        assert_eq!(plain, "org.gnu.gdb.aarch64.fpu");
        let scalable = feature(FeatureSet::empty().with_sve(1), name);
        assert_eq!(scalable, "org.gnu.gdb.aarch64.sve");
    }
    let sve = layout(FeatureSet::empty().with_sve(1));
    assert!(sve.by_name("v0").is_none());
    assert!(!sve.target_xml().contains("aarch64.fpu"));
}

#[test]
fn optional_registers_come_with_their_feature_only() {
    for (feature, name) in [
        (FeatureSet::PAUTH, "pauth_cmask_high"),
        (FeatureSet::MTE, "gcr_el1"),
        (FeatureSet::TCR2, "tcr2_el1"),
        (FeatureSet::S1PIE, "pire0_el1"),
        (FeatureSet::SVE, "zcr_el1"),
    ] {
        assert!(layout(feature).by_name(name).is_some(), "{name}");
        assert!(layout(FeatureSet::all() - feature).by_name(name).is_none());
    }
}

#[test]
fn there_are_as_many_debug_registers_as_the_processor_has() {
    let slots = |breakpoints, watchpoints| {
        let layout = layout(FeatureSet::empty().with_debug_slots(breakpoints, watchpoints));
        let count = |prefix: &str| {
            let entries = layout.entries().iter();
            entries
                .filter(|entry| entry.view.name.starts_with(prefix))
                .count()
        };
        [
            count("dbgbvr"),
            count("dbgbcr"),
            count("dbgwvr"),
            count("dbgwcr"),
        ]
    };
    assert_eq!(slots(6, 4), [6, 6, 4, 4]);
    assert_eq!(slots(16, 16), [16; 4]);
    assert_eq!(slots(0, 99), [2, 2, 16, 16]);
    assert_eq!(FeatureSet::all().debug_slots(), (16, 16));
}

#[test]
fn names_are_unique_and_registers_are_found_by_the_usual_ones() {
    for features in [FeatureSet::empty(), FeatureSet::all()] {
        let layout = layout(features);
        let names: HashSet<_> = layout
            .entries()
            .iter()
            .map(|entry| entry.view.name)
            .collect();
        assert_eq!(names.len(), layout.len());
        for (name, id) in [
            ("fp", X29),
            ("lr", X30),
            ("pc", PC),
            ("pstate", CPSR),
            ("ttbr1", TTBR1_EL1),
        ] {
            assert_eq!(layout.by_name(name).unwrap().id, id);
        }
        assert_eq!(layout.pc_number(), 32);
        assert_eq!(layout.by_role(GenericRole::Ra).unwrap().id, X30);
        assert_eq!(layout.by_role(GenericRole::Argument(8)).unwrap().id, X7);
    }
}

#[test]
fn the_g_packet_needs_no_system_registers() {
    let groups = layout(FeatureSet::all()).g_groups();
    assert_eq!(groups, RegisterGroups::GENERAL | RegisterGroups::FPU);
}

#[test]
fn what_only_reports_cannot_be_written() {
    let layout = layout(FeatureSet::all());
    for entry in layout.entries() {
        let name = entry.view.name;
        let is_report = name.starts_with("id_")
            || name.starts_with("pauth_")
            || [
                "vg",
                "daif",
                "oslsr_el1",
                "cntvct_el0",
                "midr_el1",
                "mpidr_el1",
                "revidr_el1",
                "ctr_el0",
                "dczid_el0",
                "clidr_el1",
                "ccsidr_el1",
            ]
            .contains(&name);
        assert_eq!(entry.register.writable == Writable::No, is_report, "{name}");
    }
}

#[test]
fn views_of_other_registers_are_computed() {
    let mut registers = file();
    registers.set_u64(CPSR, 0xffff_ffff);
    Tcr::new().with_t0sz(16).with_t1sz(25).write(&mut registers);
    Sctlr::new().with_en_ia(true).write(&mut registers);
    for group in RegisterGroup::ALL {
        Architecture::Aarch64.complete(&mut registers, group);
    }
    assert_eq!(registers.u64(DAIF), 0b1111 << 6);
    assert_eq!(registers.u64(PAUTH_CMASK), 0xff7f_0000_0000_0000);
    assert_eq!(registers.u64(PAUTH_DMASK_HIGH), 0xff7f_ff80_0000_0000);
}

#[test]
fn the_stack_pointer_and_its_bank_follow_each_other() {
    for (cpsr, banked, other) in [
        (0b0101, SP_EL1, SP_EL0),
        (0b0100, SP_EL0, SP_EL1),
        (0, SP_EL0, SP_EL1),
    ] {
        let mut registers = file();
        registers.set_u64(CPSR, cpsr);
        registers.set_u64(SP, 0x1000);
        follow_stack_pointer(&mut registers, RegisterGroup::General);
        assert_eq!((registers.u64(banked), registers.u64(other)), (0x1000, 0));
        registers.set_u64(banked, 0x2000);
        follow_stack_pointer(&mut registers, RegisterGroup::System);
        assert_eq!(registers.u64(SP), 0x2000);
        follow_stack_pointer(&mut registers, RegisterGroup::Debug);
        assert_eq!(registers.u64(SP), 0x2000);
    }
    let mut at_el2 = file();
    at_el2.set_u64(CPSR, 0b1001);
    at_el2.set_u64(SP, 5);
    follow_stack_pointer(&mut at_el2, RegisterGroup::General);
    assert_eq!((at_el2.u64(SP_EL0), at_el2.u64(SP_EL1)), (0, 0));
}
