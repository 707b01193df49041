//! Jumps, loops and their limits.

use super::*;

/// `if_goto 8; const8 2; end; const8 3; end` after a push of `condition`.
fn choose(condition: u8) -> Result<u64, EvaluateError> {
    run(&[0x22, condition, 0x20, 0, 8, 0x22, 2, 0x27, 0x22, 3, 0x27])
}

#[test]
fn if_goto_jumps_when_not_zero() {
    assert_eq!(choose(0), Ok(2));
    assert_eq!(choose(1), Ok(3));
    assert_eq!(choose(0x80), Ok(3));
}

#[test]
fn if_goto_looks_at_all_64_bits() {
    let mut bytecode = constant(1 << 63);
    bytecode.extend([0x20, 0, 15, 0x22, 2, 0x27, 0x22, 3, 0x27]);
    assert_eq!(run(&bytecode), Ok(3));
}

#[test]
fn goto_skips_instructions() {
    assert_eq!(run(&[0x22, 5, 0x21, 0, 6, 0x0e, 0x27]), Ok(5));
}

#[test]
fn a_loop_runs_to_its_end() {
    // sum = 0, n = 100; do { sum += n; n -= 1 } while n
    let bytecode = [
        0x22, 0, 0x22, 100, // 0: sum n
        0x28, 0x33, 0x02, // 4: dup; rot; add: n (sum' = sum+n)
        0x2b, // 7: swap: sum' n
        0x22, 1, 0x03, // 8: n-1
        0x28, 0x20, 0, 4, // 11: dup; if_goto 4
        0x29, 0x27, // 15: pop; end
    ];
    assert_eq!(run(&bytecode), Ok(5050));
}

#[test]
fn an_endless_loop_stops_at_the_limit() {
    assert_eq!(run(&[0x21, 0, 0]), Err(EvaluateError::TooLong));
}

#[test]
fn the_limit_counts_every_operation() {
    // One push, any even number of `bit_not`, 2499 rounds of four operations, and `end`.
    let program = |padding: u8| {
        let start = 3 + padding;
        let mut bytecode = vec![0x23, 0x09, 0xc3];
        bytecode.resize(start.into(), opcode::BIT_NOT);
        bytecode.extend([0x22, 1, 0x03, 0x28, 0x20, 0, start, 0x27]);
        bytecode
    };
    assert_eq!(OPERATION_LIMIT, 1 + 2 + 2499 * 4 + 1);
    assert_eq!(run(&program(2)), Ok(0));
    let mut longer = program(2);
    longer.insert(longer.len() - 1, opcode::BIT_NOT);
    assert_eq!(run(&longer), Err(EvaluateError::TooLong));
}

#[test]
fn a_loop_that_pushes_overflows() {
    assert_eq!(
        run(&[0x22, 0, 0x21, 0, 0]),
        Err(EvaluateError::StackOverflow)
    );
}

#[test]
fn a_loop_that_pops_underflows() {
    assert_eq!(run(&[0x29, 0x21, 0, 0]), Err(EvaluateError::StackUnderflow));
}

#[test]
fn paths_may_meet_at_different_depths() {
    // The result is on top on both paths, over one cell or none.
    let program = |condition| [0x22, condition, 0x20, 0, 7, 0x22, 9, 0x22, 4, 0x27];
    assert_eq!(run(&program(0)), Ok(4));
    assert_eq!(run(&program(1)), Ok(4));
}

#[test]
fn jump_targets_are_starts_of_instructions() {
    for opcode in [opcode::GOTO, opcode::IF_GOTO] {
        for target in 0..=u16::MAX {
            let [high, low] = target.to_be_bytes();
            let bytecode = [0x22, 1, 0x23, 0x27, 0x27, opcode, high, low, 0x28, 0x27];
            let result = Expression::parse(&bytecode);
            if [0, 2, 5, 8, 9].contains(&target) {
                assert!(result.is_ok(), "{target}");
            } else {
                assert_eq!(
                    result,
                    Err(ExpressionError::JumpTarget { offset: 5, target })
                );
            }
        }
    }
}

#[test]
fn jumps_reach_the_last_of_4096_bytes() {
    let mut bytecode = vec![0x22, 6, 0x21, 0x0f, 0xff];
    bytecode.resize(MAX_BYTECODE_BYTES, 0x27);
    assert_eq!(run(&bytecode), Ok(6));
}

#[test]
fn a_program_that_can_run_out_is_refused() {
    for bytecode in [&[][..], &[0x22, 1], &[0x22, 1, 0x20, 0, 0], &[0x27, 0x29]] {
        assert_eq!(
            Expression::parse(bytecode),
            Err(ExpressionError::NoEnd),
            "{bytecode:x?}"
        );
    }
}
