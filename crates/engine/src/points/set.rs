//! The points in force during one resume, as every vCPU sees them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use trapline_arch::{Gpa, Gva};

use super::{Patch, mask_patches};
use crate::condition::Condition;
use crate::contract::{GuestMemory, HardwarePoint, HardwarePoints, WatchKind};

/// A breakpoint at a patched instruction.
#[derive(Clone, Debug)]
pub(crate) struct SoftwarePoint {
    /// The address that the client gave, without tag bits.
    pub(crate) address: Gva,
    /// The instruction that carries it.
    pub(crate) patch: Arc<Patch>,
    /// When it counts as a hit.
    pub(crate) condition: Condition,
}

/// What a hit of a hardware slot is reported as.
#[derive(Clone, Debug)]
pub(crate) enum SlotReport {
    /// A software breakpoint that stands in a hardware slot, because its address was not mapped
    /// when it was inserted.
    SoftwareBreakpoint(Condition),
    /// A hardware breakpoint.
    HardwareBreakpoint(Condition),
    /// A watchpoint, or one aligned part of it.
    Watchpoint {
        /// The kind that the client asked for.
        kind: WatchKind,
        /// The watchpoint's first address.
        watched: Gva,
        /// When it counts as a hit.
        condition: Condition,
    },
}

/// A hardware slot and what it is for.
#[derive(Debug)]
pub(crate) struct HardwareUse {
    /// Slot number.
    pub(crate) slot: usize,
    /// What the slot traps.
    pub(crate) point: HardwarePoint,
    /// What a hit is reported as.
    pub(crate) report: SlotReport,
    /// Where the watched memory was when the watchpoint was set.
    pub(super) gpa: Option<Gpa>,
    /// What stood in the watched memory when last looked at, little-endian.
    pub(super) last_value: AtomicU64,
    /// Whether it was looked at.
    pub(super) is_value_known: AtomicBool,
}

/// The points in force during one resume.
#[derive(Debug, Default)]
pub struct PointSet {
    pub(super) software: Vec<SoftwarePoint>,
    pub(super) patches: Vec<Arc<Patch>>,
    pub(super) hardware: Vec<HardwareUse>,
}

impl PointSet {
    /// Returns the breakpoint at virtual address `pc`, if it is the one patched at `gpa`.
    ///
    /// A patched byte that is reached by another virtual address is no hit: the client knows no
    /// breakpoint there.
    #[must_use]
    pub(crate) fn software_at(&self, pc: Gva, gpa: Gpa) -> Option<&SoftwarePoint> {
        let first = self.software.partition_point(|point| point.address < pc);
        let same = self.software.get(first..).unwrap_or_default().iter();
        same.take_while(|point| point.address == pc)
            .find(|point| point.patch.gpa() == gpa)
    }

    /// Returns the patch at `gpa`.
    #[must_use]
    pub(crate) fn patch_at(&self, gpa: Gpa) -> Option<&Arc<Patch>> {
        let index = self
            .patches
            .binary_search_by_key(&gpa, |patch| patch.gpa())
            .ok()?;
        self.patches.get(index)
    }

    /// Returns all patches, by ascending address.
    #[must_use]
    pub(crate) fn patches(&self) -> &[Arc<Patch>] {
        &self.patches
    }

    /// Returns whether any breakpoint may stand at `pc`: a cheap test before the exact one.
    #[must_use]
    pub(crate) fn may_break_at(&self, pc: Gva) -> bool {
        self.software
            .binary_search_by_key(&pc, |point| point.address)
            .is_ok()
            || self.execute_slots_at(pc).next().is_some()
    }

    /// Returns the hardware slots that hold an execution breakpoint at `pc`.
    pub(crate) fn execute_slots_at(&self, pc: Gva) -> impl Iterator<Item = &HardwareUse> {
        self.hardware
            .iter()
            .filter(move |slot| slot.is_execute() && slot.point.address == pc)
    }

    /// Returns the first slot of the watchpoint at `watched`.
    #[must_use]
    pub(crate) fn slot_watching(&self, watched: Gva) -> Option<usize> {
        let is_it = |slot: &&HardwareUse| matches!(&slot.report, SlotReport::Watchpoint { watched: at, .. } if *at == watched);
        self.hardware.iter().find(is_it).map(|slot| slot.slot)
    }

    /// Returns what slot `number` is for.
    #[must_use]
    pub(crate) fn slot(&self, number: usize) -> Option<&HardwareUse> {
        self.hardware.iter().find(|slot| slot.slot == number)
    }

    /// Returns what the slots trap while the vCPU runs freely.
    #[must_use]
    pub(crate) fn hardware_points(&self) -> HardwarePoints {
        self.points_where(|_| true)
    }

    /// Returns what the slots trap while the vCPU is stepped: the engine itself compares the pc
    /// after each step, so execution breakpoints leave their slots free. Bit n of `except` leaves
    /// slot n out.
    #[must_use]
    pub(crate) fn watch_points(&self, except: u32) -> HardwarePoints {
        let is_left_out = |slot: &HardwareUse| {
            let bit = u32::try_from(slot.slot).ok();
            bit.is_some_and(|bit| except.checked_shr(bit).unwrap_or(0) & 1 != 0)
        };
        self.points_where(|slot| !slot.is_execute() && !is_left_out(slot))
    }

    fn points_where(&self, wanted: impl Fn(&HardwareUse) -> bool) -> HardwarePoints {
        let mut points = HardwarePoints::default();
        for slot in self.hardware.iter().filter(|slot| wanted(slot)) {
            points.set(slot.slot, Some(slot.point));
        }
        points
    }
}

impl HardwareUse {
    /// Remembers what stands in the watched memory now. Returns whether that is what stood there
    /// before: an access that changed nothing was, as far as can be told, a read. So is one before
    /// which nothing was known.
    #[must_use]
    pub(crate) fn note_value(&self, value: u64) -> bool {
        let was_known = self.is_value_known.swap(true, Ordering::AcqRel);
        let is_same = self.last_value.swap(value, Ordering::AcqRel) == value;
        is_same || !was_known
    }

    /// Looks at the memory of a read watchpoint before vCPUs run.
    pub(super) fn look(&self, memory: &dyn GuestMemory, patches: &[Arc<Patch>]) {
        let SlotReport::Watchpoint {
            kind: WatchKind::Read,
            ..
        } = self.report
        else {
            return;
        };
        let mut bytes = [0; 8];
        let len = self.point.len_in(&bytes);
        let watched = bytes.get_mut(..len).unwrap_or_default();
        let read = self.gpa.map(|gpa| {
            let read = memory.read_physical(gpa, watched);
            mask_patches(patches, gpa, watched);
            read
        });
        self.is_value_known
            .store(read == Some(len), Ordering::Release);
        self.last_value
            .store(u64::from_le_bytes(bytes), Ordering::Release);
    }

    fn is_execute(&self) -> bool {
        !matches!(self.report, SlotReport::Watchpoint { .. })
    }
}
