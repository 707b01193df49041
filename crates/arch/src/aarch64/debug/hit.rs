//! Which watchpoint an exception came from, and at what address.
//!
//! FAR need not be a watched address. A processor may report any address from the lowest one that
//! the instruction accesses to the highest watched one of them, so that FAR lies below what is
//! watched where the access began there (LDP, LD4, an unaligned access), and DC ZVA may report any
//! address from the start of its block. What the instruction accesses is known if it was decoded; if
//! not, FAR alone must do.
//!
//! Source: Arm ARM, "Determining the memory location that caused a Watchpoint exception".

use alloc::vec::Vec;

use super::{LoadStore, Watchpoint};
use crate::{
    Gva,
    aarch64::{control::Dczid, exception::WatchpointSyndrome},
};

/// A range of memory that an instruction accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The virtual address of the first byte, without a tag.
    pub address: Gva,
    /// How many bytes there are, at least 1.
    pub len_bytes: u64,
    /// How they are accessed.
    pub kind: LoadStore,
}

impl Access {
    /// Returns the address of the last byte.
    #[must_use]
    pub const fn last(self) -> Gva {
        Gva(self
            .address
            .0
            .saturating_add(self.len_bytes.saturating_sub(1)))
    }
}

/// A watchpoint that an access has hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchHit {
    /// Its number.
    pub index: usize,
    /// The lowest watched byte that was accessed, as far as it is known.
    pub address: Gva,
}

/// Returns the watchpoints that an exception came from, in the order of their numbers. There is none
/// if the exception is not of any of `watchpoints`.
///
/// `far` is FAR without a tag; `accesses` is what the instruction accesses, and empty if that is not
/// known; `dczid` bounds how far below the watched address FAR can be. Other conditions (privileges,
/// a linked context) are not looked at.
#[must_use]
pub fn watch_hits(
    watchpoints: &[Watchpoint],
    far: Gva,
    syndrome: WatchpointSyndrome,
    accesses: &[Access],
    dczid: Dczid,
) -> Vec<WatchHit> {
    let by_access = hits_by_access(watchpoints, accesses);
    if syndrome.wptv() {
        return named(watchpoints, far, syndrome, &by_access, dczid);
    }
    if !by_access.is_empty() {
        return by_access;
    }
    hits_by_far(watchpoints, far, syndrome, dczid)
}

/// The processor has given the watchpoint's number, so only the address is in question.
fn named(
    watchpoints: &[Watchpoint],
    far: Gva,
    syndrome: WatchpointSyndrome,
    by_access: &[WatchHit],
    dczid: Dczid,
) -> Vec<WatchHit> {
    let index = usize::from(syndrome.wpt());
    if let Some(hit) = by_access.iter().find(|hit| hit.index == index) {
        return [*hit].into();
    }
    let watchpoint = watchpoints.get(index).filter(|slot| slot.control.e());
    let hit = watchpoint.map(|slot| WatchHit {
        index,
        address: slot
            .lowest_watched(far, last_of_block(far, dczid))
            .unwrap_or(far),
    });
    hit.into_iter().collect()
}

fn hits_by_access(watchpoints: &[Watchpoint], accesses: &[Access]) -> Vec<WatchHit> {
    let lowest = |slot: &Watchpoint| {
        let met = accesses
            .iter()
            .filter(|access| slot.control.lsc().meets(access.kind));
        met.filter_map(|access| slot.lowest_watched(access.address, access.last()))
            .min()
    };
    let slots = watchpoints.iter().enumerate();
    slots
        .filter_map(|(index, slot)| {
            let address = lowest(slot)?;
            Some(WatchHit { index, address })
        })
        .collect()
}

/// Takes the watched bytes nearest above FAR, in the largest block that the architecture allows FAR
/// to be off by.
fn hits_by_far(
    watchpoints: &[Watchpoint],
    far: Gva,
    syndrome: WatchpointSyndrome,
    dczid: Dczid,
) -> Vec<WatchHit> {
    if syndrome.fn_v() {
        return Vec::new();
    }
    // Where FAR is not precise the access may have been below it, too.
    let first = if syndrome.fn_p() {
        far.align_down(dczid.block_bytes())
    } else {
        far
    };
    let kind = if syndrome.w_n_r() {
        LoadStore::Store
    } else {
        LoadStore::Load
    };
    let last = last_of_block(far, dczid);
    let slots = watchpoints.iter().enumerate();
    let candidates: Vec<WatchHit> = slots
        .filter(|(_, slot)| slot.control.lsc().meets(kind))
        .filter_map(|(index, slot)| {
            let address = slot.lowest_watched(first, last)?;
            Some(WatchHit { index, address })
        })
        .collect();
    let nearest = candidates.iter().map(|hit| hit.address).min();
    candidates
        .into_iter()
        .filter(|hit| Some(hit.address) == nearest)
        .collect()
}

fn last_of_block(far: Gva, dczid: Dczid) -> Gva {
    Gva(far.0 | dczid.block_bytes().wrapping_sub(1))
}
