//! Translation tables: from virtual to guest-physical addresses (stage 1), and from those to
//! physical ones (stage 2), by one walker.
//!
//! A debugger reads and writes whatever is mapped, so translation ignores permissions and the access
//! flag and reports them instead ([`Translation::flags`]). Whether the guest itself may make an
//! access is a question of its own ([`PagingState::permits`]).
//!
//! Not walked: tables of 128-bit descriptors (`FEAT_D128`), which are said to be so. Not applied:
//! permission overlays (`FEAT_S1POE`, `FEAT_S2POE`), stage 2 permission indirection
//! (`FEAT_S2PIE`) and granule protection.
//!
//! Source: Arm ARM, "The AArch64 Virtual Memory System Architecture".

mod access;
mod descriptor;
mod geometry;
mod permissions;
mod regions;
mod walk;

pub use access::{AccessKind, Privilege};
pub use descriptor::{Descriptor, DescriptorKind};
pub use geometry::{Geometry, Granule, Validity, Wide};
pub use permissions::PageFlags;
pub use regions::{Region, Regions};
pub use walk::{FaultCause, Step, TranslateError, Translation, Walk};

use super::{
    control::{Pstate, Sctlr, Tcr, Tcr2, Ttbr, Vtcr},
    registers,
    tags::{Half, PointerTags},
};
use crate::{Gpa, Gva, RegisterFile};
use permissions::PermissionModel;

/// One tree of tables, with everything outside memory that decides how it is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) geometry: Geometry,
    /// The value of TTBR or VTTBR.
    pub(super) base: Ttbr,
    /// Walks are made; EPD is clear.
    pub(super) is_walked: bool,
    pub(super) permissions: PermissionModel,
}

/// How the addresses of one translation regime are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trees {
    /// Translation is off: the output is the input.
    Off,
    /// Stage 1, with a tree for each half.
    Halves { lower: Tree, upper: Tree },
    /// Stage 2.
    Stage2 { tree: Tree },
    /// The descriptors have a format that is not known here.
    Wide,
}

/// Whether translation tables are in big-endian byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TableOrder {
    Little,
    Big,
}

/// Everything outside memory that decides how addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingState {
    trees: Trees,
    tags: PointerTags,
    order: TableOrder,
    physical_bits: u32,
    checks: access::Checks,
}

impl PagingState {
    /// The widest physical address that 64-bit descriptors can hold, in bits.
    pub const MAX_PHYSICAL_BITS: u32 = 52;

    /// Takes the state of stage 1 for EL1 and EL0 from a vCPU's registers, of which the groups
    /// `General` and `System` must be loaded.
    #[must_use]
    pub fn from_registers(registers: &RegisterFile) -> Self {
        let (sctlr, tcr) = (Sctlr::read(registers), Tcr::read(registers));
        let tcr2 = Tcr2::read(registers);
        let trees = match (sctlr.m(), tcr2.d128()) {
            (false, _) => Trees::Off,
            (true, true) => Trees::Wide,
            (true, false) => Trees::Halves {
                lower: tree(Half::Lower, registers),
                upper: tree(Half::Upper, registers),
            },
        };
        let order = if sctlr.ee() {
            TableOrder::Big
        } else {
            TableOrder::Little
        };
        Self {
            trees,
            tags: PointerTags::new(tcr, sctlr),
            order,
            physical_bits: Self::MAX_PHYSICAL_BITS,
            checks: access::Checks::new(tcr, sctlr, Pstate::read(registers)),
        }
    }

    /// Makes the state of stage 2 for a guest at EL1 from what the hypervisor has in VTCR and VTTBR.
    ///
    /// Input addresses are guest-physical, given as [`Gva`]; outputs are physical. Tables are taken
    /// as little-endian.
    #[must_use]
    pub const fn stage_2(vtcr: Vtcr, vttbr: u64) -> Self {
        let tree = Tree {
            geometry: Geometry::of_stage_2(vtcr),
            base: Ttbr::from_bits(vttbr),
            is_walked: true,
            permissions: PermissionModel::stage_2(vtcr),
        };
        Self {
            trees: Trees::Stage2 { tree },
            tags: PointerTags::new(Tcr::new(), Sctlr::new()),
            order: TableOrder::Little,
            physical_bits: Self::MAX_PHYSICAL_BITS,
            checks: access::Checks::none().with_access_flag_by_hardware(vtcr.ha()),
        }
    }

    /// Returns the same state with other tables for the lower half: another process.
    #[must_use]
    pub const fn with_ttbr0(self, ttbr: u64) -> Self {
        let trees = match self.trees {
            Trees::Halves { lower, upper } => Trees::Halves {
                lower: lower.with_base(ttbr),
                upper,
            },
            other => other,
        };
        Self { trees, ..self }
    }

    /// Returns the same state with other tables for the upper half: the kernel's own, where user
    /// code runs on tables that leave the kernel out.
    #[must_use]
    pub const fn with_ttbr1(self, ttbr: u64) -> Self {
        let trees = match self.trees {
            Trees::Halves { lower, upper } => Trees::Halves {
                lower,
                upper: upper.with_base(ttbr),
            },
            other => other,
        };
        Self { trees, ..self }
    }

    /// Returns the same state for a processor with `bits` bits of physical address
    /// (`ID_AA64MMFR0_EL1.PARange`), beyond which an address in an entry is a fault. Without this
    /// only TCR decides it.
    #[must_use]
    pub fn with_physical_bits(self, bits: u32) -> Self {
        Self {
            physical_bits: bits.clamp(32, Self::MAX_PHYSICAL_BITS),
            ..self
        }
    }

    /// Returns whether addresses are translated at all.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        !matches!(self.trees, Trees::Off)
    }

    /// Returns the shape of the tables for an address and the value of the register that holds their
    /// base; `None` where translation is off or the tables are not walked.
    #[must_use]
    pub const fn root(&self, address: Gva) -> Option<(Geometry, u64)> {
        match self.tree(address) {
            Some(tree) if tree.is_walked => Some((tree.geometry, tree.base.into_bits())),
            Some(_) | None => None,
        }
    }

    /// Returns which bits of pointers are no address.
    #[must_use]
    pub const fn tags(&self) -> &PointerTags {
        &self.tags
    }

    /// Returns the address that a pointer stands for: without tag and signature.
    ///
    /// Where translation is off nothing is removed.
    #[must_use]
    pub const fn untag(&self, address: Gva) -> Gva {
        match self.trees {
            Trees::Halves { .. } | Trees::Wide => self.tags.strip(address),
            Trees::Off | Trees::Stage2 { .. } => address,
        }
    }

    const fn tree(&self, address: Gva) -> Option<&Tree> {
        match &self.trees {
            Trees::Halves { lower, upper } => match Half::of(address) {
                Half::Lower => Some(lower),
                Half::Upper => Some(upper),
            },
            Trees::Stage2 { tree } => Some(tree),
            Trees::Off | Trees::Wide => None,
        }
    }
}

impl Tree {
    const fn with_base(self, ttbr: u64) -> Self {
        Self {
            base: Ttbr::from_bits(ttbr),
            ..self
        }
    }

    /// Returns the address of the table at which a walk starts.
    ///
    /// It is aligned to its own size, to 64 bytes at least where addresses have 52 bits.
    fn start(&self) -> Gpa {
        let baddr = self.base.baddr() << 1;
        let low = baddr & u64::MAX.unbounded_shl(self.geometry.start_alignment_bits());
        let high = if self.geometry.output_bits > 48 {
            (baddr >> 2 & 0xf) << 48
        } else {
            0
        };
        Gpa(low | high)
    }
}

fn tree(half: Half, registers: &RegisterFile) -> Tree {
    let tcr = Tcr::read(registers);
    let (base, disabled) = match half {
        Half::Lower => (registers::TTBR0_EL1, tcr.epd0()),
        Half::Upper => (registers::TTBR1_EL1, tcr.epd1()),
    };
    Tree {
        geometry: Geometry::of_stage_1(tcr, half),
        base: Ttbr::from_bits(registers.u64(base)),
        is_walked: !disabled,
        permissions: PermissionModel::stage_1(half, registers),
    }
}

#[cfg(test)]
mod region_tests;
#[cfg(test)]
mod tests;
