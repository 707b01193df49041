use std::{vec, vec::Vec};

use super::*;
use crate::aarch64::{ExceptionLevel, control::Dczid, exception::WatchpointSyndrome};

fn bytes(doubleword: u64, select: u8) -> WatchPiece {
    WatchPiece::Bytes {
        doubleword: Gva(doubleword),
        select,
    }
}

fn range(start: u64, mask: u8) -> WatchPiece {
    WatchPiece::Range {
        start: Gva(start),
        mask,
    }
}

fn watch(piece: WatchPiece) -> Watchpoint {
    Watchpoint::on(piece, LoadStore::Both)
}

/// A watchpoint on a range that one can watch.
fn watch_range(address: u64, len_bytes: u64) -> Watchpoint {
    watch(split_watch(Gva(address), len_bytes, 1).unwrap()[0])
}

#[test]
fn fields_of_the_control_registers_are_where_the_manual_has_them() {
    let bcr = Dbgbcr::from_bits;
    assert!(bcr(1).e());
    assert_eq!(bcr(0b11 << 1).pmc(), 0b11);
    assert_eq!(bcr(0xf << 5).bas(), 0xf);
    assert!(bcr(1 << 13).hmc());
    assert_eq!(bcr(0b11 << 14).ssc(), 0b11);
    assert_eq!(bcr(0xf << 16).lbn(), 0xf);
    assert_eq!(bcr(0xf << 20).bt().into_bits(), 0xf);
    assert_eq!(bcr(0x1f << 24).mask(), 0x1f);
    let wcr = Dbgwcr::from_bits;
    assert!(wcr(1).e());
    assert_eq!(wcr(0b11 << 1).pac(), 0b11);
    assert_eq!(wcr(0b01 << 3).lsc(), LoadStore::Load);
    assert_eq!(wcr(0b10 << 3).lsc(), LoadStore::Store);
    assert_eq!(wcr(0b11 << 3).lsc(), LoadStore::Both);
    assert_eq!(wcr(0xff << 5).bas(), 0xff);
    assert!(wcr(1 << 13).hmc());
    assert_eq!(wcr(0b11 << 14).ssc(), 0b11);
    assert_eq!(wcr(0xf << 16).lbn(), 0xf);
    assert!(wcr(1 << 20).wt());
    assert_eq!(wcr(0x1f << 24).mask(), 0x1f);
    let mdscr = Mdscr::from_bits;
    assert!(mdscr(1).ss() && mdscr(1 << 13).kde() && mdscr(1 << 14).hde() && mdscr(1 << 15).mde());
}

#[test]
fn reserved_bits_survive() {
    for bits in [0, u64::MAX, 0x5555_5555_5555_5555] {
        assert_eq!(Dbgbcr::from_bits(bits).with_e(true).into_bits(), bits | 1);
        assert_eq!(Dbgwcr::from_bits(bits).with_e(false).into_bits(), bits & !1);
        assert_eq!(Mdscr::from_bits(bits).with_ss(true).into_bits(), bits | 1);
    }
}

#[test]
fn a_breakpoint_is_encoded_as_linux_encodes_it() {
    let breakpoint = Breakpoint::at(Gva(0xffff_8000_0008_1234));
    assert_eq!(breakpoint.value, 0xffff_8000_0008_1234);
    // E, EL1 and EL0, all four bytes, unlinked address.
    assert_eq!(breakpoint.control.into_bits(), 0x1e7);
    assert!(breakpoint.matches(Gva(0xffff_8000_0008_1234)));
    assert!(!breakpoint.matches(Gva(0xffff_8000_0008_1238)));
    let off = Breakpoint {
        control: breakpoint.control.with_e(false),
        ..breakpoint
    };
    assert!(!off.matches(Gva(0xffff_8000_0008_1234)));
}

#[test]
fn breakpoints_on_t32_code_select_half_a_word() {
    let mut breakpoint = Breakpoint::at(Gva(0x1000));
    breakpoint.control.set_bas(0b1100);
    assert!(breakpoint.matches(Gva(0x1002)));
    assert!(!breakpoint.matches(Gva(0x1000)));
}

#[test]
fn linked_breakpoints_are_told_from_addresses() {
    let kinds: Vec<(bool, bool, bool)> = (0..16)
        .map(|bits| {
            let bt = BreakpointType::from_bits(bits);
            (bt.compares_address(), bt.compares_context(), bt.is_linked())
        })
        .collect();
    assert_eq!(kinds[0], (true, false, false));
    assert_eq!(kinds[1], (true, false, true));
    // Address mismatch, of AArch32 alone.
    assert_eq!(kinds[4], (false, false, false));
    for (bits, kind) in kinds.iter().enumerate() {
        assert_eq!(kind.2, bits % 2 == 1);
        if ![0, 1, 4, 5].contains(&bits) {
            assert_eq!((kind.0, kind.1), (false, true), "{bits}");
        }
    }
    let mut context = Breakpoint::at(Gva(0x1000));
    context.control.set_bt(BreakpointType::LINKED_CONTEXT_ID);
    assert!(!context.matches(Gva(0x1000)));
}

#[test]
fn a_watchpoint_is_encoded_as_linux_encodes_it() {
    let watchpoint = Watchpoint::on(bytes(0x1000, 0b1111_0000), LoadStore::Store);
    assert_eq!(watchpoint.value, 0x1000);
    assert_eq!(
        watchpoint.control.into_bits(),
        1 | 0b11 << 1 | 0b10 << 3 | 0xf0 << 5
    );
    let large = Watchpoint::on(range(0x8000_0000, 31), LoadStore::Load);
    assert_eq!(
        large.control.into_bits(),
        1 | 0b11 << 1 | 0b01 << 3 | 0xff << 5 | 31 << 24
    );
}

#[test]
fn ranges_split_into_the_fewest_pieces() {
    let split = |address, len_bytes| split_watch(Gva(address), len_bytes, 4).unwrap();
    assert_eq!(split(0x1000, 8), vec![bytes(0x1000, 0xff)]);
    assert_eq!(split(0x1004, 4), vec![bytes(0x1000, 0xf0)]);
    assert_eq!(split(0x1003, 3), vec![bytes(0x1000, 0b0011_1000)]);
    assert_eq!(
        split(0x1006, 4),
        vec![bytes(0x1000, 0xc0), bytes(0x1008, 0b11)]
    );
    assert_eq!(split(0x1000, 16), vec![range(0x1000, 4)]);
    assert_eq!(
        split(0x1008, 16),
        vec![bytes(0x1008, 0xff), bytes(0x1010, 0xff)]
    );
    assert_eq!(
        split(0x100c, 24),
        vec![bytes(0x1008, 0xf0), range(0x1010, 4), bytes(0x1020, 0x0f)]
    );
    assert_eq!(split(0, MAX_WATCH_BYTES), vec![range(0, 31)]);
    assert_eq!(split(0, 4 << 30), vec![range(0, 31), range(1 << 31, 31)]);
}

#[test]
fn pieces_cover_the_range_and_nothing_else() {
    for start in 0..40 {
        for len_bytes in 1..100 {
            let Ok(pieces) = split_watch(Gva(0x1000 + start), len_bytes, 16) else {
                panic!("{start} {len_bytes}");
            };
            let mut next = Gva(0x1000 + start);
            for piece in &pieces {
                assert_eq!(piece.start(), next);
                next = next.wrapping_add(piece.len_bytes());
            }
            assert_eq!(next.0, 0x1000 + start + len_bytes);
            for byte in (0xff0..0x10c0).map(Gva) {
                let is_watched = pieces.iter().any(|piece| watch(*piece).watches(byte));
                let is_inside = byte.0 >= 0x1000 + start && byte < next;
                assert_eq!(is_watched, is_inside, "{start} {len_bytes} {byte}");
            }
        }
    }
}

#[test]
fn ranges_that_cannot_be_watched_are_refused() {
    assert_eq!(split_watch(Gva(0), 0, 4), Err(WatchError::Empty));
    let address = Gva(u64::MAX);
    assert_eq!(
        split_watch(address, 2, 4),
        Err(WatchError::Wraps { address })
    );
    assert_eq!(split_watch(address, 1, 4), Ok(vec![bytes(!7, 0x80)]));
    let address = Gva(0x1001);
    let too_long = WatchError::TooLong {
        address,
        len_bytes: 0x7fe,
        available: 4,
    };
    assert_eq!(split_watch(address, 0x7fe, 4), Err(too_long));
    assert!(split_watch(Gva(0), u64::MAX, 16).is_err());
    assert!(split_watch(Gva(0), 1, 0).is_err());
}

#[test]
fn debug_registers_survive_the_register_file() {
    let mut debug = DebugRegisters::default();
    for index in 0..16 {
        debug.breakpoints[index] = Breakpoint::at(Gva(0x1000 * index as u64));
        debug.watchpoints[index] = watch_range(0x2000 * index as u64, 8);
    }
    debug.mdscr.set_mde(true);
    let mut registers = registers::file();
    debug.write(&mut registers);
    assert_eq!(registers.u64(registers::DBGBVR15_EL1), 0xf000);
    assert_eq!(registers.u64(registers::DBGWVR3_EL1), 0x6000);
    assert_eq!(registers.u64(registers::MDSCR_EL1), 1 << 15);
    assert_eq!(DebugRegisters::read(&registers), debug);
    assert_eq!(
        DebugRegisters::read(&registers::file()),
        DebugRegisters::default()
    );
}

#[test]
fn privileges_match_the_levels_of_the_manuals_table() {
    use ExceptionLevel::{El0, El1, El2, El3};
    use SecurityState::{NonSecure, Secure};
    let matched = |hmc, ssc, pxc, security| {
        let privileges = Privileges { hmc, ssc, pxc };
        [El0, El1, El2, El3].map(|level| privileges.matches(level, security))
    };
    let (f, t) = (false, true);
    for (hmc, ssc, pxc, non_secure, secure) in [
        (f, 0b00, 0b01, [f, t, f, f], [f, t, f, f]),
        (f, 0b00, 0b10, [t, f, f, f], [t, f, f, f]),
        (f, 0b00, 0b11, [t, t, f, f], [t, t, f, f]),
        (f, 0b01, 0b11, [t, t, f, f], [f; 4]),
        (f, 0b10, 0b01, [f; 4], [f, t, f, f]),
        (t, 0b00, 0b01, [f, t, t, t], [f, t, t, t]),
        (t, 0b00, 0b11, [t; 4], [t; 4]),
        (t, 0b01, 0b00, [f, f, t, f], [f; 4]),
        (t, 0b01, 0b11, [t, t, t, f], [f; 4]),
        (t, 0b10, 0b00, [f; 4], [f, f, f, t]),
        (t, 0b11, 0b00, [f, f, t, f], [f, f, t, f]),
    ] {
        assert_eq!(
            matched(hmc, ssc, pxc, NonSecure),
            non_secure,
            "{hmc} {ssc} {pxc}"
        );
        assert_eq!(matched(hmc, ssc, pxc, Secure), secure, "{hmc} {ssc} {pxc}");
        assert!(!Privileges { hmc, ssc, pxc }.is_reserved());
    }
    assert!(
        Privileges {
            hmc: t,
            ssc: 0b00,
            pxc: 0b10
        }
        .is_reserved()
    );
    assert!(
        Privileges {
            hmc: f,
            ssc: 0b11,
            pxc: 0b10
        }
        .is_reserved()
    );
}

#[test]
fn privileges_survive_the_control_registers() {
    for bits in 0..32_u8 {
        let privileges = Privileges {
            hmc: bits & 1 == 1,
            ssc: bits >> 1 & 0b11,
            pxc: bits >> 3,
        };
        let breakpoint = privileges.in_breakpoint(Dbgbcr::from_bits(u64::MAX));
        assert_eq!(Privileges::of_breakpoint(breakpoint), privileges);
        let watchpoint = privileges.in_watchpoint(Dbgwcr::new());
        assert_eq!(Privileges::of_watchpoint(watchpoint), privileges);
    }
}

const STORE: WatchpointSyndrome = WatchpointSyndrome::new().with_w_n_r(true);
const LOAD: WatchpointSyndrome = WatchpointSyndrome::new();
/// Blocks of 64 bytes.
const BLOCK_64: Dczid = Dczid::from_bits(4);

fn by_far(watchpoints: &[Watchpoint], far: u64, syndrome: WatchpointSyndrome) -> Vec<(usize, u64)> {
    hits(watchpoints, far, syndrome, &[])
}

fn hits(
    watchpoints: &[Watchpoint],
    far: u64,
    syndrome: WatchpointSyndrome,
    accesses: &[Access],
) -> Vec<(usize, u64)> {
    watch_hits(watchpoints, Gva(far), syndrome, accesses, BLOCK_64)
        .iter()
        .map(|hit| (hit.index, hit.address.0))
        .collect()
}

fn access(address: u64, len_bytes: u64, kind: LoadStore) -> Access {
    Access {
        address: Gva(address),
        len_bytes,
        kind,
    }
}

#[test]
fn an_exact_far_names_the_watchpoint() {
    let slots = [
        watch_range(0x1000, 8),
        watch_range(0x1008, 4),
        watch_range(0x2000, 0x1000),
    ];
    assert_eq!(by_far(&slots, 0x1003, STORE), [(0, 0x1003)]);
    assert_eq!(by_far(&slots, 0x100b, STORE), [(1, 0x100b)]);
    assert_eq!(by_far(&slots, 0x2fff, LOAD), [(2, 0x2fff)]);
    assert_eq!(by_far(&slots, 0x3000, LOAD), []);
}

#[test]
fn far_below_the_watched_bytes_names_the_nearest() {
    // STP of 16 bytes from 0x1000 on, watched at 0x100c.
    let slots = [
        watch_range(0x100c, 4),
        watch_range(0x1020, 4),
        watch_range(0x1040, 8),
    ];
    assert_eq!(by_far(&slots, 0x1000, STORE), [(0, 0x100c)]);
    assert_eq!(by_far(&slots, 0x1010, STORE), [(1, 0x1020)]);
    // The next block is never meant.
    assert_eq!(by_far(&slots, 0x1030, STORE), []);
}

#[test]
fn the_kind_of_access_counts() {
    let slots = [
        Watchpoint::on(bytes(0x1000, 0xff), LoadStore::Load),
        Watchpoint::on(bytes(0x1000, 0xff), LoadStore::Store),
        Watchpoint::on(bytes(0x1000, 0xff), LoadStore::Both),
    ];
    assert_eq!(by_far(&slots, 0x1000, STORE), [(1, 0x1000), (2, 0x1000)]);
    assert_eq!(by_far(&slots, 0x1000, LOAD), [(0, 0x1000), (2, 0x1000)]);
    let store = access(0x1000, 8, LoadStore::Store);
    assert_eq!(
        hits(&slots, 0x1000, STORE, &[store]),
        [(1, 0x1000), (2, 0x1000)]
    );
    let atomic = access(0x1000, 8, LoadStore::Both);
    let all = [(0, 0x1000), (1, 0x1000), (2, 0x1000)];
    assert_eq!(hits(&slots, 0x1000, STORE, &[atomic]), all);
}

#[test]
fn what_the_instruction_accesses_decides_before_far_does() {
    let slots = [
        watch_range(0x1008, 1),
        watch_range(0x1018, 2),
        watch_range(0x1030, 8),
    ];
    // LD4 of 64 bytes, of which FAR names the beginning.
    let ld4 = access(0xff8, 64, LoadStore::Load);
    let expected = [(0, 0x1008), (1, 0x1018), (2, 0x1030)];
    assert_eq!(hits(&slots, 0xff8, LOAD, &[ld4]), expected);
    // An unaligned word across two doublewords.
    let unaligned = access(0x1005, 4, LoadStore::Store);
    assert_eq!(hits(&slots, 0x1005, STORE, &[unaligned]), [(0, 0x1008)]);
    // DC ZVA of the block: FAR may be anywhere in it.
    let zva = access(0x1000, 64, LoadStore::Store);
    assert_eq!(hits(&slots, 0x1011, STORE, &[zva]), expected);
    // An access that reaches into a range from below.
    let range = [watch_range(0x2000, 0x1000)];
    let pair = access(0x1ff8, 16, LoadStore::Store);
    assert_eq!(hits(&range, 0x1ff8, STORE, &[pair]), [(0, 0x2000)]);
}

#[test]
fn an_access_that_touches_nothing_leaves_the_decision_to_far() {
    let slots = [watch_range(0x1008, 8)];
    let elsewhere = access(0x5000, 8, LoadStore::Store);
    assert_eq!(hits(&slots, 0x1008, STORE, &[elsewhere]), [(0, 0x1008)]);
}

#[test]
fn the_number_of_the_watchpoint_is_believed() {
    let slots = [watch_range(0x1000, 8), watch_range(0x1010, 8)];
    let named = STORE.with_wptv(true).with_wpt(1);
    assert_eq!(by_far(&slots, 0x1000, named), [(1, 0x1010)]);
    let pair = access(0x1004, 16, LoadStore::Store);
    assert_eq!(hits(&slots, 0x1004, named, &[pair]), [(1, 0x1010)]);
    assert_eq!(by_far(&slots, 0x1000, named.with_wpt(5)), []);
    // SVE may report an address behind all that is watched.
    assert_eq!(by_far(&slots, 0x2000, named), [(1, 0x2000)]);
}

#[test]
fn without_a_valid_far_only_the_access_can_tell() {
    let slots = [watch_range(0x1000, 8)];
    let no_far = STORE.with_fn_v(true);
    assert_eq!(by_far(&slots, 0x1000, no_far), []);
    let store = access(0x1004, 1, LoadStore::Store);
    assert_eq!(hits(&slots, 0, no_far, &[store]), [(0, 0x1004)]);
}

#[test]
fn an_imprecise_far_stands_for_its_block() {
    let slots = [watch_range(0x1000, 8)];
    assert_eq!(by_far(&slots, 0x1020, STORE), []);
    assert_eq!(by_far(&slots, 0x1020, STORE.with_fn_p(true)), [(0, 0x1000)]);
}

#[test]
fn slots_that_are_off_are_never_hit() {
    let mut slot = watch_range(0x1000, 8);
    slot.control.set_e(false);
    assert_eq!(by_far(&[slot], 0x1000, STORE), []);
    assert_eq!(by_far(&[Watchpoint::default(); 16], 0, STORE), []);
    let named = STORE.with_wptv(true);
    assert_eq!(by_far(&[slot], 0x1000, named), []);
}

#[test]
fn a_watchpoint_at_the_end_of_the_address_space_ends() {
    let slots = [
        watch_range(u64::MAX, 1),
        watch_range(u64::MAX - 0xfff, 0x1000),
    ];
    let last = access(u64::MAX - 7, 16, LoadStore::Store);
    assert_eq!(
        hits(&slots, u64::MAX - 7, STORE, &[last]),
        [(0, u64::MAX), (1, u64::MAX - 7)]
    );
}
