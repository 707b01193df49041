//! `Z` and `z`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::aarch64::debug::DebugRegisters;
use trapline_arch::{Architecture, Gva, RegisterGroups};
use trapline_rsp::Encoder;
use trapline_rsp::request::{Breakpoint, BreakpointType};

use super::{Answered, Refusal, Session, reply};
use crate::condition::Term;
use crate::contract::{VcpuId, WatchKind};
use crate::core::Context;
use crate::expression::Expression;
use crate::points::{InsertError, PointKey, PointKind, PointOwner};

fn kind(ty: BreakpointType) -> PointKind {
    match ty {
        BreakpointType::Software => PointKind::SoftwareBreakpoint,
        BreakpointType::Hardware => PointKind::HardwareBreakpoint,
        BreakpointType::WriteWatch => PointKind::Watchpoint(WatchKind::Write),
        BreakpointType::ReadWatch => PointKind::Watchpoint(WatchKind::Read),
        BreakpointType::AccessWatch => PointKind::Watchpoint(WatchKind::Access),
    }
}

impl Session {
    pub(super) fn insert_point(
        &mut self,
        point: &Breakpoint<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let layout = self.layout(context);
        let mut terms = Vec::new();
        for bytecode in point.conditions.iter() {
            let expression = Expression::parse(&bytecode.to_vec())
                .map_err(|error| Refusal::text(reply::EINVAL, alloc::format!("{error}")))?;
            terms.push(Term {
                expression: Arc::new(expression),
                layout: Arc::clone(&layout),
            });
        }
        let key = self.key(point, context)?;
        self.insert(self.id.into(), self.selected, key, terms, context)?;
        reply::ok(out)
    }

    /// Inserts a breakpoint or watchpoint of this client's, where `vcpu` has its address mapped.
    pub(crate) fn insert(
        &mut self,
        owner: PointOwner,
        vcpu: VcpuId,
        key: PointKey,
        terms: Vec<Term>,
        context: &mut Context<'_>,
    ) -> Result<(), Refusal> {
        check_canonical(vcpu, key, context)?;
        let gpa = match key.kind {
            PointKind::SoftwareBreakpoint | PointKind::Watchpoint(_) => {
                context.translate(vcpu, key.address)?
            }
            PointKind::HardwareBreakpoint => None,
        };
        let is_memory = |gpa: &_| context.read_physical(*gpa, &mut [0]) == 1;
        let gpa = gpa.filter(is_memory);
        let was_there = context.core.points.is_claimed_by(owner, key);
        context.core.points.insert(owner, key, terms, gpa)?;
        if let Some((_, count)) = slots_short(context)
            && !was_there
        {
            context.core.points.remove(owner, key);
            return Err(InsertError::UsedByGuest(count).into());
        }
        Ok(())
    }

    /// Answers `z`. Removing what is not there is no error: GDB may repeat itself (GDB manual,
    /// "Packets", `z`).
    pub(super) fn remove_point(
        &mut self,
        point: &Breakpoint<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let key = self.key(point, context)?;
        context.core.points.remove(self.id, key);
        reply::ok(out)
    }

    fn key(&self, point: &Breakpoint<'_>, context: &mut Context<'_>) -> Result<PointKey, Refusal> {
        let key = context.point_key(
            self.selected,
            kind(point.ty),
            Gva(point.address),
            point.kind,
        )?;
        Ok(match key.kind {
            PointKind::Watchpoint(_) => key,
            // LLDB and GDB give breakpoints different kinds on x86, and there is only one.
            PointKind::SoftwareBreakpoint | PointKind::HardwareBreakpoint => {
                PointKey { len: 1, ..key }
            }
        })
    }
}

/// Returns a vCPU whose debug registers do not suffice for the debugger's points beside the guest's
/// own, and how many of that kind the guest uses; the guest's come first (rule R9).
///
/// Only where execution and data have registers of their own, that is on AArch64: the debugger's
/// points are put beside the guest's at each entry there.
pub(crate) fn slots_short(context: &mut Context<'_>) -> Option<(VcpuId, usize)> {
    let used = context.core.points.slots_in_use();
    if context.core.config.architecture != Architecture::Aarch64
        || used.iter().all(|(used, _)| *used == 0)
    {
        return None;
    }
    let vcpus: Vec<VcpuId> = context.core.run.vcpu_ids().collect();
    vcpus.into_iter().find_map(|vcpu| {
        let file = context.registers(vcpu, RegisterGroups::DEBUG).ok()?;
        let (breakpoints, watchpoints) = DebugRegisters::read(file).in_use();
        let kinds = used.into_iter().zip([breakpoints, watchpoints]);
        let mut short = kinds
            .filter(|((used, count), guests)| *used > 0 && used.saturating_add(*guests) > *count);
        short.next().map(|(_, guests)| (vcpu, guests))
    })
}

/// Refuses a point of which a byte is at an address that is not canonical for `vcpu`.
fn check_canonical(vcpu: VcpuId, key: PointKey, context: &mut Context<'_>) -> Result<(), Refusal> {
    let space = context.address_space(vcpu)?;
    let last = match key.kind {
        PointKind::Watchpoint(_) => key.address.wrapping_add(key.len.saturating_sub(1)),
        PointKind::SoftwareBreakpoint | PointKind::HardwareBreakpoint => key.address,
    };
    let mut ends = [key.address, last].into_iter();
    match ends.find(|address| !space.is_canonical(*address)) {
        Some(address) => Err(InsertError::NotCanonical(address).into()),
        None => Ok(()),
    }
}
