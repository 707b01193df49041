//! Whether a breakpoint or watchpoint that was met is a hit, decided on the spot.

use alloc::sync::Arc;

use trapline_arch::{Gva, Layout};

use super::slots::{Role, SlotPlan};
use super::{First, State, VcpuRun};
use crate::condition::{Condition, Environment};
use crate::contract::{AccessError, StopReason, Vcpu, WatchKind};
use crate::cpu::Cpu;
use crate::points::{PointSet, SlotReport};

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
            vcpu.inject_breakpoint()?;
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
        hit: u32,
        data_address: Option<Gva>,
    ) -> Result<SlotHit, AccessError> {
        let points = Arc::clone(&self.points);
        let mut met_breakpoint = false;
        for (number, role) in slots.hit_roles(hit) {
            let Some(slot) = points.slot(number).filter(|_| role == Role::Debugger) else {
                continue;
            };
            if let SlotReport::Watchpoint {
                kind,
                watched,
                condition,
            } = &slot.report
            {
                let address = data_address.unwrap_or(slot.point.address);
                if self.watch_counts(vcpu, *kind, slot.slot) && self.holds(vcpu, condition) {
                    let (kind, watched) = (*kind, *watched);
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
        if !met_breakpoint {
            return Ok(SlotHit::None);
        }
        Ok(self.point_at_pc(vcpu)?.map_or(SlotHit::Pass, SlotHit::Stop))
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
    /// alone; an access that changed the memory was a write.
    fn watch_counts(&mut self, mut vcpu: &mut dyn Vcpu, kind: WatchKind, slot: usize) -> bool {
        if kind != WatchKind::Read {
            return true;
        }
        let points = Arc::clone(&self.points);
        let Some(watched) = points.slot(slot) else {
            return true;
        };
        let mut now = [0; 8];
        let len = usize::from(watched.point.len_bytes).min(now.len());
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
