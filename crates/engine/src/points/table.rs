//! What clients asked for, with who asked.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64};

use trapline_arch::{Architecture, Gpa, Gva};

use super::key::{InsertError, MAX_CONDITION_BYTES, MAX_POINTS, PointKey, PointKind, PointOwner};
use super::point::{Claim, Place, Point, Site, report, split_watch};
use super::set::{HardwareUse, PointSet, SoftwarePoint};
use super::{Patch, mask_patches, write_under_patches};
use crate::condition::Term;
use crate::contract::{
    Capabilities, GuestMemory, HardwarePoint, MAX_HARDWARE_SLOTS, PointAccess, StopReason,
};
use crate::session::SessionId;

/// The breakpoints and watchpoints of all clients.
#[derive(Debug)]
pub(crate) struct PointTable {
    points: BTreeMap<Site, Point>,
    used_slots: [bool; MAX_HARDWARE_SLOTS],
    architecture: Architecture,
    capabilities: Capabilities,
    published: Arc<PointSet>,
    is_stale: bool,
    /// How much memory all conditions take.
    condition_bytes: usize,
}

impl PointTable {
    /// Creates an empty table for guests of an architecture.
    #[must_use]
    pub(crate) fn new(architecture: Architecture, capabilities: Capabilities) -> Self {
        Self {
            points: BTreeMap::new(),
            used_slots: [false; MAX_HARDWARE_SLOTS],
            architecture,
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
        let planted = gpa.filter(|_| self.is_planted(key.kind));
        let own: Vec<Site> = self.sites_of(owner, key).collect();
        // That the address is not mapped now says nothing about a breakpoint that stands.
        let site = match (planted, own.first()) {
            (None, Some(site)) => *site,
            _ => Site { key, gpa: planted },
        };
        let bytes = conditions.iter().map(Term::memory_bytes).sum::<usize>();
        let bytes = self
            .condition_bytes
            .saturating_sub(self.condition_bytes_of(owner, key))
            .saturating_add(bytes);
        if bytes > MAX_CONDITION_BYTES {
            return Err(InsertError::ConditionsTooLong);
        }
        if !self.points.contains_key(&site) {
            if self.points.len() >= MAX_POINTS {
                return Err(InsertError::TooMany);
            }
            let place = self.place(key, gpa)?;
            self.points.insert(
                site,
                Point {
                    claims: Vec::new(),
                    place,
                    mapped: gpa,
                },
            );
        }
        for former in own {
            self.unclaim(owner, former, Some(site));
        }
        if let Some(point) = self.points.get_mut(&site) {
            point.claims.push(Claim { owner, conditions });
        }
        self.condition_bytes = bytes;
        self.is_stale = true;
        Ok(())
    }

    /// Removes `owner`'s claim on a point. Returns whether there was one.
    pub(crate) fn remove(&mut self, owner: impl Into<PointOwner>, key: PointKey) -> bool {
        let owner = owner.into();
        let sites: Vec<Site> = self.sites_of(owner, key).collect();
        let bytes = self.condition_bytes_of(owner, key);
        self.condition_bytes = self.condition_bytes.saturating_sub(bytes);
        for site in &sites {
            self.unclaim(owner, *site, None);
        }
        !sites.is_empty()
    }

    /// Returns where an owner's point of that name stands: at one place, or nowhere.
    fn sites_of(&self, owner: PointOwner, key: PointKey) -> impl Iterator<Item = Site> + '_ {
        let sites = self.points.range(Site::all_of(key));
        sites
            .filter(move |(_, point)| point.is_claimed_by(owner))
            .map(|(site, _)| *site)
    }

    fn condition_bytes_of(&self, owner: PointOwner, key: PointKey) -> usize {
        let sites = self.points.range(Site::all_of(key));
        sites.map(|(_, point)| point.condition_bytes(owner)).sum()
    }

    /// Returns whether points of a kind are planted in memory where they are mapped.
    fn is_planted(&self, kind: PointKind) -> bool {
        kind == PointKind::SoftwareBreakpoint && self.capabilities.software_breakpoints
    }

    /// Removes all that a session asked for.
    pub(crate) fn release(&mut self, session: SessionId) {
        self.release_owner(PointOwner::Packets(session));
        self.release_owner(PointOwner::Monitor(session));
    }

    /// Removes all that `owner` asked for, and returns how many points that were.
    pub(crate) fn release_owner(&mut self, owner: PointOwner) -> usize {
        let claimed = self.points.iter();
        let claimed = claimed.filter(|(_, point)| point.is_claimed_by(owner));
        let keys: Vec<PointKey> = claimed.map(|(site, _)| site.key).collect();
        keys.into_iter()
            .filter(|key| self.remove(owner, *key))
            .count()
    }

    /// Returns whether a point of that name is wanted by anybody.
    #[must_use]
    pub(crate) fn contains(&self, key: PointKey) -> bool {
        self.points.range(Site::all_of(key)).next().is_some()
    }

    /// Returns on whose behalf a point stands.
    pub(crate) fn owners(&self, key: PointKey) -> impl Iterator<Item = PointOwner> + '_ {
        let points = self.points.range(Site::all_of(key));
        points.flat_map(|(_, point)| {
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

    /// Returns the point that a vCPU stopped for, unless it is there no more.
    pub(crate) fn key_of(&self, reason: StopReason) -> Option<PointKey> {
        self.points_of(reason).next().map(|(site, _)| site.key)
    }

    /// Returns who asked for the point that a vCPU stopped for, and on which conditions; nobody if it
    /// is there no more (rule R2).
    pub(crate) fn claims_of(
        &self,
        reason: StopReason,
    ) -> impl Iterator<Item = (PointOwner, &[Term])> + '_ {
        self.points_of(reason).flat_map(|(_, point)| {
            let claims = point.claims.iter();
            claims.map(|claim| (claim.owner, claim.conditions.as_slice()))
        })
    }

    fn points_of(&self, reason: StopReason) -> impl Iterator<Item = (&Site, &Point)> + '_ {
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
            let (first, last) = (Site::all_of(key(0)), Site::all_of(key(u64::MAX)));
            self.points.range(*first.start()..=*last.end())
        });
        let there = named.into_iter().flatten();
        there.filter(move |(_, point)| point.gpa() == gpa)
    }

    /// Returns the names of all points, ascending and each once.
    pub(crate) fn keys(&self) -> impl Iterator<Item = PointKey> + '_ {
        let mut last = None;
        let keys = self.points.keys().map(|site| site.key);
        keys.filter(move |key| last.replace(*key) != Some(*key))
    }

    /// Returns the bytes that a software breakpoint is planted at: none if it is in a slot, several
    /// if clients set it in several address spaces.
    pub(crate) fn gpas_of(&self, key: PointKey) -> impl Iterator<Item = Gpa> + '_ {
        let points = self.points.range(Site::all_of(key));
        points.filter_map(|(_, point)| point.gpa())
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

    /// Takes an owner's claim from a point, and the point away if nobody wants it any more, unless it
    /// is the one to `keep`.
    fn unclaim(&mut self, owner: PointOwner, site: Site, keep: Option<Site>) {
        self.is_stale = true;
        let Some(point) = self.points.get_mut(&site) else {
            return;
        };
        point.claims.retain(|claim| claim.owner != owner);
        if !point.claims.is_empty() || keep == Some(site) {
            return;
        }
        if let Some(Point {
            place: Place::Slots(slots),
            ..
        }) = self.points.remove(&site)
        {
            for (number, _) in slots {
                if let Some(used) = self.used_slots.get_mut(number) {
                    *used = false;
                }
            }
        }
    }

    fn place(&mut self, key: PointKey, gpa: Option<Gpa>) -> Result<Place, InsertError> {
        let alignment = self.architecture.breakpoint_alignment_bytes();
        if !matches!(key.kind, PointKind::Watchpoint(_)) && key.address.offset_in(alignment) != 0 {
            return Err(InsertError::Misaligned(key.address, alignment));
        }
        let execute = HardwarePoint::execute_at(self.architecture, key.address);
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
                let parts = split_watch(self.architecture, key.address, key.len, kind)?;
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

    /// Returns how many slots for execution and how many for data are in use, and how many there are
    /// of each.
    pub(crate) fn slots_in_use(&self) -> [(usize, usize); 2] {
        self.slot_limits().map(|range| {
            let count = range.len();
            let used = self.used_slots.get(range).unwrap_or_default();
            (used.iter().filter(|used| **used).count(), count)
        })
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
                return Err(InsertError::Unsupported(point.access));
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
        for (site, point) in &self.points {
            let key = site.key;
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
                            report: report(key, point.condition()),
                            gpa: point.gpa_of_slot(hardware.address, key),
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
            None => Patch::plant(memory, gpa, self.architecture.software_breakpoint()),
        };
        wanted.into_iter().filter_map(plant).collect()
    }
}
