use std::string::ToString;

use super::*;
use crate::aarch64::control::{Sctlr, Tcr};

fn at(cpsr: u64) -> RegisterFile {
    let mut registers = registers::file();
    registers.set_u64(registers::CPSR, cpsr);
    registers
}

fn mode(cpsr: u64) -> CpuMode {
    CpuMode::of(&at(cpsr))
}

#[test]
fn modes_of_aarch64_are_those_of_the_manual() {
    use ExceptionLevel::{El0, El1, El2, El3};
    for (bits, name, level) in [
        (0b0000, "EL0t", El0),
        (0b0100, "EL1t", El1),
        (0b0101, "EL1h", El1),
        (0b1000, "EL2t", El2),
        (0b1001, "EL2h", El2),
        (0b1100, "EL3t", El3),
        (0b1101, "EL3h", El3),
    ] {
        let mode = mode(0x6000_0000 | bits);
        assert_eq!(
            (mode.to_string().as_str(), mode.level()),
            (name, Some(level))
        );
        assert_eq!(mode.instruction_alignment_bytes(), 4);
    }
    for bits in [0b0001, 0b0010, 0b0111, 0b1110] {
        assert_eq!(mode(bits), CpuMode::Illegal);
        assert_eq!(mode(bits).level(), None);
    }
}

#[test]
fn aarch32_code_has_a_mode_and_an_instruction_set() {
    let user = mode(0b1_0000);
    assert_eq!(user.to_string(), "AArch32 User mode, A32");
    assert_eq!(user.level(), Some(ExceptionLevel::El0));
    let thumb = mode(0b11_0000);
    assert_eq!(thumb.to_string(), "AArch32 User mode, T32");
    assert_eq!(thumb.instruction_alignment_bytes(), 2);
    assert_eq!(mode(0b1_0011).level(), Some(ExceptionLevel::El1));
    assert_eq!(mode(0b1_1010).level(), Some(ExceptionLevel::El2));
    assert_eq!(mode(0b1_0110).level(), Some(ExceptionLevel::El3));
    assert_eq!(mode(0b1_0100), CpuMode::Illegal);
}

#[test]
fn a_signed_pointer_can_become_the_pc() {
    let mut registers = at(0b0101);
    Tcr::new().with_t0sz(16).with_t1sz(16).write(&mut registers);
    Sctlr::new().with_en_ia(true).write(&mut registers);
    set_pc(&mut registers, Gva(0x00b0_8000_1234_5678)).unwrap();
    assert_eq!(pc(&registers), Gva(0xffff_8000_1234_5678));
}

#[test]
fn the_pc_is_aligned() {
    let mut registers = at(0b0101);
    for odd in 1..4 {
        let pc = Gva(0x1000 + odd);
        let error = PcError::Misaligned {
            pc,
            alignment_bytes: 4,
        };
        assert_eq!(set_pc(&mut registers, pc), Err(error));
    }
    assert_eq!(pc(&registers), Gva(0));
    let mut thumb = at(0b11_0000);
    assert_eq!(set_pc(&mut thumb, Gva(0x1002)), Ok(()));
    assert!(set_pc(&mut thumb, Gva(0x1001)).is_err());
}

#[test]
fn the_stack_of_aarch32_is_in_x13() {
    let mut registers = at(0b1_0000);
    registers.set_u64(registers::X13, 0xffff_ffff_0000_1000);
    registers.set_u64(registers::SP, 0x5000);
    assert_eq!(sp(&registers), Gva(0x1000));
    assert_eq!(banked_sp(&registers), None);
    registers.set_u64(registers::CPSR, 0b0101);
    assert_eq!(sp(&registers), Gva(0x5000));
    assert_eq!(banked_sp(&registers), Some(registers::SP_EL1));
}
