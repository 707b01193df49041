//! `Z` and `z`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::Gva;
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
        Ok(context.core.points.insert(owner, key, terms, gpa)?)
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
