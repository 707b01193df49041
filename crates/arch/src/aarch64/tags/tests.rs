use super::*;

const PLAIN: Tcr = Tcr::new().with_t0sz(16).with_t1sz(16);
const SIGNS: Sctlr = Sctlr::new().with_en_ia(true);
const USER: u64 = 0x0000_ffff_1234_5678;
const KERNEL: u64 = 0xffff_8000_1234_5678;

fn strip(tcr: Tcr, sctlr: Sctlr, pointer: u64) -> u64 {
    PointerTags::new(tcr, sctlr).strip(Gva(pointer)).0
}

#[test]
fn a_pointer_is_in_the_half_of_bit_55() {
    assert_eq!(Half::of(Gva(0xff7f_ffff_ffff_ffff)), Half::Lower);
    assert_eq!(Half::of(Gva(0x0080_0000_0000_0000)), Half::Upper);
}

#[test]
fn an_address_without_tags_stays() {
    for tcr in [PLAIN, PLAIN.with_tbi0(true).with_tbi1(true)] {
        for sctlr in [Sctlr::new(), SIGNS] {
            assert_eq!(strip(tcr, sctlr, USER), USER);
            assert_eq!(strip(tcr, sctlr, KERNEL), KERNEL);
        }
    }
}

#[test]
fn each_half_has_its_own_tag_switch() {
    let (user, kernel) = (0xab00_ffff_1234_5678, 0x12ff_8000_1234_5678);
    let lower = PLAIN.with_tbi0(true);
    let upper = PLAIN.with_tbi1(true);
    assert_eq!(strip(lower, Sctlr::new(), user), USER);
    assert_eq!(strip(lower, Sctlr::new(), kernel), kernel);
    assert_eq!(strip(upper, Sctlr::new(), user), user);
    assert_eq!(strip(upper, Sctlr::new(), kernel), KERNEL);
}

#[test]
fn signatures_are_removed_where_pointers_are_signed() {
    // The signature takes all bits but 55 above the address.
    let (user, kernel) = (0x5a3c_ffff_1234_5678, 0x00b0_8000_1234_5678);
    assert_eq!(strip(PLAIN, SIGNS, user), USER);
    assert_eq!(strip(PLAIN, SIGNS, kernel), KERNEL);
    assert_eq!(strip(PLAIN, Sctlr::new(), kernel), kernel);
    for sctlr in [
        Sctlr::new().with_en_ib(true),
        Sctlr::new().with_en_da(true),
        Sctlr::new().with_en_db(true),
    ] {
        assert_eq!(strip(PLAIN, sctlr, kernel), KERNEL);
    }
}

#[test]
fn a_tagged_signed_pointer_loses_both() {
    let tcr = PLAIN.with_tbi1(true);
    assert_eq!(strip(tcr, SIGNS, 0x77d5_8000_1234_5678), KERNEL);
    let tags = PointerTags::new(tcr, SIGNS);
    // The processor ignores the tag alone.
    let untagged = tags.untag(Gva(0x77d5_8000_1234_5678)).0;
    assert_eq!(untagged, 0xffd5_8000_1234_5678);
}

#[test]
fn smaller_address_spaces_have_longer_signatures() {
    let tcr = Tcr::new().with_t0sz(25).with_t1sz(28);
    let tags = PointerTags::new(tcr, SIGNS);
    assert_eq!(tags.address_bits(Half::Lower), 39);
    assert_eq!(tags.address_bits(Half::Upper), 36);
    let masks = PacMasks::of(&tags);
    assert_eq!(masks.data, 0xff7f_ff80_0000_0000);
    assert_eq!(masks.data_high, 0xff7f_fff0_0000_0000);
    let wide = PointerTags::new(Tcr::new().with_t0sz(12).with_t1sz(12), SIGNS);
    assert_eq!(PacMasks::of(&wide).code, 0xff70_0000_0000_0000);
}

#[test]
fn masks_leave_the_tag_out_and_tell_data_from_code() {
    let tcr = PLAIN.with_tbi0(true).with_tbi1(true).with_tbid1(true);
    let masks = PacMasks::of(&PointerTags::new(tcr, SIGNS));
    assert_eq!(
        masks,
        PacMasks {
            data: 0x007f_0000_0000_0000,
            code: 0x007f_0000_0000_0000,
            data_high: 0x007f_0000_0000_0000,
            code_high: 0xff7f_0000_0000_0000,
        }
    );
    let unsigned = PacMasks::of(&PointerTags::new(tcr, Sctlr::new()));
    assert_eq!((unsigned.data, unsigned.code_high), (0, 0));
}

#[test]
fn a_memory_tag_without_tbi_is_no_signature() {
    let tcr = PLAIN.with_mtx1(true);
    let tags = PointerTags::new(tcr, SIGNS);
    assert_eq!(
        tags.ignored(Half::Upper, PointerUse::Data),
        0x0f00_0000_0000_0000
    );
    assert_eq!(
        tags.signature(Half::Upper, PointerUse::Data),
        0xf07f_0000_0000_0000
    );
    assert_eq!(strip(tcr, SIGNS, 0x35ff_8000_1234_5678), KERNEL);
    let unsigned = strip(tcr, Sctlr::new(), 0xf5ff_8000_1234_5678);
    assert_eq!(unsigned, KERNEL);
}

#[test]
fn code_pointers_keep_what_code_does_not_ignore() {
    let tags = PointerTags::new(PLAIN.with_tbi1(true).with_tbid1(true), Sctlr::new());
    let tagged = Gva(0x12ff_8000_1234_5678);
    assert_eq!(tags.strip_code(tagged), tagged);
    assert_eq!(tags.strip(tagged), Gva(KERNEL));
    let signing = PointerTags::new(PLAIN, SIGNS);
    assert_eq!(signing.strip_code(Gva(0x00b0_8000_1234_5678)), Gva(KERNEL));
}

#[test]
fn before_tcr_is_set_nothing_is_removed() {
    for pointer in [0, 1 << 63, u64::MAX, 0x1234_5678_9abc_def0] {
        assert_eq!(strip(Tcr::new(), SIGNS, pointer), pointer);
    }
}
