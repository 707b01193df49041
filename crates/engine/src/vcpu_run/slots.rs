//! What the hardware slots of one entry are for: the debugger's points, the guest's own beside
//! them (rule R9), and guards that catch where a step leads.

use crate::contract::{
    Capabilities, HardwarePoint, HardwarePoints, MAX_HARDWARE_SLOTS, PointAccess,
};

/// What one slot is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// Unused.
    #[default]
    Free,
    /// A point of the debugger's.
    Debugger,
    /// A point of the guest's own.
    Guest,
    /// The first instruction of an exception handler.
    Exception {
        /// Whether the processor pushes an error code for it.
        pushes_error: bool,
    },
    /// The one place where the instruction being stepped can lead.
    Target,
}

/// The slots of one entry with their roles.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotPlan {
    points: HardwarePoints,
    roles: [Role; MAX_HARDWARE_SLOTS],
}

impl SlotPlan {
    /// Starts with the debugger's own points.
    pub(super) fn new(points: HardwarePoints) -> Self {
        let mut roles = [Role::Free; MAX_HARDWARE_SLOTS];
        for (number, _) in points.iter() {
            if let Some(role) = roles.get_mut(number) {
                *role = Role::Debugger;
            }
        }
        Self { points, roles }
    }

    /// Returns what the debug registers are to trap.
    pub(super) fn points(&self) -> HardwarePoints {
        self.points
    }

    /// Returns whether no slot is in use.
    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Adds the guest's own points to the slots that the debugger leaves free.
    pub(super) fn add_guest_points(&mut self, guest: &HardwarePoints, capabilities: &Capabilities) {
        for (_, point) in guest.iter() {
            self.insert(point, Role::Guest, capabilities);
        }
    }

    /// Sets a trap on execution at `point`. Returns whether a slot was free for it.
    pub(super) fn insert(
        &mut self,
        point: HardwarePoint,
        role: Role,
        capabilities: &Capabilities,
    ) -> bool {
        let limit = usize::from(match point.access {
            PointAccess::Execute => capabilities.hardware_breakpoints,
            PointAccess::Write | PointAccess::Read | PointAccess::ReadWrite => {
                capabilities.watchpoints
            }
        });
        let Some(number) = self.points.insert(point, limit) else {
            return false;
        };
        if let Some(slot) = self.roles.get_mut(number) {
            *slot = role;
        }
        true
    }

    /// Returns whether `point` is set already in the same role.
    pub(super) fn has(&self, point: HardwarePoint, role: Role) -> bool {
        let set = self.points.iter();
        set.filter(|(_, set)| *set == point)
            .any(|(number, _)| self.roles.get(number) == Some(&role))
    }

    /// Sets a trap that the step cannot do without: if no slot is free it takes the last one from
    /// whoever has it, for this one instruction.
    pub(super) fn insert_by_force(
        &mut self,
        point: HardwarePoint,
        role: Role,
        capabilities: &Capabilities,
    ) {
        if self.insert(point, role, capabilities) {
            return;
        }
        let Some(last) = usize::from(capabilities.hardware_breakpoints).checked_sub(1) else {
            return;
        };
        self.points.set(last, Some(point));
        if let Some(slot) = self.roles.get_mut(last) {
            *slot = role;
        }
    }

    /// Returns the roles of the slots whose bits are set in `hit`.
    pub(super) fn hit_roles(&self, hit: u32) -> impl Iterator<Item = (usize, Role)> + '_ {
        let numbered = self.roles.iter().enumerate();
        numbered
            .filter(move |(number, _)| {
                u32::try_from(*number).is_ok_and(|bit| hit.checked_shr(bit).unwrap_or(0) & 1 != 0)
            })
            .map(|(number, role)| (number, *role))
    }

    /// Returns whether a slot in `hit` has a purpose, in this entry or, if the entry used no slots,
    /// for the guest: the processor may mark slots that are off too.
    pub(super) fn has_role(&self, hit: u32) -> bool {
        if self.is_empty() {
            return hit != 0;
        }
        self.hit_roles(hit).any(|(_, role)| role != Role::Free)
    }

    /// Returns whether a slot in `hit` holds a point of the guest's own.
    pub(super) fn hits_guest(&self, hit: u32) -> bool {
        self.hit_roles(hit).any(|(_, role)| role == Role::Guest)
    }

    /// Returns which of the guest's points, as they are in `guest` now, the slots in `hit` stand
    /// for: bit n for its point n.
    pub(super) fn guest_cause(&self, hit: u32, guest: &HardwarePoints) -> u64 {
        let met = |point: &HardwarePoint| {
            self.hit_roles(hit)
                .any(|(slot, role)| role == Role::Guest && self.points.slot(slot) == Some(*point))
        };
        let numbers = guest.iter().filter(|(_, point)| met(point));
        numbers.fold(0, |bits, (number, _)| {
            bits | u32::try_from(number).map_or(0, |number| 1_u64.wrapping_shl(number))
        })
    }
}
