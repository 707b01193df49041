//! What the guest itself may do with a page.

use super::{PageFlags, PagingState, Translation};
use crate::x86_64::control::{Cr0, Cr4, Rflags};

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
    /// Code at privilege level 3.
    User,
    /// Code at privilege levels 0 to 2.
    Supervisor,
    /// The processor itself, reading its tables or pushing an exception's frame. RFLAGS.AC does
    /// not open user pages to it.
    Implicit,
}

/// The control bits that restrict accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checks {
    wp: bool,
    smep: bool,
    smap: bool,
    ac: bool,
    pke: bool,
    pkru: u32,
}

impl Checks {
    pub(super) const fn new(cr0: Cr0, cr4: Cr4, rflags: Rflags) -> Self {
        Self {
            wp: cr0.wp(),
            smep: cr4.smep(),
            smap: cr4.smap(),
            ac: rflags.ac(),
            pke: cr4.pke(),
            pkru: 0,
        }
    }

    pub(super) const fn with_pkru(self, pkru: u32) -> Self {
        Self { pkru, ..self }
    }

    /// Returns PKRU's rights for a key: (access disabled, write disabled).
    fn key_rights(self, key: u8) -> (bool, bool) {
        let rights = self.pkru.unbounded_shr(u32::from(key).saturating_mul(2));
        (rights & 0b01 != 0, rights & 0b10 != 0)
    }
}

impl PagingState {
    /// Returns whether an access by the guest to a mapped page goes through without a page fault.
    ///
    /// Keys of supervisor pages and shadow stacks are not looked at.
    ///
    /// Source: SDM vol. 3A, "Access Rights" and "Protection Keys".
    #[must_use]
    pub fn permits(&self, page: &Translation, kind: AccessKind, privilege: Privilege) -> bool {
        let checks = self.checks;
        let user_page = page.flags.contains(PageFlags::USER);
        let is_user = privilege == Privilege::User;
        if is_user && !user_page {
            return false;
        }
        let (no_access, no_write) = match (checks.pke && user_page, kind) {
            (true, AccessKind::Read | AccessKind::Write) => checks.key_rights(page.protection_key),
            (false, _) | (true, AccessKind::Execute) => (false, false),
        };
        let write_checked = is_user || checks.wp;
        let smap = checks.smap && (!checks.ac || privilege == Privilege::Implicit);
        match kind {
            AccessKind::Execute if !page.flags.contains(PageFlags::EXECUTABLE) => false,
            AccessKind::Execute => is_user || !user_page || !checks.smep,
            AccessKind::Read | AccessKind::Write if no_access => false,
            AccessKind::Read | AccessKind::Write if !is_user && user_page && smap => false,
            AccessKind::Read => true,
            AccessKind::Write if write_checked && no_write => false,
            AccessKind::Write => page.flags.contains(PageFlags::WRITABLE) || !write_checked,
        }
    }
}
