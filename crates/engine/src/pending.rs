//! Hits that wait to be told: whether they still count (rule R2).

use alloc::vec::Vec;

use trapline_arch::{Gva, Layout, WatchTiming};

use crate::condition::{Condition, Environment, Term};
use crate::contract::{StopReason, VcpuId};
use crate::core::Context;
use crate::points::PointOwner;
use crate::run_control::{RunControl, Settled, Stop};

impl Context<'_> {
    /// Decides what it means that all vCPUs are out of the guest.
    pub(crate) fn settle(&mut self) -> Settled {
        self.core.forget_registers();
        self.note_hits();
        let mut run = core::mem::replace(&mut self.core.run, RunControl::new(0));
        let settled = run.settle(|vcpu, reason| self.still_counts(vcpu, reason));
        self.core.run = run;
        if settled == Settled::Report {
            let Stop { vcpu, reason } = self.core.run.last_stop();
            // A vCPU that stopped for something else has not met the breakpoint at its pc yet.
            let is_before =
                self.core.config.architecture.watch_timing() == WatchTiming::BeforeAccess;
            if reason.is_breakpoint() || is_before && reason.is_of_a_point() {
                let pc = self.pc(vcpu).ok();
                self.core.run.set_told_pc(vcpu, pc);
            }
        }
        settled
    }

    /// Returns whether what a vCPU stopped for is still there (rule R2).
    fn still_counts(&mut self, vcpu: VcpuId, reason: StopReason) -> bool {
        let breakpoint = match reason {
            StopReason::SoftwareBreakpoint { address, .. }
            | StopReason::HardwareBreakpoint { address } => Some(address),
            _ => None,
        };
        if breakpoint.is_some_and(|address| self.pc(vcpu) != Ok(address)) {
            return false;
        }
        if !reason.is_of_a_point() {
            return true;
        }
        let counted = self.core.counted_for.get(&vcpu);
        let mut claims = self.core.points.claims_of(reason);
        claims.any(|(owner, _)| counted.is_none_or(|counted| counted.contains(&owner)))
    }

    /// Notes on whose behalf new hits count, where several clients have set conditions: when one of
    /// them leaves, a hit that counted for it alone counts no more (rule R2). The vCPU has not moved
    /// since, so the conditions come to what they came to when it stopped, unless another vCPU has
    /// changed memory meanwhile.
    fn note_hits(&mut self) {
        for vcpu in self.core.run.vcpu_ids() {
            let Some(reason) = self.core.run.pending(vcpu) else {
                continue;
            };
            if self.core.counted_for.contains_key(&vcpu) {
                continue;
            }
            let claims = self.core.points.claims_of(reason);
            let claims: Vec<(PointOwner, Vec<Term>)> = claims
                .map(|(owner, terms)| (owner, terms.to_vec()))
                .collect();
            let mut owners: Vec<PointOwner> = claims.iter().map(|(owner, _)| *owner).collect();
            if claims.len() > 1 && claims.iter().any(|(_, terms)| !terms.is_empty()) {
                let held = self.holding(vcpu, claims);
                // One of them held when the vCPU stopped, whatever became of memory since.
                if !held.is_empty() {
                    owners = held;
                }
            }
            self.core.counted_for.insert(vcpu, owners);
        }
    }

    /// Returns the owners whose conditions hold for a stopped vCPU.
    fn holding(&mut self, vcpu: VcpuId, claims: Vec<(PointOwner, Vec<Term>)>) -> Vec<PointOwner> {
        let mut inspected = Inspected {
            context: self,
            vcpu,
        };
        let held = claims.into_iter().filter_map(|(owner, terms)| {
            let holds = Condition::of(terms).holds(&mut inspected);
            holds.then_some(owner)
        });
        held.collect()
    }
}

/// A stopped vCPU as a condition sees it.
struct Inspected<'a, 'm> {
    context: &'a mut Context<'m>,
    vcpu: VcpuId,
}

impl Environment for Inspected<'_, '_> {
    fn register(&mut self, layout: &Layout, number: u16) -> Option<u64> {
        let entry = layout.by_number(number.into())?;
        let groups = entry.register.group.into();
        let file = self.context.registers(self.vcpu, groups).ok()?;
        Some(file.u64(entry.id))
    }

    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool {
        let read = self.context.read_virtual(self.vcpu, address, buffer);
        read == Ok(buffer.len())
    }
}
