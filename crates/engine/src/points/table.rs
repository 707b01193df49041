//! What clients asked for, with who asked.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64};

use trapline_arch::{Gpa, Gva};

use super::key::{
    InsertError, MAX_CONDITION_BYTES, MAX_POINTS, MAX_WATCH_BYTES, PointKey, PointKind, PointOwner,
};
use super::set::{HardwareUse, PointSet, SlotReport, SoftwarePoint};
use super::{Patch, mask_patches, write_under_patches};
use crate::condition::{Condition, Term};
use crate::contract::{
    Capabilities, GuestMemory, HardwarePoint, MAX_HARDWARE_SLOTS, PointAccess, StopReason,
    WatchKind,
};
use crate::session::SessionId;

/// The smallest page.
const PAGE_BYTES: u64 = 4096;

#[derive(Debug)]
struct Claim {
    owner: PointOwner,
    conditions: Vec<Term>,
}

#[derive(Debug)]
enum Place {
    Memory(Gpa),
    Slots(Vec<(usize, HardwarePoint)>),
}

#[derive(Debug)]
struct Point {
    claims: Vec<Claim>,
    place: Place,
    /// Where the address was mapped when the point was inserted.
    mapped: Option<Gpa>,
}

impl Point {
    /// Returns how much memory the conditions of one owner take.
    fn condition_bytes(&self, owner: PointOwner) -> usize {
        let own = self.claims.iter().filter(|claim| claim.owner == owner);
        own.flat_map(|claim| &claim.conditions)
            .map(Term::memory_bytes)
            .sum()
    }

    /// A hit counts when it does for any of the clients that asked.
    fn condition(&self) -> Condition {
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
}

/// The breakpoints and watchpoints of all clients.
#[derive(Debug)]
pub(crate) struct PointTable {
    points: BTreeMap<PointKey, Point>,
    used_slots: [bool; MAX_HARDWARE_SLOTS],
    breakpoint_instruction: &'static [u8],
    capabilities: Capabilities,
    published: Arc<PointSet>,
    is_stale: bool,
    /// How much memory all conditions take.
    condition_bytes: usize,
}

impl PointTable {
    /// Creates an empty table for guests whose breakpoint instruction is the one given.
    #[must_use]
    pub(crate) fn new(breakpoint_instruction: &'static [u8], capabilities: Capabilities) -> Self {
        Self {
            points: BTreeMap::new(),
            used_slots: [false; MAX_HARDWARE_SLOTS],
            breakpoint_instruction,
            capabilities,
            published: Arc::default(),
            is_stale: false,
            condition_bytes: 0,
        }
    }

    /// Inserts a point for `owner`, or replaces the conditions it gave before.
    ///
    /// `gpa` is where `key.address` is mapped now. A software breakpoint whose address is not mapped
    /// waits in a hardware slot, which needs no mapping.
    ///
    /// # Errors
    /// As [`InsertError`] says.
    pub(crate) fn insert(
        &mut self,
        owner: impl Into<PointOwner>,
        key: PointKey,
        conditions: Vec<Term>,
        gpa: Option<Gpa>,
    ) -> Result<(), InsertError> {
        let owner = owner.into();
        let condition_bytes = conditions.iter().map(Term::memory_bytes).sum::<usize>();
        let before = self
            .points
            .get(&key)
            .map_or(0, |point| point.condition_bytes(owner));
        let condition_bytes = self
            .condition_bytes
            .saturating_sub(before)
            .saturating_add(condition_bytes);
        if condition_bytes > MAX_CONDITION_BYTES {
            return Err(InsertError::ConditionsTooLong);
        }
        if !self.points.contains_key(&key) {
            if self.points.len() >= MAX_POINTS {
                return Err(InsertError::TooMany);
            }
            let place = self.place(key, gpa)?;
            self.points.insert(
                key,
                Point {
                    claims: Vec::new(),
                    place,
                    mapped: gpa,
                },
            );
        }
        if let Some(point) = self.points.get_mut(&key) {
            point.claims.retain(|claim| claim.owner != owner);
            point.claims.push(Claim { owner, conditions });
        }
        self.condition_bytes = condition_bytes;
        self.is_stale = true;
        Ok(())
    }

    /// Removes `owner`'s claim on a point. Returns whether there was one.
    pub(crate) fn remove(&mut self, owner: impl Into<PointOwner>, key: PointKey) -> bool {
        let owner = owner.into();
        let Some(point) = self.points.get_mut(&key) else {
            return false;
        };
        let before = point.claims.len();
        self.condition_bytes = self
            .condition_bytes
            .saturating_sub(point.condition_bytes(owner));
        point.claims.retain(|claim| claim.owner != owner);
        let removed = point.claims.len() != before;
        self.drop_unclaimed(key);
        removed
    }

    /// Removes all that a session asked for.
    pub(crate) fn release(&mut self, session: SessionId) {
        self.release_owner(PointOwner::Packets(session));
        self.release_owner(PointOwner::Monitor(session));
    }

    /// Removes all that `owner` asked for, and returns how many points that were.
    pub(crate) fn release_owner(&mut self, owner: PointOwner) -> usize {
        let keys: Vec<PointKey> = self.points.keys().copied().collect();
        keys.into_iter()
            .filter(|key| self.remove(owner, *key))
            .count()
    }

    /// Returns whether a point of that name is wanted by anybody.
    #[must_use]
    pub(crate) fn contains(&self, key: PointKey) -> bool {
        self.points.contains_key(&key)
    }

    /// Returns on whose behalf a point stands.
    pub(crate) fn owners(&self, key: PointKey) -> impl Iterator<Item = PointOwner> + '_ {
        let point = self.points.get(&key);
        point.into_iter().flat_map(|point| {
            let claims = point.claims.iter();
            claims.map(|claim| claim.owner)
        })
    }

    /// Returns whether a point stands on behalf of `owner`, perhaps among others.
    #[must_use]
    pub(crate) fn is_claimed_by(&self, owner: PointOwner, key: PointKey) -> bool {
        self.owners(key).any(|other| other == owner)
    }

    /// Returns how many points a session has asked for.
    #[must_use]
    pub(crate) fn count_of(&self, session: SessionId) -> usize {
        let is_its = |point: &&Point| {
            let mut claims = point.claims.iter();
            claims.any(|claim| claim.owner.session() == session)
        };
        self.points.values().filter(is_its).count()
    }

    /// Returns who asked for the breakpoint or watchpoint that a vCPU stopped for; nobody if it is
    /// there no more (rule R2).
    pub(crate) fn owners_of(&self, reason: StopReason) -> impl Iterator<Item = SessionId> + '_ {
        let (kind, address, gpa) = match reason {
            StopReason::SoftwareBreakpoint { address, gpa } => {
                (Some(PointKind::SoftwareBreakpoint), address, gpa)
            }
            StopReason::HardwareBreakpoint { address } => {
                (Some(PointKind::HardwareBreakpoint), address, None)
            }
            StopReason::Watchpoint { kind, watched, .. } => {
                (Some(PointKind::Watchpoint(kind)), watched, None)
            }
            _ => (None, Gva(0), None),
        };
        let named = kind.map(|kind| {
            let key = |len| PointKey { kind, address, len };
            self.points.range(key(0)..=key(u64::MAX))
        });
        let there = named.into_iter().flatten();
        there
            .filter(move |(_, point)| point.gpa() == gpa)
            .flat_map(|(_, point)| point.claims.iter().map(|claim| claim.owner.session()))
    }

    /// Returns the points with who asked for them, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PointKey, Vec<SessionId>, bool)> + '_ {
        self.points.iter().map(|(key, point)| {
            let owners = point
                .claims
                .iter()
                .map(|claim| claim.owner.session())
                .collect();
            (*key, owners, matches!(point.place, Place::Slots(_)))
        })
    }

    /// Returns the guest-physical address of a software breakpoint that stands in memory.
    #[must_use]
    pub(crate) fn gpa_of(&self, key: PointKey) -> Option<Gpa> {
        match self.points.get(&key)?.place {
            Place::Memory(gpa) => Some(gpa),
            Place::Slots(_) => None,
        }
    }

    /// Returns the hardware slots in use and how many there are.
    #[must_use]
    pub(crate) fn slot_usage(&self) -> (usize, usize) {
        let used = self.used_slots.iter().filter(|used| **used).count();
        (
            used,
            self.slot_limits()
                .iter()
                .map(ExactSizeIterator::len)
                .max()
                .unwrap_or(0),
        )
    }

    /// Brings the points into force in guest memory and returns them for the vCPUs. Call it with
    /// all vCPUs out of the guest.
    pub(crate) fn publish(&mut self, memory: &dyn GuestMemory) -> Arc<PointSet> {
        for patch in self.published.patches() {
            patch.refresh(memory);
        }
        if core::mem::take(&mut self.is_stale) {
            self.published = Arc::new(self.build(memory));
        }
        for slot in &self.published.hardware {
            slot.look(memory, self.published.patches());
        }
        Arc::clone(&self.published)
    }

    /// Brings the points into force if that has waited, as [`publish`](Self::publish) does.
    pub(crate) fn publish_changes(&mut self, memory: &dyn GuestMemory) {
        if self.is_stale {
            self.publish(memory);
        }
    }

    /// Returns the points in force.
    #[must_use]
    pub(crate) fn published(&self) -> Arc<PointSet> {
        Arc::clone(&self.published)
    }

    /// Replaces breakpoint instructions in `buffer`, which was read from `start` on, by the guest's
    /// own bytes (rule B1).
    pub(crate) fn mask(&self, start: Gpa, buffer: &mut [u8]) {
        mask_patches(self.published.patches(), start, buffer);
    }

    /// Writes guest memory under the breakpoints that stand there (rule B1). Returns how many
    /// leading bytes were written.
    pub(crate) fn write(&self, memory: &dyn GuestMemory, start: Gpa, bytes: &[u8]) -> usize {
        write_under_patches(self.published.patches(), memory, start, bytes)
    }

    fn drop_unclaimed(&mut self, key: PointKey) {
        self.is_stale = true;
        if self
            .points
            .get(&key)
            .is_some_and(|point| !point.claims.is_empty())
        {
            return;
        }
        if let Some(Point {
            place: Place::Slots(slots),
            ..
        }) = self.points.remove(&key)
        {
            for (number, _) in slots {
                if let Some(used) = self.used_slots.get_mut(number) {
                    *used = false;
                }
            }
        }
    }

    fn place(&mut self, key: PointKey, gpa: Option<Gpa>) -> Result<Place, InsertError> {
        let execute = HardwarePoint {
            address: key.address,
            len_bytes: 1,
            access: PointAccess::Execute,
        };
        match (key.kind, gpa) {
            (PointKind::SoftwareBreakpoint, Some(gpa))
                if self.capabilities.software_breakpoints =>
            {
                Ok(Place::Memory(gpa))
            }
            (PointKind::SoftwareBreakpoint, _) => self
                .take_slots(&[execute])
                .map_err(|_| InsertError::NotMapped(key.address)),
            (PointKind::HardwareBreakpoint, _) => self.take_slots(&[execute]),
            (PointKind::Watchpoint(kind), _) => {
                let parts = split_watch(key.address, key.len, kind)?;
                self.take_slots(&parts)
            }
        }
    }

    /// Returns the slot numbers for execution and those for data.
    fn slot_limits(&self) -> [core::ops::Range<usize>; 2] {
        let execute = usize::from(self.capabilities.hardware_breakpoints);
        let data = usize::from(self.capabilities.watchpoints);
        if self.capabilities.slots_are_shared {
            [0..execute, 0..data]
        } else {
            [0..execute, execute..execute.saturating_add(data)]
        }
    }

    fn take_slots(&mut self, points: &[HardwarePoint]) -> Result<Place, InsertError> {
        let [execute, data] = self.slot_limits();
        let mut used = self.used_slots;
        let mut taken = Vec::new();
        for &point in points {
            let range = if point.access == PointAccess::Execute {
                execute.clone()
            } else {
                data.clone()
            };
            if range.is_empty() {
                return Err(InsertError::Unsupported);
            }
            let slots = used.iter_mut().enumerate();
            let free = slots
                .filter(|(number, _)| range.contains(number))
                .find(|(_, used)| !**used);
            let (number, slot) = free.ok_or(InsertError::NoFreeSlot(range.len()))?;
            *slot = true;
            taken.push((number, point));
        }
        self.used_slots = used;
        Ok(Place::Slots(taken))
    }

    fn build(&self, memory: &dyn GuestMemory) -> PointSet {
        let patches = self.replant(memory);
        let mut set = PointSet {
            patches,
            ..PointSet::default()
        };
        for (key, point) in &self.points {
            match &point.place {
                Place::Memory(gpa) => {
                    if let Some(patch) = set.patch_at(*gpa).cloned() {
                        let condition = point.condition();
                        set.software.push(SoftwarePoint {
                            address: key.address,
                            patch,
                            condition,
                        });
                    }
                }
                Place::Slots(slots) => {
                    set.hardware
                        .extend(slots.iter().map(|&(slot, hardware)| HardwareUse {
                            slot,
                            point: hardware,
                            report: report(*key, point),
                            gpa: point.gpa_of_slot(hardware.address, *key),
                            last_value: AtomicU64::new(0),
                            is_value_known: AtomicBool::new(false),
                        }))
                }
            }
        }
        set.software.sort_by_key(|point| point.address);
        set
    }

    /// Lifts patches that no point wants any more and plants the missing ones. Returns all that
    /// stand, by address.
    fn replant(&self, memory: &dyn GuestMemory) -> Vec<Arc<Patch>> {
        let mut wanted: Vec<Gpa> = self.points.values().filter_map(Point::gpa).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for patch in self.published.patches() {
            if wanted.binary_search(&patch.gpa()).is_err() {
                patch.lift(memory);
            }
        }
        let plant = |gpa| match self.published.patch_at(gpa) {
            Some(patch) => Some(Arc::clone(patch)),
            None => Patch::plant(memory, gpa, self.breakpoint_instruction),
        };
        wanted.into_iter().filter_map(plant).collect()
    }
}

impl Point {
    fn gpa(&self) -> Option<Gpa> {
        match self.place {
            Place::Memory(gpa) => Some(gpa),
            Place::Slots(_) => None,
        }
    }

    /// Returns where a part of the point at `address` is, if it is in the first part's page.
    fn gpa_of_slot(&self, address: Gva, key: PointKey) -> Option<Gpa> {
        let offset = address.0.wrapping_sub(key.address.0);
        let is_near = address.align_down(PAGE_BYTES) == key.address.align_down(PAGE_BYTES);
        self.mapped
            .filter(|_| is_near)
            .map(|gpa| gpa.wrapping_add(offset))
    }
}

fn report(key: PointKey, point: &Point) -> SlotReport {
    let condition = point.condition();
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

/// Cuts a watched range into naturally aligned parts of 8, 4, 2 and 1 bytes, one slot each.
fn split_watch(address: Gva, len: u64, kind: WatchKind) -> Result<Vec<HardwarePoint>, InsertError> {
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
        let fits = |size: &u8| start.offset_in(u64::from(*size)) == 0 && u64::from(*size) <= left;
        let len_bytes = [8, 4, 2, 1].into_iter().find(fits).unwrap_or(1);
        parts.push(HardwarePoint {
            address: start,
            len_bytes,
            access,
        });
        start = start.wrapping_add(u64::from(len_bytes));
    }
    Ok(parts)
}
