//! One breakpoint or watchpoint: where it stands, and on whose behalf.

use alloc::vec::Vec;

use trapline_arch::aarch64::debug::{self, WatchPiece};
use trapline_arch::aarch64::registers::MAX_DEBUG_SLOTS;
use trapline_arch::{Architecture, Gpa, Gva};

use super::key::{InsertError, MAX_WATCH_BYTES, PointKey, PointKind, PointOwner};
use super::set::SlotReport;
use crate::condition::{Condition, Term};
use crate::contract::{HardwarePoint, PointAccess, WatchKind};

/// The smallest page.
const PAGE_BYTES: u64 = 4096;

/// A point's name, and the byte that it is planted at if it is one in memory: in two address spaces
/// the same address may be two bytes (rule B2). Points in hardware slots are in all address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Site {
    pub(super) key: PointKey,
    pub(super) gpa: Option<Gpa>,
}

impl Site {
    /// Returns the range of all sites of a point.
    pub(super) const fn all_of(key: PointKey) -> core::ops::RangeInclusive<Self> {
        let (first, last) = (None, Some(Gpa(u64::MAX)));
        Self { key, gpa: first }..=Self { key, gpa: last }
    }
}

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) owner: PointOwner,
    pub(super) conditions: Vec<Term>,
}

#[derive(Debug)]
pub(super) enum Place {
    Memory(Gpa),
    Slots(Vec<(usize, HardwarePoint)>),
}

#[derive(Debug)]
pub(super) struct Point {
    pub(super) claims: Vec<Claim>,
    pub(super) place: Place,
    /// Where the address was mapped when the point was inserted.
    pub(super) mapped: Option<Gpa>,
}

impl Point {
    pub(super) fn is_claimed_by(&self, owner: PointOwner) -> bool {
        self.claims.iter().any(|claim| claim.owner == owner)
    }

    /// Returns how much memory the conditions of one owner take.
    pub(super) fn condition_bytes(&self, owner: PointOwner) -> usize {
        let own = self.claims.iter().filter(|claim| claim.owner == owner);
        own.flat_map(|claim| &claim.conditions)
            .map(Term::memory_bytes)
            .sum()
    }

    /// A hit counts when it does for any of the clients that asked.
    pub(super) fn condition(&self) -> Condition {
        if self.claims.iter().any(|claim| claim.conditions.is_empty()) {
            return Condition::Always;
        }
        Condition::Any(
            self.claims
                .iter()
                .flat_map(|claim| claim.conditions.clone())
                .collect(),
        )
    }

    /// Returns the byte that the point is planted at.
    pub(super) fn gpa(&self) -> Option<Gpa> {
        match self.place {
            Place::Memory(gpa) => Some(gpa),
            Place::Slots(_) => None,
        }
    }

    /// Returns where a part of the point at `address` is, if it is in the first part's page.
    pub(super) fn gpa_of_slot(&self, address: Gva, key: PointKey) -> Option<Gpa> {
        let offset = address.0.wrapping_sub(key.address.0);
        let is_near = address.align_down(PAGE_BYTES) == key.address.align_down(PAGE_BYTES);
        self.mapped
            .filter(|_| is_near)
            .map(|gpa| gpa.wrapping_add(offset))
    }
}

/// Returns what a hit of a point in a slot is reported as.
pub(super) fn report(key: PointKey, condition: Condition) -> SlotReport {
    match key.kind {
        PointKind::SoftwareBreakpoint => SlotReport::SoftwareBreakpoint(condition),
        PointKind::HardwareBreakpoint => SlotReport::HardwareBreakpoint(condition),
        PointKind::Watchpoint(kind) => SlotReport::Watchpoint {
            kind,
            watched: key.address,
            condition,
        },
    }
}

/// Cuts a watched range into parts that a slot can hold.
pub(super) fn split_watch(
    architecture: Architecture,
    address: Gva,
    len: u64,
    kind: WatchKind,
) -> Result<Vec<HardwarePoint>, InsertError> {
    match architecture {
        Architecture::X86_64 => split_aligned(address, len, kind),
        Architecture::Aarch64 => split_by_bytes(address, len, kind),
    }
}

/// Cuts a watched range into naturally aligned parts of 8, 4, 2 and 1 bytes.
fn split_aligned(
    address: Gva,
    len: u64,
    kind: WatchKind,
) -> Result<Vec<HardwarePoint>, InsertError> {
    let end = address
        .checked_add(len)
        .ok_or(InsertError::BadLength(len))?;
    if len == 0 || len > MAX_WATCH_BYTES {
        return Err(InsertError::BadLength(len));
    }
    let access = match kind {
        WatchKind::Write => PointAccess::Write,
        WatchKind::Read | WatchKind::Access => PointAccess::ReadWrite,
    };
    let mut parts = Vec::new();
    let mut start = address;
    while start < end {
        let left = end.0.saturating_sub(start.0);
        let fits = |size: &u64| start.offset_in(*size) == 0 && *size <= left;
        let len_bytes = [8, 4, 2, 1].into_iter().find(fits).unwrap_or(1);
        parts.push(HardwarePoint {
            address: start,
            len_bytes,
            access,
        });
        start = start.wrapping_add(len_bytes);
    }
    Ok(parts)
}

/// Cuts a watched range into adjacent bytes of doublewords and into aligned ranges.
fn split_by_bytes(
    address: Gva,
    len: u64,
    kind: WatchKind,
) -> Result<Vec<HardwarePoint>, InsertError> {
    let access = match kind {
        WatchKind::Write => PointAccess::Write,
        WatchKind::Read => PointAccess::Read,
        WatchKind::Access => PointAccess::ReadWrite,
    };
    let pieces = debug::split_watch(address, len, MAX_DEBUG_SLOTS.into());
    let pieces = pieces.map_err(|_| InsertError::BadLength(len))?;
    let part = |piece: WatchPiece| HardwarePoint {
        address: piece.start(),
        len_bytes: piece.len_bytes(),
        access,
    };
    Ok(pieces.into_iter().map(part).collect())
}
