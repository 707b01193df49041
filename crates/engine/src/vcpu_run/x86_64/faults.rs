//! Which exceptions the next instruction may raise.
//!
//! Breakpoints at the exception handlers take debug registers, of which there are four, and where the
//! hypervisor is itself a guest, setting those costs as much as the step does. Most instructions can
//! fault only by the memory they touch, and about that the page tables tell.
//!
//! A processor may remember that a page was read-only after the tables have made it writable, and
//! fault once. So a page that is to be written counts only if it has been written through this very
//! entry before. What then remains is a page that another processor has made writable and marked as
//! written, without telling this one, just before the step: the guest's handler then runs within it.

use trapline_arch::x86_64::control::Cr4;
use trapline_arch::x86_64::instruction::{Decoded, Faults, MemoryAccess};
use trapline_arch::x86_64::mode::{self, CpuMode};
use trapline_arch::x86_64::paging::{AccessKind, PageFlags, PagingState, Privilege};
use trapline_arch::{Gva, RegisterFile};

use super::next::NextInstruction;
use crate::contract::{AccessError, GuestMemory, Vcpu};
use crate::vcpu_run::VcpuRun;

/// The longest operand that is looked at: it is on two pages at most.
const MAX_OPERAND_BYTES: u64 = 64;

/// What decides about accesses to pages.
struct Pages<'a> {
    paging: &'a PagingState,
    memory: &'a dyn GuestMemory,
    privilege: Privilege,
    /// Protection keys restrict pages further; the rights are in registers that are not at hand.
    has_user_keys: bool,
    has_supervisor_keys: bool,
}

impl NextInstruction {
    /// Returns the exceptions that the instruction may raise; none if it is certain that it does
    /// not fault.
    pub(super) fn faults(
        &self,
        run: &mut VcpuRun,
        mut vcpu: &mut dyn Vcpu,
    ) -> Result<Faults, AccessError> {
        let Some(decoded) = &self.decoded else {
            return Ok(Faults::MEMORY | Faults::UD);
        };
        let space = run.cpu.address_space(&mut vcpu)?;
        let file = run.cpu.file();
        let faults = decoded.faults(file);
        if CpuMode::of(file) != CpuMode::Long64 {
            return Ok(faults);
        }
        let cr4 = Cr4::read(file);
        let Some(paging) = space.x86() else {
            return Ok(faults);
        };
        let pages = Pages {
            paging,
            memory: vcpu.memory(),
            privilege: if mode::cpl(file) == 3 {
                Privilege::User
            } else {
                Privilege::Supervisor
            },
            has_user_keys: cr4.pke(),
            has_supervisor_keys: cr4.pks(),
        };
        let fetch = pages.faults(self.pc, self.len_bytes, AccessKind::Execute);
        Ok(faults
            | fetch
            | pages.operand_faults(decoded, file)
            | pages.branch_faults(decoded, file))
    }
}

impl Pages<'_> {
    fn operand_faults(&self, decoded: &Decoded, file: &RegisterFile) -> Faults {
        let operands = decoded.memory_operands(file);
        let faults = operands.iter().map(|operand| {
            let kind = match operand.access {
                MemoryAccess::Read => AccessKind::Read,
                MemoryAccess::Write | MemoryAccess::ReadWrite => AccessKind::Write,
            };
            self.faults(operand.address, operand.len_bytes, kind)
        });
        faults.fold(Faults::empty(), Faults::union)
    }

    /// Returns what an access to each byte of a range may raise.
    fn faults(&self, start: Gva, len_bytes: u64, kind: AccessKind) -> Faults {
        let Some(last) = len_bytes
            .checked_sub(1)
            .filter(|_| len_bytes <= MAX_OPERAND_BYTES)
            .and_then(|rest| start.checked_add(rest))
        else {
            return Faults::MEMORY;
        };
        let mode = self.paging.mode();
        if !mode.is_canonical(start) || !mode.is_canonical(last) {
            return Faults::MEMORY;
        }
        let is_one_page = start.0 >> 12 == last.0 >> 12;
        if self.lets_through(start, kind) && (is_one_page || self.lets_through(last, kind)) {
            Faults::empty()
        } else {
            Faults::PF
        }
    }

    fn lets_through(&self, address: Gva, kind: AccessKind) -> bool {
        let Ok(page) = self.paging.translate(self.memory, address) else {
            return false;
        };
        let is_keyed = if page.flags.contains(PageFlags::USER) {
            self.has_user_keys
        } else {
            self.has_supervisor_keys
        };
        let is_settled = kind != AccessKind::Write || page.flags.contains(PageFlags::DIRTY);
        // What is no memory is a device, and the hypervisor's to emulate.
        let is_memory = self.memory.read_physical(page.gpa, &mut [0]) == 1;
        is_settled && is_memory && !is_keyed && self.paging.permits(&page, kind, self.privilege)
    }

    /// Returns what leaving for the place that a near branch leads to may raise. What else is wrong
    /// there is the matter of the instruction there.
    fn branch_faults(&self, decoded: &Decoded, file: &RegisterFile) -> Faults {
        let target = if decoded.is_near_return() {
            let stack = self.paging.translate(self.memory, mode::linear_sp(file));
            stack.ok().and_then(|page| {
                // The address is on one page, or it is not looked at.
                (page.rest_of_page_bytes() >= 8).then(|| self.memory.read_u64(page.gpa))?
            })
        } else {
            match (decoded.branch_target(), decoded.is_near_branch()) {
                (None, false) => return Faults::empty(),
                (target, _) => target,
            }
        };
        if target.is_some_and(|target| self.paging.mode().is_canonical(Gva(target))) {
            Faults::empty()
        } else {
            Faults::GP
        }
    }
}
