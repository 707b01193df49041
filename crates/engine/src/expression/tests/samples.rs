//! Conditions as GDB 13.1 sent them in `Z0` packets, for a breakpoint at the entry of `f` in this
//! program for x86-64 (`gcc -g -O0 -no-pie`):
//!
//! ```c
//! struct node { struct node *next; int32_t value; uint16_t flags : 5; uint16_t kind : 3;
//!               char name[8]; };
//! struct node g_node; struct node *g_head = &g_node; int32_t g_count = 3;
//! uint64_t g_mask = 0xff00; signed char g_byte = -2; unsigned short g_short = 7;
//! int g_array[4] = {1, 2, 3, 4}; int g_zero;
//! long f(long a, unsigned b) { volatile int loc = (int) a; return loc + b + g_count; }
//! ```
//!
//! The expected values are C's, so they check the interpreter against the language and not
//! against itself.

use super::*;

const RSP: u64 = 0x7fff_ff00;

/// The program's data, with `g_head->value` -5, `g_node.flags` 17 and `g_node.kind` 3, and the
/// frame of `f` with `a` 5, `b` 10 and `loc` 1.
fn program() -> Model {
    Model::default()
        .with_memory(0x40_4010, &3_i32.to_le_bytes())
        .with_memory(0x40_4018, &0xff00_u64.to_le_bytes())
        .with_memory(0x40_4020, &(-2_i8).to_le_bytes())
        .with_memory(0x40_4022, &7_u16.to_le_bytes())
        .with_memory(0x40_4030, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])
        .with_memory(0x40_4040, &0x40_4060_u64.to_le_bytes())
        .with_memory(0x40_4068, &(-5_i32).to_le_bytes())
        .with_memory(0x40_406c, &[3 << 5 | 17, 0])
        .with_memory(0x40_4078, &0_i32.to_le_bytes())
        .with_memory(RSP, &0x40_1150_u64.to_le_bytes())
        .with_memory(RSP + 8 - 40, &5_i64.to_le_bytes())
        .with_memory(RSP + 8 - 44, &10_u32.to_le_bytes())
        .with_memory(RSP + 8 - 20, &1_i32.to_le_bytes())
        .with_register(0, 42)
        .with_register(7, RSP)
        .with_register(16, 0x40_1106)
}

/// The source, the bytecode in hexadecimal, and its value as a signed number.
const SAMPLES: [(&str, &str, i64); 29] = [
    ("a == 5", "26000722080222d81608021a164022051327", 1),
    ("$rax == 42", "2600001640222a1327", 1),
    ("$rip", "2600102a4027", 0x40_1106),
    (
        "g_count == 3 && g_byte < 0",
        "240040401019162022031320001121002724004040201716082200142000222100272201210029220027",
        1,
    ),
    (
        "g_count || g_zero",
        "240040401019162020001b240040407819162020001b220021001d220127",
        1,
    ),
    (
        "g_head->value > -7",
        "24004040401a22080219162022f916082b1427",
        1,
    ),
    (
        "g_head->kind == 3",
        "24004040401a220c021722050b2a0322031327",
        1,
    ),
    ("g_node.flags", "2400404060220c02172a0527", 17),
    (
        "g_array[g_count] * 2 + 1",
        "24004040302400404010191620220404022a401916202202041620220102162027",
        9,
    ),
    (
        "g_mask >> 8 & 0xff",
        "24004040181a22082a400b2a402300ff2a400f27",
        0xff,
    ),
    (
        "(unsigned char)g_byte > 3",
        "24004040201716082a0822032b1427",
        1,
    ),
    (
        "g_count ? g_count : -1",
        "24004040101916200e200017240040401019162021001b22ff160827",
        3,
    ),
    ("!g_zero", "24004040781916200e27", 1),
    ("~g_count", "240040401019162012162027", -4),
    ("g_count % 2", "2400404010191620220207162027", 1),
    ("b / 3", "26000722080222d41608021922032a20062a2027", 3),
    (
        "g_mask == 0x123456789abcdef0",
        "24004040181a25123456789abcdef02a401327",
        0,
    ),
    ("(char)a", "26000722080222d81608021a1640160827", 5),
    ("-g_count", "2200240040401019162003162027", -3),
    ("loc != 1", "26000722080222ec1608021916202201130e27", 0),
    (
        "g_short - 100000",
        "24004040221824000186a003162027",
        7 - 100_000,
    ),
    ("*(long*)$rsp", "2600072a401a164027", 0x40_1150),
    ("a << 3", "26000722080222d81608021a1640220309164027", 40),
    (
        "g_mask % 10 <= 3 ^ 1",
        "24004040181a220a2a40082a4022032a402b150e22011127",
        0,
    ),
    ("(g_count, g_zero)", "240040401029240040407819162027", 0),
    (
        "a >= b",
        "26000722080222d81608021a164026000722080222d416080219140e27",
        0,
    ),
    (
        "(a | 1) / -3",
        "26000722080222d81608021a164022011022fd160805164027",
        -1,
    ),
    (
        "g_zero && a / g_zero",
        "240040407819162020000e21003226000722080222d81608021a164024004040781916200516402000\
         2d2100322201210034220027",
        0,
    ),
    (
        "g_count > 3 || !(g_mask & 1)",
        "240040401019162022032b1420002324004040181a22012a400f0e2000232200210025220127",
        1,
    ),
];

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn conditions_of_gdb_have_the_values_of_c() {
    for (source, bytecode, expected) in SAMPLES {
        let value = run_in(&mut program(), &bytes(bytecode));
        assert_eq!(value.map(u64::cast_signed), Ok(expected), "{source}");
    }
}

#[test]
fn conditions_of_gdb_cut_short_are_refused_at_every_length() {
    for (source, bytecode, _) in SAMPLES {
        let bytecode = bytes(bytecode);
        for len in 0..bytecode.len() {
            assert!(
                Expression::parse(&bytecode[..len]).is_err(),
                "{source}: {len}"
            );
        }
    }
}

#[test]
fn conditions_of_gdb_fail_without_registers_or_memory() {
    for (source, bytecode, _) in SAMPLES {
        let result = run(&bytes(bytecode));
        assert!(
            matches!(
                result,
                Err(EvaluateError::Register { .. } | EvaluateError::Memory { .. })
            ),
            "{source}: {result:?}"
        );
    }
}

#[test]
fn division_by_a_zero_in_the_guest_is_an_error() {
    let source = "26000722080222d81608021a1640240040407819162007164027"; // a % g_zero
    assert_eq!(
        run_in(&mut program(), &bytes(source)),
        Err(EvaluateError::DivisionByZero)
    );
}

#[test]
fn null_pointer_in_the_guest_is_reported_by_its_address() {
    let source = "24004040401a1a22080219162027"; // g_head->next->value
    let mut program = program().with_memory(0x40_4060, &0_u64.to_le_bytes());
    let expected = EvaluateError::Memory { address: Gva(8) };
    assert_eq!(run_in(&mut program, &bytes(source)), Err(expected));
}
