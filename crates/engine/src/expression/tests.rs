use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

use super::*;

mod jumps;
mod samples;

const MINUS_ONE: u64 = u64::MAX;
const MINIMUM: u64 = 1 << 63;

/// Returns the cell that stands for `-value`.
const fn minus(value: u64) -> u64 {
    value.wrapping_neg()
}

/// Registers and memory by number and address; what is not there cannot be read.
#[derive(Default)]
struct Model {
    registers: BTreeMap<u16, u64>,
    memory: BTreeMap<u64, u8>,
    big_endian: bool,
}

impl Model {
    fn with_memory(mut self, address: u64, bytes: &[u8]) -> Self {
        self.memory.extend((address..).zip(bytes.iter().copied()));
        self
    }

    fn with_register(mut self, number: u16, value: u64) -> Self {
        self.registers.insert(number, value);
        self
    }
}

impl Environment for Model {
    fn register(&mut self, number: u16) -> Option<u64> {
        self.registers.get(&number).copied()
    }

    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool {
        (address.0..).zip(buffer).all(|(address, byte)| {
            let found = self.memory.get(&address);
            *byte = found.copied().unwrap_or(0);
            found.is_some()
        })
    }

    fn big_endian(&self) -> bool {
        self.big_endian
    }
}

fn run_in(environment: &mut Model, bytecode: &[u8]) -> Result<u64, EvaluateError> {
    Expression::parse(bytecode)
        .expect("a valid program")
        .evaluate(environment)
}

fn run(bytecode: &[u8]) -> Result<u64, EvaluateError> {
    run_in(&mut Model::default(), bytecode)
}

fn constant(value: u64) -> Vec<u8> {
    let mut bytecode = vec![opcode::CONST64];
    bytecode.extend(value.to_be_bytes());
    bytecode
}

/// Pushes `operands`, executes `instructions`, and returns the top.
fn apply(instructions: &[u8], operands: &[u64]) -> Result<u64, EvaluateError> {
    let mut bytecode: Vec<u8> = operands.iter().copied().flat_map(constant).collect();
    bytecode.extend(instructions);
    bytecode.push(opcode::END);
    run(&bytecode)
}

/// Pushes `operands`, executes `instructions`, and returns all of the stack, its top last.
fn stack_after(instructions: &[u8], operands: &[u64]) -> Vec<u64> {
    let mut instructions = instructions.to_vec();
    let mut stack = Vec::new();
    while let Ok(top) = apply(&instructions, operands) {
        stack.insert(0, top);
        instructions.push(opcode::POP);
    }
    stack
}

#[test]
fn functions_of_two_values() {
    use opcode as op;
    for (opcode, a, b, expected) in [
        (op::ADD, 2, 3, 5),
        (op::ADD, MINUS_ONE, 2, 1),
        (op::SUB, 7, 3, 4),
        (op::SUB, 3, 7, minus(4)),
        (op::MUL, 6, 7, 42),
        (op::MUL, MINUS_ONE, 5, minus(5)),
        (op::MUL, MINIMUM, 2, 0),
        (op::DIV_SIGNED, minus(7), 2, minus(3)),
        (op::DIV_SIGNED, MINIMUM, MINUS_ONE, MINIMUM),
        (op::DIV_UNSIGNED, MINUS_ONE, 2, u64::MAX / 2),
        (op::REM_SIGNED, minus(7), 2, MINUS_ONE),
        (op::REM_SIGNED, 7, minus(2), 1),
        (op::REM_SIGNED, MINIMUM, MINUS_ONE, 0),
        (op::REM_UNSIGNED, MINUS_ONE, 10, 5),
        (op::LSH, 3, 4, 48),
        (op::LSH, 1, 63, MINIMUM),
        (op::LSH, 1, 64, 0),
        (op::LSH, 1, MINUS_ONE, 0),
        (op::LSH, 1, 1 << 32, 0),
        (op::RSH_SIGNED, MINIMUM, 62, minus(2)),
        (op::RSH_SIGNED, MINIMUM, 64, MINUS_ONE),
        (op::RSH_SIGNED, MINIMUM, 1 << 32, MINUS_ONE),
        (op::RSH_SIGNED, 1 << 62, MINUS_ONE, 0),
        (op::RSH_UNSIGNED, MINIMUM, 62, 2),
        (op::RSH_UNSIGNED, MINUS_ONE, 64, 0),
        (op::RSH_UNSIGNED, MINUS_ONE, MINUS_ONE, 0),
        (op::BIT_AND, 0b1100, 0b1010, 0b1000),
        (op::BIT_OR, 0b1100, 0b1010, 0b1110),
        (op::BIT_XOR, 0b1100, 0b1010, 0b0110),
        (op::EQUAL, MINUS_ONE, MINUS_ONE, 1),
        (op::EQUAL, 1, 1 << 32 | 1, 0),
        (op::LESS_SIGNED, MINUS_ONE, 0, 1),
        (op::LESS_SIGNED, 0, MINUS_ONE, 0),
        (op::LESS_SIGNED, 4, 4, 0),
        (op::LESS_UNSIGNED, MINUS_ONE, 0, 0),
        (op::LESS_UNSIGNED, 0, MINUS_ONE, 1),
        (op::LESS_UNSIGNED, 4, 4, 0),
    ] {
        let case = (opcode, a, b);
        assert_eq!(
            stack_after(&[opcode], &[99, a, b]),
            [99, expected],
            "{case:x?}"
        );
    }
}

#[test]
fn functions_of_one_value() {
    for (instruction, a, expected) in [
        ([opcode::LOG_NOT].as_slice(), 0, 1),
        (&[opcode::LOG_NOT], 1, 0),
        (&[opcode::LOG_NOT], 1 << 63, 0),
        (&[opcode::BIT_NOT], 0xff, !0xff),
        (&[opcode::EXT, 8], 0x1f8, minus(8)),
        (&[opcode::EXT, 8], 0x178, 0x78),
        (&[opcode::ZERO_EXT, 8], 0x1f8, 0xf8),
    ] {
        assert_eq!(
            stack_after(instruction, &[99, a]),
            [99, expected],
            "{instruction:x?} {a:x}"
        );
    }
}

#[test]
fn extensions_keep_any_number_of_bits() {
    for value in [
        0,
        1,
        MINUS_ONE,
        MINIMUM,
        0x5555_5555_5555_5555,
        0xaaaa_aaaa_aaaa_aaaa,
    ] {
        for bits in 0..=u8::MAX {
            let mask = u64::try_from((1_u128 << bits.min(64)) - 1).unwrap();
            let is_negative = bits > 0 && bits < 64 && value >> (bits - 1) & 1 == 1;
            let zero = value & mask;
            let sign = if is_negative { zero | !mask } else { zero };
            assert_eq!(
                apply(&[opcode::ZERO_EXT, bits], &[value]),
                Ok(zero),
                "{value:x} {bits}"
            );
            assert_eq!(
                apply(&[opcode::EXT, bits], &[value]),
                Ok(sign),
                "{value:x} {bits}"
            );
        }
    }
}

#[test]
fn constants_are_unsigned_and_big_endian() {
    let bytes = [0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88];
    for (opcode, len, expected) in [
        (opcode::CONST8, 1, 0x81),
        (opcode::CONST16, 2, 0x8182),
        (opcode::CONST32, 4, 0x8182_8384),
        (opcode::CONST64, 8, 0x8182_8384_8586_8788),
    ] {
        let bytecode = [&[opcode], &bytes[..len], &[opcode::END]].concat();
        assert_eq!(run(&bytecode), Ok(expected));
    }
}

#[test]
fn registers_are_numbered_with_two_bytes() {
    let mut model = Model::default().with_register(0x0102, 77);
    assert_eq!(
        run_in(&mut model, &[opcode::REG, 1, 2, opcode::END]),
        Ok(77)
    );
    assert_eq!(
        run_in(&mut model, &[opcode::REG, 2, 1, opcode::END]),
        Err(EvaluateError::Register { number: 0x0201 })
    );
}

#[test]
fn references_are_unsigned_and_in_the_order_of_the_guest() {
    for (opcode, little, big) in [
        (opcode::REF8, 0x81, 0x81),
        (opcode::REF16, 0x8281, 0x8182),
        (opcode::REF32, 0x8483_8281, 0x8182_8384),
        (opcode::REF64, 0x8887_8685_8483_8281, 0x8182_8384_8586_8788),
    ] {
        let bytes = [0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88];
        let mut model = Model::default().with_memory(0x1003, &bytes);
        let bytecode = [constant(0x1003), vec![opcode, opcode::END]].concat();
        assert_eq!(run_in(&mut model, &bytecode), Ok(little));
        model.big_endian = true;
        assert_eq!(run_in(&mut model, &bytecode), Ok(big));
    }
}

#[test]
fn reference_to_missing_memory_names_its_address() {
    let mut model = Model::default().with_memory(0x1000, &[1, 2, 3]);
    let bytecode = [constant(0x1000), vec![opcode::REF32, opcode::END]].concat();
    assert_eq!(
        run_in(&mut model, &bytecode),
        Err(EvaluateError::Memory {
            address: Gva(0x1000)
        })
    );
}

#[test]
fn division_by_zero_is_an_error() {
    for opcode in [
        opcode::DIV_SIGNED,
        opcode::DIV_UNSIGNED,
        opcode::REM_SIGNED,
        opcode::REM_UNSIGNED,
    ] {
        assert_eq!(
            apply(&[opcode], &[MINIMUM, 0]),
            Err(EvaluateError::DivisionByZero)
        );
    }
}

#[test]
fn stack_instructions_move_cells() {
    assert_eq!(stack_after(&[opcode::DUP], &[1, 2]), [1, 2, 2]);
    assert_eq!(stack_after(&[opcode::POP], &[1, 2]), [1]);
    assert_eq!(stack_after(&[opcode::SWAP], &[1, 2, 3]), [1, 3, 2]);
    assert_eq!(stack_after(&[opcode::ROT], &[0, 1, 2, 3]), [0, 3, 1, 2]);
    assert_eq!(stack_after(&[opcode::PICK, 0], &[1, 2, 3]), [1, 2, 3, 3]);
    assert_eq!(stack_after(&[opcode::PICK, 2], &[1, 2, 3]), [1, 2, 3, 1]);
}

#[test]
fn trace_instructions_only_pop() {
    assert_eq!(stack_after(&[opcode::TRACE], &[1, 2, 3]), [1]);
    assert_eq!(stack_after(&[opcode::TRACENZ], &[1, 2, 3]), [1]);
    assert_eq!(
        stack_after(&[opcode::TRACE_QUICK, 4], &[1, 2, 3]),
        [1, 2, 3]
    );
    assert_eq!(stack_after(&[opcode::TRACE16, 4, 0], &[1, 2, 3]), [1, 2, 3]);
}

/// Every supported opcode: the length of its operand in bytes and how many cells it needs.
const SUPPORTED: [(u8, usize, usize); 41] = [
    (opcode::ADD, 0, 2),
    (opcode::SUB, 0, 2),
    (opcode::MUL, 0, 2),
    (opcode::DIV_SIGNED, 0, 2),
    (opcode::DIV_UNSIGNED, 0, 2),
    (opcode::REM_SIGNED, 0, 2),
    (opcode::REM_UNSIGNED, 0, 2),
    (opcode::LSH, 0, 2),
    (opcode::RSH_SIGNED, 0, 2),
    (opcode::RSH_UNSIGNED, 0, 2),
    (opcode::TRACE, 0, 2),
    (opcode::TRACE_QUICK, 1, 1),
    (opcode::LOG_NOT, 0, 1),
    (opcode::BIT_AND, 0, 2),
    (opcode::BIT_OR, 0, 2),
    (opcode::BIT_XOR, 0, 2),
    (opcode::BIT_NOT, 0, 1),
    (opcode::EQUAL, 0, 2),
    (opcode::LESS_SIGNED, 0, 2),
    (opcode::LESS_UNSIGNED, 0, 2),
    (opcode::EXT, 1, 1),
    (opcode::REF8, 0, 1),
    (opcode::REF16, 0, 1),
    (opcode::REF32, 0, 1),
    (opcode::REF64, 0, 1),
    (opcode::IF_GOTO, 2, 1),
    (opcode::GOTO, 2, 0),
    (opcode::CONST8, 1, 0),
    (opcode::CONST16, 2, 0),
    (opcode::CONST32, 4, 0),
    (opcode::CONST64, 8, 0),
    (opcode::REG, 2, 0),
    (opcode::END, 0, 1),
    (opcode::DUP, 0, 1),
    (opcode::POP, 0, 1),
    (opcode::ZERO_EXT, 1, 1),
    (opcode::SWAP, 0, 2),
    (opcode::TRACENZ, 0, 2),
    (opcode::TRACE16, 2, 1),
    (opcode::PICK, 1, 1),
    (opcode::ROT, 0, 3),
];

const UNSUPPORTED: [(u8, &str); 10] = [
    (opcode::FLOAT, "floating point"),
    (opcode::REF_FLOAT, "floating point"),
    (opcode::REF_DOUBLE, "floating point"),
    (opcode::REF_LONG_DOUBLE, "floating point"),
    (opcode::L_TO_D, "floating point"),
    (opcode::D_TO_L, "floating point"),
    (opcode::GETV, "trace state variables"),
    (opcode::SETV, "trace state variables"),
    (opcode::TRACEV, "trace state variables"),
    (opcode::PRINTF, "printf"),
];

#[test]
fn too_few_cells_are_an_underflow() {
    for (opcode, operand_len, cells) in SUPPORTED {
        for count in 0..cells {
            let mut instruction = vec![opcode];
            instruction.resize(1 + operand_len, 0);
            // So that it is not `end` that finds the stack empty.
            instruction.extend([opcode::CONST8, 1]);
            let result = apply(&instruction, &vec![1; count]);
            assert_eq!(
                result,
                Err(EvaluateError::StackUnderflow),
                "{opcode:#x} on {count}"
            );
        }
    }
    for depth in 2..=u8::MAX {
        let result = apply(&[opcode::PICK, depth], &[1, 2]);
        assert_eq!(result, Err(EvaluateError::StackUnderflow), "pick {depth}");
    }
}

#[test]
fn end_of_an_empty_stack_is_an_underflow() {
    assert_eq!(run(&[opcode::END]), Err(EvaluateError::StackUnderflow));
}

#[test]
fn stack_holds_64_cells() {
    let full = [opcode::CONST8, 7].repeat(STACK_CELLS);
    assert_eq!(run(&[&full[..], &[opcode::END]].concat()), Ok(7));
    for push in [
        [opcode::CONST8, 1].as_slice(),
        &[opcode::DUP],
        &[opcode::PICK, 9],
    ] {
        let bytecode = [&full[..], push, &[opcode::END]].concat();
        assert_eq!(
            run(&bytecode),
            Err(EvaluateError::StackOverflow),
            "{push:x?}"
        );
    }
}

#[test]
fn every_opcode_is_supported_refused_or_unknown() {
    for opcode in 0..=u8::MAX {
        let result = Expression::parse(&[opcode]);
        let unsupported = UNSUPPORTED.iter().find(|(other, _)| *other == opcode);
        if let Some((_, feature)) = unsupported {
            let error = result.unwrap_err();
            assert_eq!(
                error,
                ExpressionError::UnsupportedOpcode { opcode, offset: 0 }
            );
            assert!(alloc::format!("{error}").contains(feature), "{error}");
        } else if let Some((_, operand_len, _)) = SUPPORTED.iter().find(|row| row.0 == opcode) {
            let truncated = Err(ExpressionError::Truncated { offset: 0 });
            assert_eq!(result == truncated, *operand_len > 0, "{opcode:#x}");
        } else {
            assert_eq!(
                result,
                Err(ExpressionError::UnknownOpcode { opcode, offset: 0 })
            );
        }
    }
}

#[test]
fn operand_cut_short_is_refused_at_every_length() {
    for (opcode, operand_len, _) in SUPPORTED {
        for len in 0..operand_len {
            let mut bytecode = vec![opcode::CONST8, 1, opcode];
            bytecode.resize(3 + len, 0);
            let expected = Err(ExpressionError::Truncated { offset: 2 });
            assert_eq!(Expression::parse(&bytecode), expected, "{bytecode:x?}");
        }
    }
}

#[test]
fn longest_program_has_4096_bytes() {
    let mut bytecode = vec![opcode::CONST8, 1];
    bytecode.resize(MAX_BYTECODE_BYTES - 1, opcode::BIT_NOT);
    bytecode.push(opcode::END);
    assert_eq!(run(&bytecode), Ok(!1));
    bytecode.push(opcode::END);
    let expected = Err(ExpressionError::TooLong {
        len_bytes: MAX_BYTECODE_BYTES + 1,
    });
    assert_eq!(Expression::parse(&bytecode), expected);
}

#[test]
fn an_expression_is_shared_between_threads_and_small() {
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<Expression>();
    assert_eq!(size_of::<Operation>(), 16);
}

#[test]
fn fuzz_body_accepts_generated_programs() {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..20_000 {
        // Cells to work on, small operands and short jumps: most programs then parse and run.
        let mut bytecode = [opcode::CONST8, 3].repeat(8);
        for _ in 0..random(24) {
            let (opcode, operand_len, _) = SUPPORTED[random(SUPPORTED.len())];
            bytecode.push(opcode);
            bytecode.extend((1..operand_len).map(|_| 0));
            bytecode.extend((operand_len > 0).then(|| u8::try_from(random(64)).unwrap()));
        }
        bytecode.push(opcode::END);
        fuzz::exercise(&bytecode);
        let cut = random(bytecode.len());
        fuzz::exercise(&bytecode[cut..]);
    }
}
