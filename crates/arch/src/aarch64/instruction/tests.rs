use std::{vec, vec::Vec};

use super::*;
use crate::{
    Gva, RegisterFile,
    aarch64::{
        control::{Sctlr, Tcr},
        debug::{Access, LoadStore},
        registers,
    },
};

/// x0 is 0, every other register `0x1_0000` times its number, sp `0x80_0000` and pc `0x40_0000`.
fn file() -> RegisterFile {
    let mut registers = registers::file();
    for number in 0..31 {
        let value = 0x1_0000 * u64::from(number);
        registers.set_u64(registers::x(number).unwrap(), value);
    }
    registers.set_u64(registers::SP, 0x80_0000);
    registers.set_u64(registers::PC, 0x40_0000);
    registers.set_u64(registers::DCZID_EL0, 4);
    registers
}

fn class(word: u32) -> StepClass {
    Instruction(word).step_class()
}

#[test]
fn what_a_stepper_must_know_is_told() {
    use StepClass::{
        Breakpoint, ClearExclusive, ExceptionReturn, Halt, HypervisorCall, IndirectBranch,
        LoadExclusive, Plain, SecureMonitorCall, StoreExclusive, SupervisorCall, WaitForEvent,
        WaitForInterrupt, WritePstateField,
    };
    // What llvm-mc makes of the text on the right.
    for (word, expected) in [
        (0xd400_0021, SupervisorCall),                      // svc #1
        (0xd400_0042, HypervisorCall),                      // hvc #2
        (0xd400_0063, SecureMonitorCall),                   // smc #3
        (0xd428_4840, Breakpoint { comment: 0x4242 }),      // brk #0x4242
        (0xd440_00a0, Halt),                                // hlt #5
        (0xd69f_03e0, ExceptionReturn),                     // eret
        (0xd69f_0bff, ExceptionReturn),                     // eretaa
        (0xd503_207f, WaitForInterrupt),                    // wfi
        (0xd503_205f, WaitForEvent),                        // wfe
        (0xd503_1021, WaitForInterrupt),                    // wfit x1
        (0xd503_1001, WaitForEvent),                        // wfet x1
        (0xd503_3f5f, ClearExclusive),                      // clrex
        (0xd503_335f, ClearExclusive),                      // clrex #3
        (0xd503_42df, WritePstateField { op1: 3, op2: 6 }), // msr daifset, #2
        (0xd500_41bf, WritePstateField { op1: 0, op2: 5 }), // msr spsel, #1
        (0xd500_419f, WritePstateField { op1: 0, op2: 4 }), // msr pan, #1
        (0xd50b_7e20, Plain),                               // dc civac, x0
        (0xd508_871f, Plain),                               // tlbi vmalle1
        (0xd503_3fdf, Plain),                               // isb
        (0xd503_201f, Plain),                               // nop
        (0xd65f_03c0, IndirectBranch),                      // ret
        (0xd65f_0bff, IndirectBranch),                      // retaa
        (0xd61f_0020, IndirectBranch),                      // br x1
        (0xd73f_0822, IndirectBranch),                      // blraa x1, x2
        (0x085f_fc20, LoadExclusive),                       // ldaxrb w0, [x1]
        (0xc800_fc22, StoreExclusive),                      // stlxr w0, x2, [x1]
        (0xc87f_8820, LoadExclusive),                       // ldaxp x0, x2, [x1]
        (0x8824_0820, StoreExclusive),                      // stxp w4, w0, w2, [x1]
        (0xc8e0_fc22, Plain),                               // casal x0, x2, [x1]
        (0x4860_fc82, Plain),                               // caspal x0, x1, x2, x3, [x4]
        (0xc89f_fc20, Plain),                               // stlr x0, [x1]
    ] {
        assert_eq!(class(word), expected, "{word:#010x}");
    }
}

#[test]
fn system_registers_are_named() {
    let register = |op0, op1, crn, crm, op2| SystemRegister {
        op0,
        op1,
        crn,
        crm,
        op2,
    };
    // mrs x0, sctlr_el1
    let sctlr = register(3, 0, 1, 0, 0);
    assert_eq!(class(0xd538_1000), StepClass::ReadSystemRegister(sctlr));
    // msr mdscr_el1, x0
    let mdscr = register(2, 0, 0, 2, 2);
    assert_eq!(class(0xd510_0240), StepClass::WriteSystemRegister(mdscr));
    // mrs x0, cntvct_el0
    let cntvct = register(3, 3, 14, 0, 2);
    assert_eq!(class(0xd53b_e040), StepClass::ReadSystemRegister(cntvct));
}

#[test]
fn direct_branches_have_a_target() {
    let branch = |word| Instruction(word).branch(Gva(0x1000));
    assert_eq!(branch(0x1400_0002), Some(Branch::Always(Gva(0x1008))));
    assert_eq!(branch(0x97ff_ffff), Some(Branch::Call(Gva(0xffc))));
    assert_eq!(branch(0x5400_0061), Some(Branch::Conditional(Gva(0x100c))));
    assert_eq!(branch(0xb4ff_ffc0), Some(Branch::Conditional(Gva(0xff8))));
    assert_eq!(branch(0xb740_0080), Some(Branch::Conditional(Gva(0x1010))));
    assert_eq!(branch(0xd503_201f), None);
    assert_eq!(branch(0xd65f_03c0), None);
    let wrapped = Instruction(0x97ff_ffff).branch(Gva(0));
    assert_eq!(wrapped.map(Branch::target), Some(Gva(u64::MAX - 3)));
}

#[test]
fn breakpoints_are_brk_0() {
    let brk = Instruction::from_bytes(&BRK).unwrap();
    assert_eq!(brk.step_class(), StepClass::Breakpoint { comment: 0 });
    assert_eq!(Instruction::from_bytes(&BRK[..3]), None);
}

#[test]
fn accesses_are_where_the_instruction_makes_them() {
    use LoadStore::{Both, Load, Store};
    // What llvm-mc makes of the text on the right.
    for (word, address, len_bytes, kind) in [
        (0xf940_0420, 0x1_0008, 8, Load),    // ldr x0, [x1, #8]
        (0x3940_0c20, 0x1_0003, 1, Load),    // ldrb w0, [x1, #3]
        (0x3d80_0be5, 0x80_0020, 16, Store), // str q5, [sp, #32]
        (0xf841_0420, 0x1_0000, 8, Load),    // ldr x0, [x1], #16
        (0xb81f_cc20, 0xfffc, 4, Store),     // str w0, [x1, #-4]!
        (0x7c5f_f023, 0xffff, 2, Load),      // ldur h3, [x1, #-1]
        (0xf862_7820, 0x11_0000, 8, Load),   // ldr x0, [x1, x2, lsl #3]
        (0x7862_d820, 0x5_0000, 2, Load),    // ldrh w0, [x1, w2, sxtw #1]
        (0x5800_0080, 0x40_0010, 8, Load),   // ldr x0, .+16
        (0x1cff_ffe0, 0x3f_fffc, 4, Load),   // ldr s0, .-4
        (0xa97f_0420, 0xfff0, 16, Load),     // ldp x0, x1, [x1, #-16]
        (0xac81_0420, 0x1_0000, 32, Store),  // stp q0, q1, [x1], #32
        (0x6940_8820, 0x1_0004, 8, Load),    // ldpsw x0, x2, [x1, #4]
        (0xa841_0c20, 0x1_0010, 16, Load),   // ldnp x0, x3, [x1, #16]
        (0xc85f_7c20, 0x1_0000, 8, Load),    // ldxr x0, [x1]
        (0xc823_9424, 0x1_0000, 16, Store),  // stlxp w3, x4, x5, [x1]
        (0x4822_7c24, 0x1_0000, 16, Both),   // casp x2, x3, x4, x5, [x1]
        (0x88a2_7c23, 0x1_0000, 4, Both),    // cas w2, w3, [x1]
        (0x88df_fc20, 0x1_0000, 4, Load),    // ldar w0, [x1]
        (0xf822_0023, 0x1_0000, 8, Both),    // ldadd x2, x3, [x1]
        (0x3822_8023, 0x1_0000, 1, Both),    // swpb w2, w3, [x1]
        (0xf8bf_c020, 0x1_0000, 8, Load),    // ldapr x0, [x1]
        (0xf83f_d024, 0x1_0000, 64, Load),   // ld64b x4, [x1]
        (0x4c40_0020, 0x1_0000, 64, Load),   // ld4 {v0.16b-v3.16b}, [x1]
        (0x0c9f_7020, 0x1_0000, 8, Store),   // st1 {v0.8b}, [x1], #8
        (0x0d40_b020, 0x1_0000, 12, Load),   // ld3 {v0.s, v1.s, v2.s}[1], [x1]
        (0x4d60_cc20, 0x1_0000, 16, Load),   // ld2r {v0.2d, v1.2d}, [x1]
        (0x4d20_8420, 0x1_0000, 16, Store),  // st2 {v0.d, v1.d}[1], [x1]
        (0xd50b_7421, 0x1_0000, 64, Store),  // dc zva, x1
        (0xd960_0821, 0x1_0000, 16, Store),  // stzg x1, [x1]
        (0xf87f_f420, 0xfff8, 8, Load),      // ldraa x0, [x1, #-8]
        (0x9940_4020, 0x1_0004, 4, Load),    // ldapur w0, [x1, #4]
        (0xb980_0420, 0x1_0004, 4, Load),    // ldrsw x0, [x1, #4]
        (0x7800_2820, 0x1_0002, 2, Store),   // sttrh w0, [x1, #2]
    ] {
        let expected = Access {
            address: Gva(address),
            len_bytes,
            kind,
        };
        assert_eq!(
            Instruction(word).access(&file()),
            Some(expected),
            "{word:#010x}"
        );
    }
}

#[test]
fn what_touches_no_data_has_no_access() {
    // add; dc cvac; st2g, which writes allocation tags alone; prfm; fmov; nop; ret; an SVE load.
    for word in [
        0x8b02_0020,
        0xd50b_7a21,
        0xd9a0_0821,
        0xf980_0020,
        0x1e60_4020,
        0xd503_201f,
        0xd65f_03c0,
        0xa400_a020,
    ] {
        assert_eq!(Instruction(word).access(&file()), None, "{word:#010x}");
    }
}

#[test]
fn dc_zva_clears_the_block_around_its_address() {
    let mut registers = file();
    registers.set_u64(registers::X1, 0x1_0077);
    let access = Instruction(0xd50b_7421).access(&registers).unwrap();
    assert_eq!((access.address, access.len_bytes), (Gva(0x1_0040), 64));
    registers.set_u64(registers::DCZID_EL0, 9);
    let access = Instruction(0xd50b_7421).access(&registers).unwrap();
    assert_eq!((access.address, access.len_bytes), (Gva(0x1_0000), 2048));
}

#[test]
fn negative_indices_are_extended() {
    let mut registers = file();
    registers.set_u64(registers::X2, 0xffff_ffff);
    let address = |word: u32| Instruction(word).access(&registers).unwrap().address;
    // ldrh w0, [x1, w2, sxtw #1] and the same with uxtw.
    assert_eq!(address(0x7862_d820), Gva(0xfffe));
    assert_eq!(address(0x7862_5820), Gva(0x2_0000_fffe));
}

#[test]
fn accesses_have_no_tags() {
    let mut registers = file();
    let tcr = Tcr::new().with_t0sz(16).with_t1sz(16).with_tbi0(true);
    tcr.write(&mut registers);
    registers.set_u64(registers::X1, 0xab00_0000_0001_0000);
    let address =
        |registers: &RegisterFile, word: u32| Instruction(word).access(registers).unwrap().address;
    assert_eq!(address(&registers, 0xf940_0420), Gva(0x1_0008));
    // ldraa authenticates: the signature goes before the offset is added.
    Sctlr::new().with_en_da(true).write(&mut registers);
    registers.set_u64(registers::X1, 0xab5a_0000_0001_0000);
    assert_eq!(address(&registers, 0xf87f_f420), Gva(0xfff8));
}

#[test]
fn every_word_is_decoded_without_harm() {
    let registers = file();
    let mut word: u32 = 1;
    for _ in 0..500_000 {
        word = word.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
        let instruction = Instruction(word.rotate_left(13));
        assert_ne!(
            (
                instruction.step_class(),
                instruction.branch(Gva(u64::MAX - 3))
            ),
            (StepClass::LoadExclusive, Some(Branch::Always(Gva(0))))
        );
        if let Some(access) = instruction.access(&registers) {
            assert!(access.len_bytes.is_power_of_two() || access.len_bytes % 3 == 0);
            assert!(access.len_bytes <= 128);
        }
    }
}

const LDXR: u32 = 0xc85f_7c20; // ldxr x0, [x1]
const STXR: u32 = 0xc800_fc22; // stlxr w0, x2, [x1]
const LDXP: u32 = 0xc87f_8820; // ldaxp x0, x2, [x1]
const STXP: u32 = 0x8824_0820; // stxp w4, w0, w2, [x1]
const NOP: u32 = 0xd503_201f;
const CLREX: u32 = 0xd503_3f5f;

fn cbnz(words: i32) -> u32 {
    0x3500_0000 | (words.cast_unsigned() & 0x7_ffff) << 5
}

fn b(words: i32) -> u32 {
    0x1400_0000 | words.cast_unsigned() & 0x3ff_ffff
}

fn sequence(words: &[u32]) -> Option<ExclusiveSequence> {
    let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ExclusiveSequence::at(Gva(0x1000), &code)
}

fn straight(end: u64) -> Option<ExclusiveSequence> {
    Some(ExclusiveSequence {
        end: Gva(end),
        exits: vec![],
        inner_loop: InnerLoop::Absent,
    })
}

#[test]
fn a_sequence_ends_behind_the_store_exclusive() {
    assert_eq!(sequence(&[LDXR, NOP, STXR, cbnz(-3)]), straight(0x100c));
    assert_eq!(sequence(&[LDXR, STXR]), straight(0x1008));
    assert_eq!(sequence(&[LDXP, NOP, NOP, STXP]), straight(0x1010));
}

#[test]
fn branches_out_of_a_sequence_are_exits() {
    // cmpxchg: leaves without storing; through clrex, too.
    let found = sequence(&[LDXR, cbnz(8), cbnz(8), CLREX, cbnz(-0x20), STXR, cbnz(-6)]).unwrap();
    assert_eq!(found.end, Gva(0x1018));
    assert_eq!(found.exits, [Gva(0xf90), Gva(0x1024), Gva(0x1028)]);
    assert_eq!(found.inner_loop, InnerLoop::Absent);
    // The same target twice, and one that is the end.
    let found = sequence(&[LDXR, cbnz(8), b(7), cbnz(2), STXR]).unwrap();
    assert_eq!(found.exits, [Gva(0x1024)]);
    assert_eq!(found.end, Gva(0x1014));
}

#[test]
fn a_sequence_that_waits_is_known_to_go_round() {
    // A spin lock: ldaxr; cbnz back; stxr.
    let found = sequence(&[LDXR, cbnz(-1), STXR, cbnz(-3)]).unwrap();
    assert_eq!(
        (found.exits.len(), found.inner_loop),
        (0, InnerLoop::Present)
    );
    // Waiting in front of the sequence is an exit, and no inner loop.
    let found = sequence(&[LDXR, cbnz(-2), STXR]).unwrap();
    assert_eq!(
        (found.exits, found.inner_loop),
        (vec![Gva(0xffc)], InnerLoop::Absent)
    );
    // Forward branches inside are neither.
    assert_eq!(sequence(&[LDXR, cbnz(2), NOP, STXR]), straight(0x1010));
}

#[test]
fn what_is_no_sequence_is_not_found() {
    assert_eq!(sequence(&[]), None);
    assert_eq!(sequence(&[NOP, LDXR, STXR]), None);
    assert_eq!(sequence(&[STXR]), None);
    assert_eq!(sequence(&[LDXR, NOP, NOP]), None);
    let cut = [LDXR.to_le_bytes(), STXR.to_le_bytes()].concat();
    assert_eq!(ExclusiveSequence::at(Gva(0), &cut[..7]), None);
    // svc, brk, eret, wfe, ret, br and bl: what follows is not known.
    for word in [
        0xd400_0021,
        0xd428_4840,
        0xd69f_03e0,
        0xd503_205f,
        0xd65f_03c0,
        0xd61f_0020,
        0x97ff_ffff,
    ] {
        assert_eq!(sequence(&[LDXR, word, STXR]), None, "{word:#010x}");
    }
}

#[test]
fn sequences_are_no_longer_than_the_architecture_promises() {
    let of_len = |len: usize| {
        let mut words = vec![NOP; len];
        words[0] = LDXR;
        words[len - 1] = STXR;
        sequence(&words)
    };
    assert!(of_len(MAX_SEQUENCE_INSTRUCTIONS).is_some());
    assert_eq!(of_len(MAX_SEQUENCE_INSTRUCTIONS + 1), None);
}

#[test]
fn a_sequence_at_the_end_of_the_address_space_ends() {
    let code = [LDXR.to_le_bytes(), STXR.to_le_bytes()].concat();
    let found = ExclusiveSequence::at(Gva(u64::MAX - 7), &code).unwrap();
    assert_eq!(found.end, Gva(0));
}

#[test]
fn instructions_are_written_with_the_addresses_they_refer_to() {
    let words: [u32; 9] = [
        0xd503_201f, // nop
        0x9400_0010, // bl pc + 0x40
        0x54ff_ffe0, // b.eq pc - 4
        0xb000_0000, // adrp x0, page + 1
        0x1000_0080, // adr x0, pc + 0x10
        0x3618_0080, // tbz w0, #3, pc + 0x10
        0x5800_0081, // ldr x1, pc + 0x10
        0xf940_0420, // ldr x0, [x1, #8]
        0xffff_ffff, // not allocated
    ];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let lines = disassemble(&bytes, 0xffff_8000_0008_0ff0, 9);
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "nop",
            "bl 0xffff800000081034",
            "b.eq 0xffff800000080ff4",
            "adrp x0, 0xffff800000081000",
            "adr x0, 0xffff800000081010",
            "tbz w0, #0x3, 0xffff800000081014",
            "ldr x1, 0xffff800000081018",
            "ldr x0, [x1, #0x8]",
            ".inst 0xffffffff",
        ]
    );
    assert_eq!(lines[1].ip, 0xffff_8000_0008_0ff4);
    assert_eq!(disassemble(&bytes[..7], 0, 9).len(), 1);
}
