use super::*;

/// Asserts that an accessor reads exactly the bits from `low` on, of which there are `bits`.
fn is_at<R, T: Into<u64>>(make: fn(u64) -> R, field: fn(R) -> T, low: u32, bits: u32) {
    let mask = (1_u64 << bits) - 1;
    assert_eq!(field(make(mask << low)).into(), mask, "bit {low}");
    assert_eq!(field(make(!(mask << low))).into(), 0, "bit {low}");
    assert_eq!(field(make(1 << low)).into(), 1, "bit {low}");
}

#[test]
fn fields_of_tcr_are_where_the_manual_has_them() {
    let make = Tcr::from_bits;
    is_at(make, |tcr| tcr.t0sz(), 0, 6);
    is_at(make, |tcr| tcr.epd0(), 7, 1);
    is_at(make, |tcr| tcr.tg0(), 14, 2);
    is_at(make, |tcr| tcr.t1sz(), 16, 6);
    is_at(make, |tcr| tcr.a1(), 22, 1);
    is_at(make, |tcr| tcr.epd1(), 23, 1);
    is_at(make, |tcr| tcr.tg1(), 30, 2);
    is_at(make, |tcr| tcr.ips(), 32, 3);
    is_at(make, |tcr| tcr.r#as(), 36, 1);
    is_at(make, |tcr| tcr.tbi0(), 37, 1);
    is_at(make, |tcr| tcr.tbi1(), 38, 1);
    is_at(make, |tcr| tcr.ha(), 39, 1);
    is_at(make, |tcr| tcr.hd(), 40, 1);
    is_at(make, |tcr| tcr.hpd0(), 41, 1);
    is_at(make, |tcr| tcr.hpd1(), 42, 1);
    is_at(make, |tcr| tcr.tbid0(), 51, 1);
    is_at(make, |tcr| tcr.tbid1(), 52, 1);
    is_at(make, |tcr| tcr.e0pd0(), 55, 1);
    is_at(make, |tcr| tcr.e0pd1(), 56, 1);
    is_at(make, |tcr| tcr.ds(), 59, 1);
    is_at(make, |tcr| tcr.mtx0(), 60, 1);
    is_at(make, |tcr| tcr.mtx1(), 61, 1);
}

#[test]
fn fields_of_sctlr_are_where_the_manual_has_them() {
    let make = Sctlr::from_bits;
    is_at(make, |sctlr| sctlr.m(), 0, 1);
    is_at(make, |sctlr| sctlr.en_db(), 13, 1);
    is_at(make, |sctlr| sctlr.wxn(), 19, 1);
    is_at(make, |sctlr| sctlr.e0e(), 24, 1);
    is_at(make, |sctlr| sctlr.ee(), 25, 1);
    is_at(make, |sctlr| sctlr.en_da(), 27, 1);
    is_at(make, |sctlr| sctlr.en_ib(), 30, 1);
    is_at(make, |sctlr| sctlr.en_ia(), 31, 1);
    is_at(make, |sctlr| sctlr.epan(), 57, 1);
}

#[test]
fn fields_of_the_process_state_are_where_the_manual_has_them() {
    let make = Pstate::from_bits;
    is_at(make, |pstate| pstate.m(), 0, 4);
    is_at(make, |pstate| pstate.n_rw(), 4, 1);
    is_at(make, |pstate| pstate.t(), 5, 1);
    is_at(make, |pstate| pstate.f(), 6, 1);
    is_at(make, |pstate| pstate.i(), 7, 1);
    is_at(make, |pstate| pstate.a(), 8, 1);
    is_at(make, |pstate| pstate.d(), 9, 1);
    is_at(make, |pstate| pstate.il(), 20, 1);
    is_at(make, |pstate| pstate.ss(), 21, 1);
    is_at(make, |pstate| pstate.pan(), 22, 1);
    is_at(make, |pstate| pstate.uao(), 23, 1);
    is_at(make, |pstate| pstate.v(), 28, 1);
    is_at(make, |pstate| pstate.n(), 31, 1);
    assert_eq!(Pstate::from_bits(u64::MAX).masks_in_place(), 0x3c0);
}

#[test]
fn fields_of_the_other_registers_are_where_the_manual_has_them() {
    is_at(Tcr2::from_bits, |tcr2| tcr2.pie(), 1, 1);
    is_at(Tcr2::from_bits, |tcr2| tcr2.d128(), 5, 1);
    is_at(Ttbr::from_bits, |ttbr| ttbr.cnp(), 0, 1);
    is_at(Ttbr::from_bits, |ttbr| ttbr.baddr(), 1, 47);
    is_at(Ttbr::from_bits, |ttbr| ttbr.asid(), 48, 16);
    is_at(Vtcr::from_bits, |vtcr| vtcr.t0sz(), 0, 6);
    is_at(Vtcr::from_bits, |vtcr| vtcr.sl0(), 6, 2);
    is_at(Vtcr::from_bits, |vtcr| vtcr.tg0(), 14, 2);
    is_at(Vtcr::from_bits, |vtcr| vtcr.ps(), 16, 3);
    is_at(Vtcr::from_bits, |vtcr| vtcr.ha(), 21, 1);
    is_at(Vtcr::from_bits, |vtcr| vtcr.hd(), 22, 1);
    is_at(Vtcr::from_bits, |vtcr| vtcr.ds(), 32, 1);
    is_at(Vtcr::from_bits, |vtcr| vtcr.sl2(), 33, 1);
    is_at(Dczid::from_bits, |dczid| dczid.bs(), 0, 4);
    is_at(Dczid::from_bits, |dczid| dczid.dzp(), 4, 1);
    assert_eq!(Dczid::from_bits(4).block_bytes(), 64);
}

#[test]
fn reserved_bits_survive() {
    for bits in [0, u64::MAX, 0x5555_5555_5555_5555] {
        assert_eq!(
            Tcr::from_bits(bits).with_ha(false).into_bits(),
            bits & !(1 << 39)
        );
        assert_eq!(Sctlr::from_bits(bits).with_m(true).into_bits(), bits | 1);
        assert_eq!(
            Pstate::from_bits(bits).with_ss(true).into_bits(),
            bits | 1 << 21
        );
    }
}
