use alloc::{vec, vec::Vec};

use super::*;
use crate::{RegisterGroup, x86_64::registers::*};

/// The offsets of Intel processors with AVX-512.
fn layout() -> XsaveLayout {
    XsaveLayout::new()
        .with(Component::Avx, 576)
        .with(Component::Opmask, 1088)
        .with(Component::ZmmHi256, 1152)
        .with(Component::Hi16Zmm, 1664)
        .with(Component::Pkru, 2688)
}

const ALL_BITS: u64 = 0b10_1110_0111;

/// Registers of which each byte of the group `Fpu` differs from its neighbours, apart from XCR0.
fn filled() -> RegisterFile {
    let mut registers = file();
    for (index, register) in TABLE.iter().enumerate() {
        let id = RegisterId(index as u16);
        if register.group == RegisterGroup::Fpu && id != XCR0 {
            for (byte, value) in registers.bytes_mut(id).iter_mut().enumerate() {
                *value = (index * 37 + byte * 11 + 1) as u8;
            }
        }
    }
    // Eight valid numbers, so that the tag word survives being abridged.
    for number in 0..8 {
        let mut value = [0x80 + number as u8; 10];
        value[9] = 0x3f;
        registers
            .bytes_mut(st(number).unwrap())
            .copy_from_slice(&value);
    }
    registers.set_u64(FTAG, 0);
    registers
}

#[test]
fn the_layout_knows_its_length() {
    assert_eq!(layout().len_bytes(), 2692);
    assert_eq!(XsaveLayout::new().len_bytes(), HEADER_END_BYTES);
    assert_eq!(layout().components().count(), 5);
    // CPUID says 0 of a component that is absent.
    assert_eq!(
        XsaveLayout::new().with(Component::Avx, 0),
        XsaveLayout::new()
    );
}

#[test]
fn registers_survive_the_area() {
    let registers = filled();
    let mut area = vec![0; layout().len_bytes()];
    store(&layout(), &registers, &mut area).unwrap();
    assert_eq!(u64_at(&area, XSTATE_BV), ALL_BITS);
    let mut loaded = file();
    load(&layout(), &area, &mut loaded).unwrap();
    assert_eq!(loaded, registers);
}

#[test]
fn an_area_survives_the_registers() {
    let mut area: Vec<u8> = (0..layout().len_bytes())
        .map(|index| (index * 13) as u8)
        .collect();
    area[XSTATE_BV..HEADER_END_BYTES].fill(0);
    area[XSTATE_BV..XCOMP_BV].copy_from_slice(&ALL_BITS.to_le_bytes());
    let before = area.clone();
    let mut registers = file();
    load(&layout(), &area, &mut registers).unwrap();
    store(&layout(), &registers, &mut area).unwrap();
    // Reserved bytes included.
    assert_eq!(area, before);
}

#[test]
fn each_register_is_where_the_manual_has_it() {
    let at = |id, offset: usize, value: u8| {
        let mut area = vec![0; layout().len_bytes()];
        area[XSTATE_BV..XCOMP_BV].copy_from_slice(&ALL_BITS.to_le_bytes());
        area[offset] = value;
        let mut registers = file();
        load(&layout(), &area, &mut registers).unwrap();
        assert_eq!(registers.bytes(id).first(), Some(&value), "{offset}");
    };
    at(FCTRL, 0, 0x7f);
    at(FSTAT, 2, 0x41);
    at(FOP, 6, 0x12);
    at(FIOFF, 8, 0x12);
    at(FISEG, 12, 0x12);
    at(FOOFF, 16, 0x12);
    at(FOSEG, 20, 0x12);
    at(MXCSR, 24, 0x80);
    at(ST0, 32, 1);
    at(ST7, 32 + 7 * 16, 1);
    at(XMM0, 160, 1);
    at(XMM15, 160 + 15 * 16, 1);
    at(YMM0H, 576, 1);
    at(YMM15H, 576 + 15 * 16, 1);
    at(K0, 1088, 1);
    at(K7, 1088 + 7 * 8, 1);
    at(ZMM0H, 1152, 1);
    at(ZMM15H, 1152 + 15 * 32, 1);
    at(XMM16, 1664, 1);
    at(YMM16H, 1664 + 16, 1);
    at(ZMM16H, 1664 + 32, 1);
    at(ZMM31H, 1664 + 15 * 64 + 32, 1);
    at(PKRU, 2688, 1);
}

#[test]
fn components_in_their_initial_state_are_not_read() {
    let mut area = vec![0xff; layout().len_bytes()];
    area[XSTATE_BV..HEADER_END_BYTES].fill(0);
    area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    let mut registers = filled();
    registers.set_u64(XCR0, 7);
    load(&layout(), &area, &mut registers).unwrap();
    let mut initial = file();
    initial.set_u64(FCTRL, 0x37f);
    initial.set_u64(FTAG, 0xffff);
    initial.set_u64(MXCSR, 0x1f80);
    initial.set_u64(XCR0, 7);
    assert_eq!(registers, initial);
}

#[test]
fn storing_the_initial_state_sets_no_bit_and_clears_none() {
    let mut registers = file();
    registers.set_u64(FCTRL, 0x37f);
    registers.set_u64(FTAG, 0xffff);
    for xstate_bv in [0, 0b11, ALL_BITS, 1 << 17] {
        let mut area = vec![0; layout().len_bytes()];
        area[XSTATE_BV..XCOMP_BV].copy_from_slice(&u64::to_le_bytes(xstate_bv));
        store(&layout(), &registers, &mut area).unwrap();
        assert_eq!(u64_at(&area, XSTATE_BV), xstate_bv);
    }
}

#[test]
fn a_component_in_use_sets_its_bit() {
    for (id, bit) in [
        (ST3, 0),
        (XMM7, 1),
        (YMM3H, 2),
        (K1, 5),
        (ZMM4H, 6),
        (ZMM20H, 7),
        (XMM16, 7),
        (PKRU, 9),
    ] {
        let mut registers = file();
        registers.set_u64(FCTRL, 0x37f);
        registers.set_u64(FTAG, 0xffff);
        registers.set_u64(id, 1);
        let mut area = vec![0; layout().len_bytes()];
        store(&layout(), &registers, &mut area).unwrap();
        assert_eq!(u64_at(&area, XSTATE_BV), 1 << bit);
    }
}

#[test]
fn registers_outside_the_layout_are_left_alone() {
    let mut area = vec![0; HEADER_END_BYTES];
    let mut registers = filled();
    let before = registers.clone();
    store(&XsaveLayout::new(), &registers, &mut area).unwrap();
    assert_eq!(u64_at(&area, XSTATE_BV), 0b11);
    load(&XsaveLayout::new(), &area, &mut registers).unwrap();
    assert_eq!(registers, before);
}

#[test]
fn areas_that_are_short_or_compacted_are_refused() {
    let needed = layout().len_bytes();
    let (mut registers, before) = (filled(), filled());
    for given in 0..needed {
        let error = XsaveError::TooShort { needed, given };
        assert_eq!(load(&layout(), &vec![0; given], &mut registers), Err(error));
        assert_eq!(
            store(&layout(), &registers, &mut vec![0; given]),
            Err(error)
        );
    }
    let mut area = vec![0; needed];
    area[XCOMP_BV + 7] = 0x80;
    assert_eq!(
        load(&layout(), &area, &mut registers),
        Err(XsaveError::Compacted)
    );
    assert_eq!(
        store(&layout(), &registers, &mut area),
        Err(XsaveError::Compacted)
    );
    assert_eq!(registers, before);
    let error = XsaveError::TooShort {
        needed: LEGACY_LEN_BYTES,
        given: 511,
    };
    assert_eq!(load_fxsave(&[0; 511], &mut registers), Err(error));
    assert_eq!(store_fxsave(&registers, &mut [0; 511]), Err(error));
}

#[test]
fn registers_survive_fxsave() {
    let registers = filled();
    let mut area = vec![0xee; LEGACY_LEN_BYTES];
    store_fxsave(&registers, &mut area).unwrap();
    // MXCSR_MASK, and what is reserved at the end.
    assert_eq!(area[28..32], [0xee; 4]);
    assert_eq!(area[416..], [0xee; 96]);
    let mut loaded = file();
    load_fxsave(&area, &mut loaded).unwrap();
    for id in [
        FCTRL, FSTAT, FTAG, FISEG, FIOFF, FOSEG, FOOFF, FOP, ST0, ST7, XMM0, XMM15, MXCSR,
    ] {
        assert_eq!(loaded.bytes(id), registers.bytes(id));
    }
    assert_eq!(loaded.u64(YMM0H), 0);
}

#[test]
fn tags_follow_from_the_contents() {
    const ONE: u128 = 0x3fff << 64 | 1 << 63;
    const INFINITY: u128 = 0x7fff << 64 | 1 << 63;
    const DENORMAL: u128 = 1;
    const UNNORMAL: u128 = 0x3fff << 64;
    const MINUS_ZERO: u128 = 1 << 79;
    let stack = [ONE, 0, INFINITY, DENORMAL, UNNORMAL, MINUS_ZERO, ONE, ONE];
    // TOP is 0: ST0 is R0. R6 is empty.
    assert_eq!(
        full_tag_word(0b1011_1111, 0, &stack),
        0b00_11_01_10_10_10_01_00
    );
    // TOP is 6: ST0 is R6, ST2 is R0.
    assert_eq!(
        full_tag_word(0b0100_0001, 6 << 11, &stack),
        0b11_00_11_11_11_11_11_10
    );
    assert_eq!(full_tag_word(0, 0, &stack), 0xffff);
}

#[test]
fn tag_words_abridge_to_one_bit_for_each_register() {
    assert_eq!(short_tag_word(0xffff), 0);
    assert_eq!(short_tag_word(0), 0xff);
    assert_eq!(short_tag_word(0b00_11_01_11_10_11_11_00), 0b1010_1001);
    let stack = [0x3fff << 64 | 1 << 63; 8];
    for abridged in 0..=u8::MAX {
        for top in 0..8 {
            assert_eq!(
                short_tag_word(full_tag_word(abridged, top << 11, &stack)),
                abridged
            );
        }
    }
}
