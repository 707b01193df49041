use super::*;
use crate::aarch64::exception::ExceptionClass;
use crate::aarch64::{registers as r, registers::file};

const BRK: Esr = Esr::new()
    .with_ec(ExceptionClass::BRK64)
    .with_il(true)
    .with_iss(7);

fn vcpu(cpsr: u64) -> RegisterFile {
    let mut file = file();
    file.set_u64(r::CPSR, cpsr);
    file.set_u64(r::PC, 0xffff_8000_0001_0004);
    file.set_u64(r::SP, 0x1111);
    file.set_u64(r::SP_EL1, 0x2222);
    file.set_u64(r::VBAR_EL1, 0xffff_8000_0008_0000);
    file
}

#[test]
fn an_exception_from_el0_saves_its_state_and_takes_el1s_stack() {
    let mut file = vcpu(0x6000_0000);
    take_to_el1(&mut file, BRK, None);
    assert_eq!(file.u64(r::PC), 0xffff_8000_0008_0400);
    assert_eq!(file.u64(r::ELR_EL1), 0xffff_8000_0001_0004);
    assert_eq!(file.u64(r::SPSR_EL1), 0x6000_0000);
    assert_eq!(file.u64(r::SP_EL0), 0x1111);
    assert_eq!(file.u64(r::SP), 0x2222);
    assert_eq!(file.u64(r::ESR_EL1), 0xf200_0007);
    // The flags stay; D, A, I, F are set; EL1h.
    assert_eq!(file.u64(r::CPSR), 0x6000_03c5);
}

#[test]
fn an_exception_from_el1_keeps_its_stack() {
    let mut file = vcpu(0x0000_0005);
    file.set_u64(r::FAR_EL1, 0xdead);
    take_to_el1(&mut file, BRK, Some(Gva(0xbeef)));
    assert_eq!(file.u64(r::PC), 0xffff_8000_0008_0200);
    assert_eq!(file.u64(r::SP), 0x1111);
    assert_eq!(file.u64(r::SP_EL1), 0x1111);
    assert_eq!(file.u64(r::FAR_EL1), 0xbeef);
}

#[test]
fn each_origin_has_its_vector() {
    let vector = |cpsr| {
        let mut file = vcpu(cpsr);
        take_to_el1(&mut file, BRK, None);
        assert!(is_synchronous_vector(&file, Gva(file.u64(r::PC))));
        file.u64(r::PC) & 0x7ff
    };
    assert_eq!(vector(0x04), 0x000, "EL1 with the stack of EL0");
    assert_eq!(vector(0x05), 0x200, "EL1");
    assert_eq!(vector(0x00), 0x400, "EL0");
    assert_eq!(vector(0x10), 0x600, "EL0 in AArch32 state");
}

#[test]
fn the_state_at_the_vector_follows_the_processors_features() {
    let state = |sctlr: u64, mmfr1: u64, pfr1: u64| {
        let mut file = vcpu(1 << 12 | 0b11 << 10 | 1 << 23 | 1 << 20);
        file.set_u64(r::SCTLR_EL1, sctlr);
        file.set_u64(r::ID_AA64MMFR1_EL1, mmfr1);
        file.set_u64(r::ID_AA64PFR1_EL1, pfr1);
        take_to_el1(&mut file, BRK, None);
        Pstate::read(&file)
    };
    let plain = state(0, 0, 0);
    assert_eq!(
        plain.into_bits(),
        0x3c5,
        "BTYPE, IL, UAO and SSBS are clear"
    );
    assert!(state(0, 1 << 20, 0).pan(), "PAN where SCTLR.SPAN is 0");
    assert!(!state(1 << 23, 1 << 20, 0).pan());
    assert!(state(1 << 44, 0, 1 << 4).ssbs());
    assert!(!state(1 << 44, 0, 0).ssbs());
    assert!(state(0, 0, 2 << 8).tco());
    assert!(!state(0, 0, 1 << 8).tco());
    assert!(state(0, 0, 1 << 36).allint());
    assert!(!state(1 << 62, 0, 1 << 36).allint());
}

#[test]
fn addresses_beside_the_vectors_are_none() {
    let file = vcpu(0x5);
    for offset in [0x4, 0x80, 0x100, 0x204, 0x280, 0x800] {
        assert!(!is_synchronous_vector(
            &file,
            Gva(0xffff_8000_0008_0000 + offset)
        ));
    }
}

#[test]
fn every_vector_is_told_from_what_is_beside_it() {
    let mut file = file();
    file.set_u64(r::VBAR_EL1, 0xffff_8000_0001_0800);
    for vector in 0..16 {
        let start = Gva(0xffff_8000_0001_0800 + vector * VECTOR_BYTES);
        assert!(is_vector(&file, start));
        assert!(!is_vector(&file, start.wrapping_add(4)));
        assert_eq!(is_synchronous_vector(&file, start), vector % 4 == 0);
    }
    assert!(!is_vector(&file, Gva(0xffff_8000_0001_1000)));
    assert!(!is_vector(&file, Gva(0xffff_8000_0001_0780)));
}
