use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use gimli::{BaseAddresses, CfaRule, DebugFrame, Encoding, EvaluationResult, Format as Width};
use gimli::{LittleEndian, Location, Register, RegisterRule, UnwindContext, UnwindSection};
use gimli::{UnwindTableRow, Value};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use crate::kallsyms::Kallsyms;
use crate::symbol_file::{Machine, SymbolFile};
use crate::testing::{FakeMemory, Format, Random, encode, plain};

const TEXT: u64 = 0xffff_8000_0801_0000;
const FRAME_POINTER: Register = Register(29);
const LINK_REGISTER: Register = Register(30);
const SP: Register = Register(31);
const PC: Register = Register(32);

const NOP: u32 = 0xd503_201f;
const PACIASP: u32 = 0xd503_233f;
const AUTIASP: u32 = 0xd503_23bf;
const RET: u32 = 0xd65f_03c0;
/// `stp x29, x30, [sp, #-48]!`, `mov x29, sp`, `ldp x29, x30, [sp], #48`.
const PUSH: u32 = 0xa9bd_7bfd;
const SET: u32 = 0x9100_03fd;
const POP: u32 = 0xa8c3_7bfd;
/// `bl` to itself.
const CALL: u32 = 0x9400_0000;

/// `cbz x0` ahead by that many instructions.
fn if_zero(distance: u32) -> u32 {
    0xb400_0000 | distance << 5
}

/// A kernel's symbol file, with its code.
struct Made {
    file: SymbolFile,
    code: FakeMemory,
}

/// Returns the file of a kernel of functions by name, one after the other.
fn kernel(functions: &[(&str, &[u32])]) -> Made {
    let mut bytes = Vec::new();
    let mut symbols = vec![plain(TEXT, 'T', "_text"), plain(TEXT, 'T', "_stext")];
    for (name, words) in functions {
        symbols.push(plain(TEXT + bytes.len() as u64, 't', name));
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    symbols.push(plain(TEXT + bytes.len() as u64, 'T', "_etext"));
    let encoded = encode(&symbols, Format::LINUX_6_1, TEXT);
    let symbols = Kallsyms::load_tables(&encoded.memory, &encoded.tables, None).unwrap();
    Made {
        file: SymbolFile::new(Arc::new(symbols), Machine::AARCH64, None, &[]),
        code: FakeMemory::new(TEXT, bytes),
    }
}

impl Made {
    fn whole(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.file.len()).unwrap()];
        assert_eq!(self.file.read_at(&self.code, 0, &mut bytes), bytes.len());
        bytes
    }

    fn frames(&self) -> Frames {
        let bytes = self.whole();
        let elf = ElfFile64::<object::LittleEndian>::parse(bytes.as_slice()).unwrap();
        let section = elf.section_by_name(".debug_frame").unwrap();
        Frames(section.data().unwrap().to_vec())
    }
}

/// A `.debug_frame`, read by an independent reader.
struct Frames(Vec<u8>);

impl Frames {
    fn section(&self) -> DebugFrame<gimli::EndianSlice<'_, LittleEndian>> {
        DebugFrame::new(&self.0, LittleEndian)
    }

    /// Returns the row of the instruction of that number.
    fn row(&self, at: u64) -> UnwindTableRow<usize> {
        let (bases, address) = (BaseAddresses::default(), TEXT + at * 4);
        let mut context = UnwindContext::new();
        let found =
            self.section()
                .unwind_info_for_address(&bases, &mut context, address, |s, b, o| {
                    s.cie_from_offset(b, o)
                });
        found.unwrap().clone()
    }

    fn is_signal(&self, at: u64) -> bool {
        let (bases, address) = (BaseAddresses::default(), TEXT + at * 4);
        let found = self
            .section()
            .fde_for_address(&bases, address, |s, b, o| s.cie_from_offset(b, o));
        found.unwrap().is_signal_trampoline()
    }

    fn cfa(&self, at: u64) -> (Register, i64) {
        match self.row(at).cfa() {
            CfaRule::RegisterAndOffset { register, offset } => (*register, *offset),
            CfaRule::Expression(_) => panic!("an expression at {at}"),
        }
    }

    /// Returns the caller's x29 and x30.
    fn caller(&self, at: u64, registers: [u64; 3], word: impl Fn(u64) -> u64) -> [u64; 2] {
        let [x29, x30, sp] = registers;
        let (base, offset) = self.cfa(at);
        let base = if base == SP { sp } else { x29 };
        let row = self.row(at);
        let encoding = Encoding {
            address_size: 8,
            format: Width::Dwarf32,
            version: 4,
        };
        let cfa = base.wrapping_add_signed(offset);
        let caller = match row.register(FRAME_POINTER) {
            Some(RegisterRule::SameValue) => x29,
            Some(RegisterRule::Offset(offset)) => word(cfa.wrapping_add_signed(offset)),
            rule => panic!("{rule:?} at {at}"),
        };
        let return_address = {
            let Some(RegisterRule::ValExpression(expression)) = row.register(LINK_REGISTER) else {
                panic!("no expression at {at}");
            };
            let section = self.section();
            let expression = expression.get(&section).unwrap();
            let mut evaluation = expression.evaluation(encoding);
            evaluation.set_initial_value(cfa);
            let mut result = evaluation.evaluate().unwrap();
            loop {
                result = match result {
                    EvaluationResult::RequiresRegister { register, .. } => {
                        let value = match register {
                            FRAME_POINTER => x29,
                            LINK_REGISTER => x30,
                            _ => sp,
                        };
                        evaluation.resume_with_register(Value::Generic(value))
                    }
                    EvaluationResult::RequiresMemory { address, .. } => {
                        evaluation.resume_with_memory(Value::Generic(word(address)))
                    }
                    EvaluationResult::Complete => break,
                    other => panic!("{other:?}"),
                }
                .unwrap();
            }
            match evaluation.result()[0].location {
                Location::Address { address } => address,
                ref other => panic!("{other:?}"),
            }
        };
        [caller, return_address]
    }
}

const ENTRY: (Register, i64) = (SP, 0);

/// `stp x29, x30, [sp, #-16]!`, `mov x29, sp`, `mov sp, x16`, `blr x1`, `mov sp, x29`,
/// `ldp x29, x30, [sp], #16`, `ret`.
const SWITCH: [u32; 7] = [
    0xa9bf_7bfd,
    SET,
    0x9100_021f,
    0xd63f_0020,
    0x9100_03bf,
    0xa8c1_7bfd,
    RET,
];

#[test]
fn a_function_is_followed_from_its_entry_to_its_end() {
    let code = [
        NOP, NOP, PACIASP, PUSH, SET, NOP, CALL, POP, AUTIASP, RET, NOP, CALL,
    ];
    let frames = kernel(&[("one", &code), ("two", &[RET])]).frames();
    for at in 0..4 {
        assert_eq!(frames.cfa(at), ENTRY, "{at}");
    }
    assert_eq!(frames.cfa(4), (SP, 48));
    for at in 5..8 {
        assert_eq!(frames.cfa(at), (FRAME_POINTER, 48), "{at}");
    }
    assert_eq!(frames.cfa(8), ENTRY);
    assert_eq!(frames.cfa(9), ENTRY);
    for at in 10..12 {
        assert_eq!(frames.cfa(at), (FRAME_POINTER, 48), "{at}");
    }
    assert_eq!(frames.cfa(12), ENTRY);
    assert!(!frames.is_signal(0));
}

#[test]
fn the_callers_registers_are_in_the_record_once_there_is_one() {
    const STACK: u64 = 0xffff_8000_0a00_1000;
    let code = [PACIASP, PUSH, SET, CALL, POP, AUTIASP, RET];
    let frames = kernel(&[("one", &code), ("two", &[RET])]).frames();
    let (caller, return_address) = (STACK + 0x40, TEXT + 0x1234);
    let signed = return_address & 0x007f_ffff_ffff_ffff | 0x5a80_0000_0000_0000 & !(1 << 47);
    let expected = [caller, return_address];
    let record = |address| match address - (STACK - 48) {
        0 => caller,
        8 => signed,
        other => panic!("a read at {other:#x}"),
    };
    // In the registers, signed or not.
    for (at, sp) in [
        (0, STACK),
        (1, STACK),
        (2, STACK - 48),
        (5, STACK),
        (6, STACK),
    ] {
        assert_eq!(frames.caller(at, [caller, signed, sp], record), expected);
        let plain = [caller, return_address, sp];
        assert_eq!(frames.caller(at, plain, record), expected, "{at}");
    }
    for at in [3, 4] {
        let here = [STACK - 48, 0x1111, STACK - 48];
        assert_eq!(frames.caller(at, here, record), expected, "{at}");
        // With more on the stack.
        let here = [STACK - 48, 0x1111, STACK - 96];
        assert_eq!(frames.caller(at, here, record), expected, "{at}");
    }
    // The end of the stack, and a caller on another stack.
    assert_eq!(frames.caller(3, [STACK, 0, STACK], |_| 0), [0, 0]);
    assert_eq!(frames.caller(0, [0, 0, STACK], |_| 7), [0, 0]);
    let below = STACK - 0x10_0000;
    let elsewhere = frames.caller(2, [below, return_address, STACK], |_| 7);
    assert_eq!(elsewhere, [below, return_address]);
}

#[test]
fn a_function_that_changes_stacks_has_its_record_on_the_first() {
    const STACK: u64 = 0xffff_8000_0a00_1000;
    let frames = kernel(&[("switch", &SWITCH), ("next", &[RET])]).frames();
    let record = |address| address & 0xff | 0xffff_8000_0801_0000;
    for sp in [STACK - 0x10_0000, STACK + 0x10_0000] {
        let found = frames.caller(4, [STACK, 0, sp], record);
        assert_eq!(found, [record(STACK), record(STACK + 8)]);
    }
}

#[test]
fn a_frame_may_have_its_record_above_other_things() {
    let code = [
        // sub sp, sp, #0x260; stp x29, x30, [sp, #16]; add x29, sp, #0x10
        0xd109_83ff,
        0xa901_7bfd,
        0x9100_43fd,
        CALL,
        // ldp x29, x30, [sp, #16]; add sp, sp, #0x260
        0xa941_7bfd,
        0x9109_83ff,
        RET,
    ];
    let frames = kernel(&[("large", &code)]).frames();
    let rows: Vec<_> = (0..7).map(|at| frames.cfa(at)).collect();
    let expected = [
        ENTRY,
        (SP, 0x260),
        (SP, 0x260),
        (FRAME_POINTER, 0x250),
        (FRAME_POINTER, 0x250),
        (SP, 0x260),
        ENTRY,
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_jump_carries_what_holds() {
    // The frame is made for one way only; the other is behind the return.
    let code = [if_zero(6), PUSH, SET, CALL, POP, RET, NOP, RET];
    let frames = kernel(&[("wrapped", &code)]).frames();
    assert_eq!(frames.cfa(3), (FRAME_POINTER, 48));
    assert_eq!(frames.cfa(6), ENTRY);
    assert_eq!(frames.cfa(7), ENTRY);
    // A branch back over it, or none, says nothing.
    let code = [NOP, PUSH, SET, CALL, POP, RET, NOP, RET];
    let frames = kernel(&[("framed", &code)]).frames();
    assert_eq!(frames.cfa(6), (FRAME_POINTER, 48));
}

#[test]
fn a_function_without_a_frame_may_use_the_stack() {
    let code = [
        // sub sp, sp, #32; str x0, [sp]; stp d8, d9, [sp, #-16]!; ldp d8, d9, [sp], #16; add sp, sp, #32
        0xd100_83ff,
        0xf900_03e0,
        0x6dbf_27e8,
        0x6cc1_27e8,
        0x9100_83ff,
        RET,
    ];
    let frames = kernel(&[("leaf", &code)]).frames();
    let offsets: Vec<_> = (0..6).map(|at| frames.cfa(at)).collect();
    assert_eq!(offsets, [0, 32, 32, 48, 32, 0].map(|offset| (SP, offset)));
}

#[test]
fn code_without_a_frame_that_calls_keeps_to_the_record_it_has() {
    let traced = [0xaa1e_03e9, CALL, PUSH, SET, CALL, POP, RET];
    let frames = kernel(&[
        ("ret_from_fork", &[CALL, NOP, CALL]),
        ("traced", &traced),
        ("framed.cold", &[NOP, CALL]),
    ])
    .frames();
    let record = (FRAME_POINTER, 16);
    assert_eq!(frames.cfa(0), ENTRY);
    assert_eq!(frames.cfa(1), record);
    assert_eq!(frames.cfa(5), ENTRY, "the call for tracing gives x30 back");
    assert_eq!(frames.cfa(7), (FRAME_POINTER, 48));
    assert_eq!(frames.cfa(10), record, "what is jumped to has a frame");
}

#[test]
fn a_function_that_changes_stacks_is_a_signal_frame() {
    let restore = [PUSH, SET, CALL, 0x9100_03bf, POP, RET];
    let frames = kernel(&[("switch", &SWITCH), ("restore", &restore)]).frames();
    assert!(frames.is_signal(4));
    assert_eq!(frames.cfa(4), (FRAME_POINTER, 16));
    assert_eq!(frames.cfa(6), ENTRY);
    assert!(!frames.is_signal(7));
}

/// `stp x0, x1, [sp]`, `stp x22, x23, [sp, #256]`, and its load.
const STORE_FIRST: u32 = 0xa900_07e0;
const STORE_PC: u32 = 0xa910_5ff6;
const LOAD_PC: u32 = 0xa950_5bf5;

#[test]
fn exceptions_unwind_by_the_registers_they_saved() {
    // stp x29, x22, [sp, #304], or stp xzr, xzr, [sp, #304].
    let from_kernel = [STORE_FIRST, 0xa913_5bfd, STORE_PC, CALL, CALL];
    let from_user = [NOP, STORE_FIRST, 0xa913_7fff, STORE_PC, CALL];
    let frames = kernel(&[("el1h_64_irq", &from_kernel), ("el0t_64_sync", &from_user)]).frames();
    for (first, saved, is_signal) in [(0, 3, true), (5, 9, false)] {
        assert_eq!(frames.is_signal(first), is_signal);
        let early = frames.row(first).register(PC);
        assert_eq!(early, Some(RegisterRule::Undefined));
        let row = frames.row(saved);
        assert_eq!(frames.cfa(saved), (SP, 272));
        for number in 0..33 {
            let place = i64::from(number) * 8 - 272;
            let rule = row.register(Register(number));
            assert_eq!(rule, Some(RegisterRule::Offset(place)), "{number}");
        }
    }
}

#[test]
fn the_return_of_an_exception_unwinds_as_its_entry() {
    // msr elr_el1, x21; msr sp_el0, x23; add sp, sp, #336; eret
    let (set, user, pop, leave) = (0xd518_4035, 0xd518_4117, 0x9105_43ff, 0xd69f_03e0);
    let to_kernel = [NOP, CALL, LOAD_PC, set, pop, leave];
    let to_user = [NOP, CALL, LOAD_PC, set, user, pop, leave];
    let frames = kernel(&[("ret_to_kernel", &to_kernel), ("ret_to_user", &to_user)]).frames();
    for (first, last, is_signal) in [(0, 5, true), (6, 12, false)] {
        assert_eq!(frames.is_signal(first), is_signal);
        for at in first..last {
            let rule = frames.row(at).register(PC);
            assert_eq!(rule, Some(RegisterRule::Offset(-16)), "{at}");
        }
        let popped = frames.row(last).register(PC);
        assert_eq!(popped, Some(RegisterRule::Undefined));
    }
}

#[test]
fn ends_for_which_there_is_no_room_are_left_out() {
    let mut code = vec![PUSH, SET];
    for _ in 0..6 {
        code.extend([NOP, POP, RET]);
    }
    code.push(NOP);
    let frames = kernel(&[("many_ends", &code), ("next", &[RET])]).frames();
    assert_eq!(frames.cfa(4), ENTRY);
    let framed = (FRAME_POINTER, 48);
    for at in (2..21).step_by(3) {
        assert_eq!(frames.cfa(at), framed, "{at}");
    }
    assert_eq!(frames.cfa(21), ENTRY);
}

#[test]
fn code_that_cannot_be_read_is_taken_for_a_callers() {
    let mut made = kernel(&[("one", &[NOP, NOP]), ("two", &[NOP, RET])]);
    made.code.bytes.clear();
    let frames = made.frames();
    assert_eq!(frames.cfa(3), (FRAME_POINTER, 16));
}

#[test]
fn symbols_of_the_same_address_are_described_once() {
    let frames = kernel(&[("one", &[]), ("alias", &[PUSH, SET, RET])]).frames();
    let section = frames.section();
    let bases = BaseAddresses::default();
    let mut entries = section.entries(&bases);
    let (mut cies, mut fdes) = (0, 0);
    while let Some(entry) = entries.next().unwrap() {
        match entry {
            gimli::CieOrFde::Cie(_) => cies += 1,
            gimli::CieOrFde::Fde(_) => fdes += 1,
        }
    }
    // `_text`, `_stext` and `one` are where `alias` is.
    assert_eq!((cies, fdes), (4 + 3, 1));
}

#[test]
fn any_code_gives_a_section_that_can_be_read_in_parts() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let words = [
        PUSH,
        SET,
        POP,
        RET,
        CALL,
        STORE_FIRST,
        STORE_PC,
        LOAD_PC,
        0xd518_4035,
        0x9105_43ff,
        0xd109_83ff,
        0xa901_7bfd,
        if_zero(3),
        0x1400_0004,
        0x9100_021f,
    ];
    for _ in 0..200 {
        let mut word = |_| match random.below(20) {
            0 => u32::from_le_bytes([(); 4].map(|()| random.byte())),
            _ => words[random.below(words.len())],
        };
        let code: Vec<u32> = (0..300).map(&mut word).collect();
        let parts: Vec<_> = code.chunks(37).map(|part| ("part", part)).collect();
        let made = kernel(&parts);
        let (whole, frames) = (made.whole(), made.frames());
        for at in 0..300 {
            frames.row(at);
        }
        for _ in 0..20 {
            let start = random.below(whole.len());
            let mut part = vec![0; random.below(300)];
            let count = made.file.read_at(&made.code, start as u64, &mut part);
            let expected = &whole[start..(start + part.len()).min(whole.len())];
            assert_eq!(&part[..count], expected);
        }
    }
}
