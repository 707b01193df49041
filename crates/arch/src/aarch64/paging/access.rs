//! What the guest itself may do with a page.

use super::{FaultCause, PageFlags, PagingState, TranslateError, Translation};
use crate::{
    Gva,
    aarch64::{
        control::{Pstate, Sctlr, Tcr},
        tags::Half,
    },
};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// It reads.
    Read,
    /// It writes.
    Write,
    /// It fetches an instruction.
    Execute,
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// Code at EL0, or an unprivileged load or store.
    Unprivileged,
    /// Code at EL1.
    Privileged,
}

/// The control bits that restrict accesses besides the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checks {
    access_flag_by_hardware: bool,
    e0pd0: bool,
    e0pd1: bool,
    pan: bool,
    epan: bool,
}

impl Checks {
    pub(super) const fn new(tcr: Tcr, sctlr: Sctlr, pstate: Pstate) -> Self {
        Self {
            access_flag_by_hardware: tcr.ha(),
            e0pd0: tcr.e0pd0(),
            e0pd1: tcr.e0pd1(),
            pan: pstate.pan(),
            epan: sctlr.epan(),
        }
    }

    pub(super) const fn none() -> Self {
        Self {
            access_flag_by_hardware: false,
            e0pd0: false,
            e0pd1: false,
            pan: false,
            epan: false,
        }
    }

    pub(super) const fn with_access_flag_by_hardware(self, on: bool) -> Self {
        Self {
            access_flag_by_hardware: on,
            ..self
        }
    }
}

impl PagingState {
    /// Returns what an access by the guest to a mapped page comes to: nothing, or the fault that
    /// hardware raises and AT reports in PAR.
    ///
    /// Stage 1 and stage 2 each decide on their own; an access must pass both.
    ///
    /// Source: Arm ARM, "MMU fault types"; "Address translation instructions".
    ///
    /// # Errors
    ///
    /// [`TranslateError::Fault`] with the cause `Translation` (EL0 shut out of the half),
    /// `AccessFlag` or `Permission`.
    pub fn permits(
        &self,
        address: Gva,
        page: &Translation,
        kind: AccessKind,
        privilege: Privilege,
    ) -> Result<(), TranslateError> {
        if !self.is_on() {
            return Ok(());
        }
        let fault = |cause, level| Err(TranslateError::Fault { cause, level });
        let shut_out = match Half::of(address) {
            Half::Lower => self.checks.e0pd0,
            Half::Upper => self.checks.e0pd1,
        };
        if shut_out && privilege == Privilege::Unprivileged {
            return fault(FaultCause::Translation, 0);
        }
        let is_accessed = page.flags.contains(PageFlags::ACCESSED);
        if !is_accessed && !self.checks.access_flag_by_hardware {
            return fault(FaultCause::AccessFlag, page.level);
        }
        if !page.flags.contains(needed(kind, privilege)) || self.is_pan_fault(page, kind, privilege)
        {
            return fault(FaultCause::Permission, page.level);
        }
        Ok(())
    }

    /// Source: Arm ARM, "PSTATE.PAN".
    fn is_pan_fault(&self, page: &Translation, kind: AccessKind, privilege: Privilege) -> bool {
        let mut open = PageFlags::READ_EL0 | PageFlags::WRITE_EL0;
        if self.checks.epan {
            open |= PageFlags::EXECUTE_EL0;
        }
        self.checks.pan
            && privilege == Privilege::Privileged
            && kind != AccessKind::Execute
            && page.flags.intersects(open)
    }
}

const fn needed(kind: AccessKind, privilege: Privilege) -> PageFlags {
    match (kind, privilege) {
        (AccessKind::Read, Privilege::Privileged) => PageFlags::READ_EL1,
        (AccessKind::Write, Privilege::Privileged) => PageFlags::WRITE_EL1,
        (AccessKind::Execute, Privilege::Privileged) => PageFlags::EXECUTE_EL1,
        (AccessKind::Read, Privilege::Unprivileged) => PageFlags::READ_EL0,
        (AccessKind::Write, Privilege::Unprivileged) => PageFlags::WRITE_EL0,
        (AccessKind::Execute, Privilege::Unprivileged) => PageFlags::EXECUTE_EL0,
    }
}
