//! Instructions of which it is certain that they do not fault.
//!
//! Breakpoints at the exception handlers take all debug registers, and where the hypervisor is
//! itself a guest, setting those costs as much as the step does. Most instructions can fault only by
//! the memory they touch, and about that the page tables tell.
//!
//! A processor may remember that a page was read-only after the tables have made it writable, and
//! fault once. So a page that is to be written counts only if it has been written through this very
//! entry before. What then remains is a page that another processor has made writable and marked as
//! written, without telling this one, just before the step: the guest's handler then runs within it.

use trapline_arch::x86_64::control::{Cr4, Rflags};
use trapline_arch::x86_64::instruction::{Decoded, MemoryAccess};
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
    /// Protection keys restrict user pages further; the rights are in a register that is not at hand.
    has_keys: bool,
}

impl NextInstruction {
    /// Returns whether it is certain that the instruction does not fault.
    pub(super) fn cannot_fault(
        &self,
        run: &mut VcpuRun,
        mut vcpu: &mut dyn Vcpu,
    ) -> Result<bool, AccessError> {
        let Some(decoded) = self.decoded.filter(Decoded::faults_by_memory_alone) else {
            return Ok(false);
        };
        let space = run.cpu.address_space(&mut vcpu)?;
        let file = run.cpu.file();
        let cr4 = Cr4::read(file);
        let is_user = mode::cpl(file) == 3;
        if CpuMode::of(file) != CpuMode::Long64
            || cr4.cet()
            || cr4.pks()
            || is_user && Rflags::read(file).ac()
        {
            return Ok(false);
        }
        let pages = Pages {
            paging: space.paging(),
            memory: vcpu.memory(),
            privilege: if is_user {
                Privilege::User
            } else {
                Privilege::Supervisor
            },
            has_keys: cr4.pke(),
        };
        Ok(
            pages.let_through(self.pc, self.len_bytes, AccessKind::Execute)
                && pages.operands_are_open(&decoded, file)
                && pages.branch_is_canonical(&decoded, file),
        )
    }
}

impl Pages<'_> {
    fn operands_are_open(&self, decoded: &Decoded, file: &RegisterFile) -> bool {
        decoded.memory_operands(file).iter().all(|operand| {
            let kind = match operand.access {
                MemoryAccess::Read => AccessKind::Read,
                MemoryAccess::Write | MemoryAccess::ReadWrite => AccessKind::Write,
            };
            self.let_through(operand.address, operand.len_bytes, kind)
        })
    }

    /// Returns whether an access to each byte of a range goes through.
    fn let_through(&self, start: Gva, len_bytes: u64, kind: AccessKind) -> bool {
        let Some(last) = len_bytes
            .checked_sub(1)
            .filter(|_| len_bytes <= MAX_OPERAND_BYTES)
            .and_then(|rest| start.checked_add(rest))
        else {
            return false;
        };
        let is_one_page = start.0 >> 12 == last.0 >> 12;
        self.lets_through(start, kind) && (is_one_page || self.lets_through(last, kind))
    }

    fn lets_through(&self, address: Gva, kind: AccessKind) -> bool {
        let Ok(page) = self.paging.translate(self.memory, address) else {
            return false;
        };
        let is_keyed = self.has_keys && page.flags.contains(PageFlags::USER);
        let is_settled = kind != AccessKind::Write || page.flags.contains(PageFlags::DIRTY);
        // What is no memory is a device, and the hypervisor's to emulate.
        let is_memory = self.memory.read_physical(page.gpa, &mut [0]) == 1;
        is_settled && is_memory && !is_keyed && self.paging.permits(&page, kind, self.privilege)
    }

    /// Returns whether the instruction leads to a canonical address, if it is a branch. What else is
    /// wrong there is the matter of the instruction there.
    fn branch_is_canonical(&self, decoded: &Decoded, file: &RegisterFile) -> bool {
        let target = if decoded.is_near_return() {
            let stack = self.paging.translate(self.memory, mode::linear_sp(file));
            let target = stack.ok().and_then(|page| {
                // The address is on one page, or it is not looked at.
                (page.rest_of_page_bytes() >= 8).then(|| self.memory.read_u64(page.gpa))?
            });
            match target {
                Some(target) => target,
                None => return false,
            }
        } else {
            match decoded.branch_target() {
                Some(target) => target,
                None => return true,
            }
        };
        self.paging.mode().is_canonical(Gva(target))
    }
}
