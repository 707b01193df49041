//! Bits of a pointer that translation does not use: tags and authentication codes.
//!
//! ```text
//!  63   60 59   56 55  54        n n-1                0
//! ┌───────┬───────┬───┬───────────┬────────────────────┐
//! │      tag      │ h │ signature │      address       │  the top byte is ignored (TBI)
//! ├───────┼───────┼───┼───────────┼────────────────────┤
//! │ sign. │  tag  │ h │ signature │      address       │  MTX, without TBI
//! ├───────┴───────┼───┼───────────┼────────────────────┤
//! │   signature   │ h │ signature │      address       │  neither
//! └───────────────┴───┴───────────┴────────────────────┘
//! ```
//!
//! Bit 55 (`h`) says which half the pointer is in; n is 64 - T0SZ or 64 - T1SZ.
//!
//! Source: Arm ARM, "Address tagging", "System register control of pointer authentication" and
//! "PAC field".

use super::{
    control::{Sctlr, Tcr},
    registers,
};
use crate::{Gva, RegisterFile};

/// One of the two ranges of virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// From 0 up, translated by TTBR0.
    Lower,
    /// To 2^64 - 1, translated by TTBR1.
    Upper,
}

impl Half {
    /// Returns the half that a pointer is in, whatever its tag.
    #[must_use]
    pub const fn of(address: Gva) -> Self {
        if address.0 & HALF_BIT == 0 {
            Self::Lower
        } else {
            Self::Upper
        }
    }
}

const HALF_BIT: u64 = 1 << 55;
const TOP_BYTE: u64 = 0xff << 56;
const MTX_TAG: u64 = 0xf << 56;

/// What an address is used for. TBID makes a difference between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointerUse {
    /// A data access.
    Data,
    /// An instruction fetch.
    Code,
}

/// Which bits of a vCPU's pointers are no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointerTags {
    tcr: Tcr,
    sctlr: Sctlr,
}

impl PointerTags {
    /// Takes the meaning of pointers from a vCPU's registers, of which the group `System` must be
    /// loaded.
    #[must_use]
    pub fn from_registers(registers: &RegisterFile) -> Self {
        Self::new(Tcr::read(registers), Sctlr::read(registers))
    }

    /// Takes the meaning of pointers from the two registers that decide it.
    #[must_use]
    pub const fn new(tcr: Tcr, sctlr: Sctlr) -> Self {
        Self { tcr, sctlr }
    }

    /// Returns how many low bits of a pointer into `half` are address: what LLDB calls addressing
    /// bits. It is 1 to 64, and 64 only if TCR was never set.
    #[must_use]
    pub const fn address_bits(&self, half: Half) -> u32 {
        let size = match half {
            Half::Lower => self.tcr.t0sz(),
            Half::Upper => self.tcr.t1sz(),
        };
        64_u32.saturating_sub(size as u32)
    }

    /// Returns the bits of a pointer into `half` that translation ignores.
    #[must_use]
    pub const fn ignored(&self, half: Half, pointer_use: PointerUse) -> u64 {
        let (tbi, data_only) = match half {
            Half::Lower => (self.tcr.tbi0(), self.tcr.tbid0()),
            Half::Upper => (self.tcr.tbi1(), self.tcr.tbid1()),
        };
        match pointer_use {
            PointerUse::Data if tbi => TOP_BYTE,
            PointerUse::Code if tbi && !data_only => TOP_BYTE,
            PointerUse::Data if self.mtx(half) => MTX_TAG,
            PointerUse::Data | PointerUse::Code => 0,
        }
    }

    /// Returns the bits of a signed pointer into `half` that hold its authentication code; none if
    /// the vCPU signs no pointers.
    #[must_use]
    pub const fn signature(&self, half: Half, pointer_use: PointerUse) -> u64 {
        if !self.sctlr.signs_pointers() {
            return 0;
        }
        let above = u64::MAX.unbounded_shl(self.address_bits(half));
        let mut mask = above & !HALF_BIT & !self.ignored(half, pointer_use);
        if self.mtx(half) {
            mask &= !MTX_TAG;
        }
        mask
    }

    const fn mtx(&self, half: Half) -> bool {
        match half {
            Half::Lower => self.tcr.mtx0(),
            Half::Upper => self.tcr.mtx1(),
        }
    }

    /// Returns the address that a data access through `pointer` uses if `pointer` is valid: with
    /// the ignored bits made copies of bit 55. A signature stays, and faults.
    #[must_use]
    pub const fn untag(&self, pointer: Gva) -> Gva {
        let half = Half::of(pointer);
        extend(pointer, self.ignored(half, PointerUse::Data))
    }

    /// Returns the address that the maker of `pointer` meant: without tag and without signature
    /// (rule M2).
    ///
    /// An address that is neither is returned as it is, and faults where the guest's would.
    #[must_use]
    pub const fn strip(&self, pointer: Gva) -> Gva {
        let half = Half::of(pointer);
        let data = self.ignored(half, PointerUse::Data) | self.signature(half, PointerUse::Data);
        extend(pointer, data)
    }

    /// Returns the address of the code that the maker of `pointer` meant.
    #[must_use]
    pub const fn strip_code(&self, pointer: Gva) -> Gva {
        let half = Half::of(pointer);
        let code = self.ignored(half, PointerUse::Code) | self.signature(half, PointerUse::Code);
        extend(pointer, code)
    }
}

/// Makes the bits of `mask` copies of bit 55.
const fn extend(pointer: Gva, mask: u64) -> Gva {
    match Half::of(pointer) {
        Half::Lower => Gva(pointer.0 & !mask),
        Half::Upper => Gva(pointer.0 | mask),
    }
}

/// The values of GDB's mask registers: which bits of a pointer hold an authentication code.
///
/// Source: GDB manual, "AArch64 Features", `org.gnu.gdb.aarch64.pauth_v2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacMasks {
    /// `pauth_dmask`: of data pointers into the lower half.
    pub data: u64,
    /// `pauth_cmask`: of code pointers into the lower half.
    pub code: u64,
    /// `pauth_dmask_high`: of data pointers into the upper half.
    pub data_high: u64,
    /// `pauth_cmask_high`: of code pointers into the upper half.
    pub code_high: u64,
}

impl PacMasks {
    /// Computes the masks.
    #[must_use]
    pub const fn of(tags: &PointerTags) -> Self {
        Self {
            data: tags.signature(Half::Lower, PointerUse::Data),
            code: tags.signature(Half::Lower, PointerUse::Code),
            data_high: tags.signature(Half::Upper, PointerUse::Data),
            code_high: tags.signature(Half::Upper, PointerUse::Code),
        }
    }

    /// Puts the masks into the register file, which stores no others.
    pub fn write(self, registers: &mut RegisterFile) {
        registers.set_u64(registers::PAUTH_DMASK, self.data);
        registers.set_u64(registers::PAUTH_CMASK, self.code);
        registers.set_u64(registers::PAUTH_DMASK_HIGH, self.data_high);
        registers.set_u64(registers::PAUTH_CMASK_HIGH, self.code_high);
    }
}

#[cfg(test)]
mod tests;
