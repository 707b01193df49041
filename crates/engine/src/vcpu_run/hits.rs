//! Whether a breakpoint or watchpoint that was met is a hit, decided on the spot.

use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::{Architecture, Gva, Layout, WatchTiming};

use super::slots::{Role, SlotPlan};
use super::{First, State, VcpuRun};
use crate::condition::{Condition, Environment};
use crate::contract::{AccessError, StopReason, Vcpu, VmExit, WatchKind};
use crate::cpu::Cpu;
use crate::points::{PointSet, SlotReport};

/// What a debug exit says.
#[derive(Clone, Debug, Default)]
pub(super) struct Hit {
    /// A single step ended.
    pub(super) is_step: bool,
    /// The slots that hit, bit n for slot n.
    pub(super) slots: u32,
    /// The data address, where the hardware tells one for all slots.
    pub(super) data_address: Option<Gva>,
    /// The data addresses of single slots.
    pub(super) addresses: Vec<(usize, Gva)>,
}

impl Hit {
    /// Takes what an exit says by itself.
    pub(super) fn of_exit(exit: VmExit) -> Self {
        match exit {
            VmExit::Debug {
                step,
                slots,
                data_address,
            } => Self {
                is_step: step,
                slots,
                data_address,
                addresses: Vec::new(),
            },
            _ => Self::default(),
        }
    }

    /// Returns the data address that a slot was hit with.
    fn address_in(&self, slot: usize) -> Option<Gva> {
        let mut own = self.addresses.iter();
        own.find(|(number, _)| *number == slot)
            .map(|(_, address)| *address)
            .or(self.data_address)
    }
}

/// What a hit of hardware slots comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotHit {
    /// No slot of the debugger's hit.
    None,
    /// A breakpoint was met that does not count: go on past it.
    Pass,
    /// Stop.
    Stop(StopReason),
}

/// The guest as a condition sees it.
struct VcpuEnvironment<'a> {
    cpu: &'a mut Cpu,
    vcpu: &'a mut dyn Vcpu,
    points: &'a PointSet,
}

impl Environment for VcpuEnvironment<'_> {
    fn register(&mut self, layout: &Layout, number: u16) -> Option<u64> {
        let entry = layout.by_number(number.into())?;
        let file = self
            .cpu
            .ensure(&mut self.vcpu, entry.register.group.into())
            .ok()?;
        Some(file.u64(entry.id))
    }

    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool {
        let Ok(space) = self.cpu.address_space(&mut self.vcpu) else {
            return false;
        };
        space.read(self.vcpu.memory(), self.points, address, buffer) == buffer.len()
    }
}

impl VcpuRun {
    fn holds(&mut self, vcpu: &mut dyn Vcpu, condition: &Condition) -> bool {
        let points = Arc::clone(&self.points);
        let mut environment = VcpuEnvironment {
            cpu: &mut self.cpu,
            vcpu,
            points: &points,
        };
        condition.holds(&mut environment)
    }

    /// Decides about a breakpoint instruction that was met while running freely.
    pub(super) fn breakpoint_instruction(
        &mut self,
        vcpu: &mut dyn Vcpu,
    ) -> Result<State, AccessError> {
        if self.patch_at_pc(vcpu)?.is_none() {
            self.give_guest_its_breakpoint(vcpu)?;
            return Ok(State::Ready { first: First::Meet });
        }
        Ok(match self.point_at_pc(vcpu)? {
            Some(reason) => State::Stopped(reason),
            None => State::Ready { first: First::Pass },
        })
    }

    /// Returns the breakpoint at the pc as a stop, if its condition holds.
    pub(super) fn point_at_pc(
        &mut self,
        mut vcpu: &mut dyn Vcpu,
    ) -> Result<Option<StopReason>, AccessError> {
        let pc = self.cpu.pc(&mut vcpu)?;
        let points = Arc::clone(&self.points);
        if !points.may_break_at(pc) {
            return Ok(None);
        }
        let gpa = self.cpu.address_space(&mut vcpu)?.gpa(vcpu.memory(), pc);
        if let Some(point) = gpa.and_then(|gpa| points.software_at(pc, gpa))
            && self.holds(vcpu, &point.condition)
        {
            let gpa = point.patch.gpa();
            return Ok(Some(StopReason::SoftwareBreakpoint {
                address: pc,
                gpa: Some(gpa),
            }));
        }
        for slot in points.execute_slots_at(pc) {
            if let Some(reason) = self.execute_hit(vcpu, pc, &slot.report) {
                return Ok(Some(reason));
            }
        }
        Ok(None)
    }

    /// Decides about the slots in `hit`.
    pub(super) fn slot_hit(
        &mut self,
        vcpu: &mut dyn Vcpu,
        slots: &SlotPlan,
        hit: &Hit,
    ) -> Result<SlotHit, AccessError> {
        let points = Arc::clone(&self.points);
        let mut met_breakpoint = false;
        let mut met_watchpoint = false;
        for (number, role) in slots.hit_roles(hit.slots) {
            let Some(slot) = points.slot(number).filter(|_| role == Role::Debugger) else {
                continue;
            };
            if let SlotReport::Watchpoint {
                kind,
                watched,
                condition,
            } = &slot.report
            {
                let address = hit.address_in(number).unwrap_or(slot.point.address);
                met_watchpoint = true;
                if self.watch_counts(vcpu, *kind, slot.slot) && self.holds(vcpu, condition) {
                    let (kind, watched) = (*kind, *watched);
                    self.note_met(slots, hit.slots);
                    return Ok(SlotHit::Stop(StopReason::Watchpoint {
                        kind,
                        watched,
                        address,
                    }));
                }
            } else {
                met_breakpoint = true;
            }
        }
        if met_watchpoint && self.watch_timing() == WatchTiming::BeforeAccess {
            self.note_met(slots, hit.slots);
            return Ok(SlotHit::Pass);
        }
        if !met_breakpoint {
            return Ok(SlotHit::None);
        }
        Ok(self.point_at_pc(vcpu)?.map_or(SlotHit::Pass, SlotHit::Stop))
    }

    fn watch_timing(&self) -> WatchTiming {
        self.cpu.architecture().watch_timing()
    }

    /// Remembers the watchpoints of the debugger's that the next instruction meets, where it is yet
    /// to be executed: they are off for it when it is.
    fn note_met(&mut self, slots: &SlotPlan, hit: u32) {
        if self.watch_timing() == WatchTiming::AfterAccess {
            return;
        }
        let roles = slots.hit_roles(hit);
        let ours = roles.filter(|(_, role)| *role == Role::Debugger);
        for (number, _) in ours {
            let bit = u32::try_from(number).map_or(0, |bit| 1_u32.unbounded_shl(bit));
            self.met_watchpoints |= bit;
        }
        self.owes_pass = true;
    }

    fn execute_hit(
        &mut self,
        vcpu: &mut dyn Vcpu,
        pc: Gva,
        report: &SlotReport,
    ) -> Option<StopReason> {
        match report {
            SlotReport::SoftwareBreakpoint(condition) => {
                self.holds(vcpu, condition)
                    .then_some(StopReason::SoftwareBreakpoint {
                        address: pc,
                        gpa: None,
                    })
            }
            SlotReport::HardwareBreakpoint(condition) => self
                .holds(vcpu, condition)
                .then_some(StopReason::HardwareBreakpoint { address: pc }),
            SlotReport::Watchpoint { .. } => None,
        }
    }

    /// Returns whether an access is of the kind that was asked for. x86 has no slot for reads
    /// alone: an access that changed the memory was a write. Others have.
    fn watch_counts(&mut self, mut vcpu: &mut dyn Vcpu, kind: WatchKind, slot: usize) -> bool {
        if kind != WatchKind::Read || self.cpu.architecture() != Architecture::X86_64 {
            return true;
        }
        let points = Arc::clone(&self.points);
        let Some(watched) = points.slot(slot) else {
            return true;
        };
        let mut now = [0; 8];
        let len = watched.point.len_in(&now);
        let bytes = now.get_mut(..len).unwrap_or_default();
        let Ok(space) = self.cpu.address_space(&mut vcpu) else {
            return true;
        };
        if space.read(vcpu.memory(), &points, watched.point.address, bytes) != len {
            return true;
        }
        watched.note_value(u64::from_le_bytes(now))
    }
}
