//! Who may do what with a page, gathered from the descriptors of a walk.

use bitflags::bitflags;

use super::descriptor::Descriptor;
use crate::{
    RegisterFile,
    aarch64::{
        control::{Sctlr, Tcr, Tcr2, Vtcr},
        registers,
        tags::Half,
    },
};

bitflags! {
    /// What a translation says of a page besides its address.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct PageFlags: u16 {
        /// EL1 may read.
        const READ_EL1 = 1 << 0;
        /// EL1 may write.
        const WRITE_EL1 = 1 << 1;
        /// EL1 may execute.
        const EXECUTE_EL1 = 1 << 2;
        /// EL0 may read.
        const READ_EL0 = 1 << 3;
        /// EL0 may write.
        const WRITE_EL0 = 1 << 4;
        /// EL0 may execute.
        const EXECUTE_EL0 = 1 << 5;
        /// The access flag is set.
        const ACCESSED = 1 << 6;
        /// Hardware makes the page writable at the first write, and has not yet.
        const CLEAN = 1 << 7;
        /// The page is the same in every address space.
        const GLOBAL = 1 << 8;
        /// The page is one of a group of contiguous ones.
        const CONTIGUOUS = 1 << 9;
        /// All of what EL1 and EL0 may do.
        const PERMISSIONS = (1 << 6) - 1;
        /// Both may read.
        const READ = Self::READ_EL1.bits() | Self::READ_EL0.bits();
        /// Both may write.
        const WRITE = Self::WRITE_EL1.bits() | Self::WRITE_EL0.bits();
        /// Both may execute.
        const EXECUTE = Self::EXECUTE_EL1.bits() | Self::EXECUTE_EL0.bits();
        /// Everything that EL0 may do.
        const EL0 = Self::READ_EL0.bits() | Self::WRITE_EL0.bits() | Self::EXECUTE_EL0.bits();
    }
}

/// How descriptors of one tree grant permissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermissionModel {
    /// Stage 1, AP and XN in the descriptors.
    Direct {
        hierarchy: Hierarchy,
        /// SCTLR.WXN.
        wxn: bool,
        /// TCR.HD.
        dirty: bool,
    },
    /// Stage 1, an index in the descriptor (TCR2.PIE).
    Indirect {
        pir: u64,
        pire0: u64,
        /// TCR.HD.
        dirty: bool,
    },
    /// Stage 2.
    Stage2 {
        /// VTCR.HD.
        dirty: bool,
    },
}

/// Whether table descriptors restrict what is below them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// They do.
    Applied,
    /// TCR.HPD is set.
    Disabled,
}

impl PermissionModel {
    pub(super) fn stage_1(half: Half, registers: &RegisterFile) -> Self {
        let tcr = Tcr::read(registers);
        let dirty = tcr.ha() && tcr.hd();
        if Tcr2::read(registers).pie() {
            return Self::Indirect {
                pir: registers.u64(registers::PIR_EL1),
                pire0: registers.u64(registers::PIRE0_EL1),
                dirty,
            };
        }
        let disabled = match half {
            Half::Lower => tcr.hpd0(),
            Half::Upper => tcr.hpd1(),
        };
        Self::Direct {
            hierarchy: if disabled {
                Hierarchy::Disabled
            } else {
                Hierarchy::Applied
            },
            wxn: Sctlr::read(registers).wxn(),
            dirty,
        }
    }

    pub(super) const fn stage_2(vtcr: Vtcr) -> Self {
        Self::Stage2 {
            dirty: vtcr.ha() && vtcr.hd(),
        }
    }

    /// Returns what a table descriptor leaves of the permissions below it.
    ///
    /// Source: Arm ARM, "Hierarchical control of data access permissions" and "Hierarchical control
    /// of instruction execution permissions".
    pub(super) fn limits_of(&self, table: Descriptor) -> PageFlags {
        let Self::Direct {
            hierarchy: Hierarchy::Applied,
            ..
        } = self
        else {
            return PageFlags::PERMISSIONS;
        };
        let mut left = PageFlags::PERMISSIONS;
        if table.ap_table() & 0b01 != 0 {
            left.remove(PageFlags::READ_EL0 | PageFlags::WRITE_EL0);
        }
        if table.ap_table() & 0b10 != 0 {
            left.remove(PageFlags::WRITE);
        }
        left.set(PageFlags::EXECUTE_EL1, !table.pxn_table());
        left.set(PageFlags::EXECUTE_EL0, !table.uxn_table());
        left
    }

    /// Returns what may be done with a block or page, `limits` being what the tables above it leave,
    /// and what else the descriptor says of it.
    pub(super) fn flags_of(&self, leaf: Descriptor, limits: PageFlags) -> PageFlags {
        let granted = match *self {
            Self::Direct { wxn, dirty, .. } => direct(leaf, limits, wxn, dirty),
            Self::Indirect { pir, pire0, dirty } => indirect(leaf, pir, pire0, dirty),
            Self::Stage2 { dirty } => stage_2(leaf, dirty),
        };
        let mut flags = granted;
        flags.set(PageFlags::ACCESSED, leaf.af());
        let is_global = !matches!(self, Self::Stage2 { .. }) && !leaf.n_g();
        flags.set(PageFlags::GLOBAL, is_global);
        flags.set(PageFlags::CONTIGUOUS, leaf.contiguous());
        flags
    }
}

/// Source: Arm ARM, "Stage 1 Direct permissions" (data accesses and instruction accesses).
fn direct(leaf: Descriptor, limits: PageFlags, wxn: bool, dirty: bool) -> PageFlags {
    let mut flags = PageFlags::READ_EL1;
    let read_only = leaf.ap() & 0b10 != 0;
    let is_clean = read_only && dirty && leaf.dbm();
    let el0 = leaf.ap() & 0b01 != 0;
    flags.set(PageFlags::READ_EL0, el0);
    flags.set(PageFlags::WRITE_EL1, !read_only || is_clean);
    flags.set(PageFlags::WRITE_EL0, el0 && (!read_only || is_clean));
    flags.set(PageFlags::EXECUTE_EL1, !leaf.pxn());
    flags.set(PageFlags::EXECUTE_EL0, !leaf.uxn());
    flags &= limits;
    // What EL0 can write, EL1 never executes.
    if flags.contains(PageFlags::WRITE_EL0) {
        flags.remove(PageFlags::EXECUTE_EL1);
    }
    flags = without_writable_code(flags, wxn);
    flags.set(
        PageFlags::CLEAN,
        is_clean && flags.contains(PageFlags::WRITE_EL1),
    );
    flags
}

fn without_writable_code(mut flags: PageFlags, wxn: bool) -> PageFlags {
    if wxn && flags.contains(PageFlags::WRITE_EL1) {
        flags.remove(PageFlags::EXECUTE_EL1);
    }
    if wxn && flags.contains(PageFlags::WRITE_EL0) {
        flags.remove(PageFlags::EXECUTE_EL0);
    }
    flags
}

/// AP[2] says that the page is still clean, AP[1], DBM, PXN and UXN are the index.
///
/// Source: Arm ARM, "Stage 1 Indirect permissions".
fn indirect(leaf: Descriptor, pir: u64, pire0: u64, dirty: bool) -> PageFlags {
    let index = u32::from(leaf.uxn()) << 3
        | u32::from(leaf.pxn()) << 2
        | u32::from(leaf.dbm()) << 1
        | u32::from(leaf.ap() & 0b01);
    let base = |register: u64| base_permissions(register.unbounded_shr(index.saturating_mul(4)));
    let mut flags = base(pir).difference(PageFlags::EL0) | base(pire0) & PageFlags::EL0;
    let not_dirty = leaf.ap() & 0b10 != 0;
    if not_dirty && !dirty {
        flags.remove(PageFlags::WRITE);
    }
    let is_clean = not_dirty && flags.intersects(PageFlags::WRITE);
    flags.set(PageFlags::CLEAN, is_clean);
    flags
}

/// Returns what the low 4 bits of `code` grant. Code 6 allows execution only where an overlay takes
/// writing away.
fn base_permissions(code: u64) -> PageFlags {
    let (read, write, execute) = (PageFlags::READ, PageFlags::WRITE, PageFlags::EXECUTE);
    match code & 0xf {
        0b0001 | 0b1000 | 0b1001 => read,
        0b0010 => execute,
        0b0011 | 0b1010 => read | execute,
        0b0101 | 0b0110 | 0b1100 => read | write,
        0b0111 | 0b1110 => read | write | execute,
        _ => PageFlags::empty(),
    }
}

/// Source: Arm ARM, "Stage 2 Direct permissions".
fn stage_2(leaf: Descriptor, dirty: bool) -> PageFlags {
    let mut flags = PageFlags::empty();
    let is_clean = leaf.ap() & 0b10 == 0 && dirty && leaf.dbm();
    flags.set(PageFlags::READ, leaf.ap() & 0b01 != 0);
    flags.set(PageFlags::WRITE, leaf.ap() & 0b10 != 0 || is_clean);
    // XN[1:0] of FEAT_XNX: both, EL0 alone, neither, EL1 alone.
    let (el1, el0) = match (leaf.uxn(), leaf.pxn()) {
        (false, false) => (true, true),
        (false, true) => (false, true),
        (true, false) => (false, false),
        (true, true) => (true, false),
    };
    flags.set(PageFlags::EXECUTE_EL1, el1);
    flags.set(PageFlags::EXECUTE_EL0, el0);
    flags.set(PageFlags::CLEAN, is_clean);
    flags
}
