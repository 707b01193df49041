use super::{HexBytes, append, append_u64, digit, parse_u8, parse_u32, parse_u64};
use crate::request::ParseError;
use alloc::vec::Vec;

#[test]
fn every_byte_round_trips() {
    let bytes: Vec<u8> = (0..=255).collect();
    let mut digits = Vec::new();
    append(&bytes, &mut digits);
    assert!(digits.starts_with(b"000102") && digits.ends_with(b"fdfeff"));
    let read = HexBytes::parse(&digits).unwrap();
    assert_eq!(read.to_vec(), bytes);
    assert_eq!(
        HexBytes::parse(&digits.to_ascii_uppercase())
            .unwrap()
            .to_vec(),
        bytes
    );
}

#[test]
fn append_keeps_what_is_there() {
    let mut out = b"$m".to_vec();
    append(&[0xab], &mut out);
    assert_eq!(out, b"$mab");
}

#[test]
fn only_hex_digits_are_digits() {
    let count = (0..=255).filter(|&byte| digit(byte).is_some()).count();
    assert_eq!(count, 22);
    for byte in 0..=255_u8 {
        let expected = char::from(byte)
            .to_digit(16)
            .map(|value| u8::try_from(value).unwrap());
        assert_eq!(digit(byte), expected);
    }
}

#[test]
fn numbers_have_no_leading_zeros() {
    for (value, text) in [
        (0, "0"),
        (1, "1"),
        (0x10, "10"),
        (0x100, "100"),
        (0xffff_ffff_8100_0000, "ffffffff81000000"),
        (u64::MAX, "ffffffffffffffff"),
    ] {
        let mut out = Vec::new();
        append_u64(value, &mut out);
        assert_eq!(out, text.as_bytes());
        assert_eq!(parse_u64(&out), Ok(value));
    }
}

#[test]
fn numbers_are_strict() {
    assert_eq!(parse_u64(b""), Err(ParseError::MissingField));
    assert_eq!(parse_u64(b"0x1"), Err(ParseError::NotHex));
    assert_eq!(parse_u64(b"-1"), Err(ParseError::NotHex));
    assert_eq!(parse_u64(b"1 "), Err(ParseError::NotHex));
    assert_eq!(
        parse_u64(b"10000000000000000"),
        Err(ParseError::NumberTooLarge)
    );
    assert_eq!(parse_u64(b"00000000000000000001"), Ok(1));
    assert_eq!(parse_u64(b"DeadBeef"), Ok(0xdead_beef));
    assert_eq!(parse_u32(b"ffffffff"), Ok(u32::MAX));
    assert_eq!(parse_u32(b"100000000"), Err(ParseError::NumberTooLarge));
    assert_eq!(parse_u8(b"ff"), Ok(255));
    assert_eq!(parse_u8(b"100"), Err(ParseError::NumberTooLarge));
}

#[test]
fn hex_bytes_are_strict() {
    assert_eq!(HexBytes::parse(b"abc"), Err(ParseError::OddDigits));
    assert_eq!(HexBytes::parse(b"ag"), Err(ParseError::NotHex));
    assert!(HexBytes::parse(b"").unwrap().is_empty());
}

#[test]
fn little_endian_values_have_at_most_eight_bytes() {
    let value = |digits| HexBytes::parse(digits).unwrap().to_u64_le();
    assert_eq!(value(b"34120000"), Some(0x1234));
    assert_eq!(value(b""), Some(0));
    assert_eq!(value(b"ffffffffffffffff"), Some(u64::MAX));
    assert_eq!(value(b"000000000000000000"), None);
}
