//! Paging: from linear to guest-physical addresses, as the guest's own tables say.
//!
//! A debugger reads and writes whatever is mapped, so translation ignores the privilege and write
//! bits and reports them instead ([`Translation::flags`]). Whether the guest itself may make an
//! access is a question of its own ([`PagingState::permits`]).

mod access;
mod entry;
mod regions;
mod walk;

pub use access::{AccessKind, Privilege};
pub use entry::{Entry, PageFlags};
pub use regions::{Region, Regions};
pub use walk::{Step, TranslateError, Translation, Walk};

use super::control::{Cr0, Cr3, Cr4, Efer, Rflags};
use crate::{Gva, RegisterFile};

/// How linear addresses are translated.
///
/// Source: SDM vol. 3A, "Paging Modes and Control Bits".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// Linear addresses are physical ones.
    None,
    /// Two levels of 32-bit entries.
    Bits32 {
        /// Whether an entry of the upper level can map 4 MiB (CR4.PSE).
        large_pages: LargePages,
    },
    /// Three levels of 64-bit entries, 32-bit linear addresses.
    Pae,
    /// Four levels, 48-bit linear addresses.
    FourLevel,
    /// Five levels, 57-bit linear addresses.
    FiveLevel,
}

/// Whether 32-bit paging knows 4 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LargePages {
    /// It does; their addresses have 40 bits (PSE-36).
    On,
    /// The bit PS is ignored.
    Off,
}

impl PagingMode {
    /// Returns how many bits of a linear address are translated.
    #[must_use]
    pub const fn linear_bits(self) -> u32 {
        match self {
            Self::None | Self::Bits32 { .. } | Self::Pae => 32,
            Self::FourLevel => 48,
            Self::FiveLevel => 57,
        }
    }

    /// Returns whether `address` can be translated: its upper bits are copies of the highest
    /// translated bit, or 0 where linear addresses have 32 bits.
    #[must_use]
    pub const fn is_canonical(self, address: Gva) -> bool {
        match self {
            Self::None | Self::Bits32 { .. } | Self::Pae => address.0 >> 32 == 0,
            Self::FourLevel | Self::FiveLevel => {
                sign_extend(address.0, self.linear_bits()) == address.0
            }
        }
    }

    /// Returns the bounds of the hole of untranslatable addresses: the highest address below it
    /// and the lowest above it. Where linear addresses have 32 bits nothing is above.
    #[must_use]
    pub const fn hole(self) -> (Gva, Option<Gva>) {
        match self {
            Self::None | Self::Bits32 { .. } | Self::Pae => (Gva(u32::MAX as u64), None),
            Self::FourLevel => (Gva((1 << 47) - 1), Some(Gva(u64::MAX << 47))),
            Self::FiveLevel => (Gva((1 << 56) - 1), Some(Gva(u64::MAX << 56))),
        }
    }
}

/// Copies bit `bits - 1` of `value` into every bit above it. `bits` is 1 to 64.
const fn sign_extend(value: u64, bits: u32) -> u64 {
    let shift = 64_u32.saturating_sub(bits);
    (value << shift)
        .cast_signed()
        .wrapping_shr(shift)
        .cast_unsigned()
}

/// Everything outside memory that decides how addresses are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagingState {
    mode: PagingMode,
    root: Cr3,
    lam_supervisor: bool,
    no_execute: bool,
    physical_bits: u32,
    checks: access::Checks,
}

impl PagingState {
    /// The widest guest-physical address that the tables can hold, in bits.
    pub const MAX_PHYSICAL_BITS: u32 = 52;

    /// Takes the paging state from a vCPU's registers, of which the groups `General` and `System`
    /// must be loaded.
    #[must_use]
    pub fn from_registers(registers: &RegisterFile) -> Self {
        let (cr0, cr4) = (Cr0::read(registers), Cr4::read(registers));
        let efer = Efer::read(registers);
        let mode = match (cr0.pg(), efer.lma(), cr4.pae()) {
            (false, _, _) => PagingMode::None,
            (true, true, _) if cr4.la57() => PagingMode::FiveLevel,
            (true, true, _) => PagingMode::FourLevel,
            (true, false, true) => PagingMode::Pae,
            (true, false, false) if cr4.pse() => PagingMode::Bits32 {
                large_pages: LargePages::On,
            },
            (true, false, false) => PagingMode::Bits32 {
                large_pages: LargePages::Off,
            },
        };
        Self {
            mode,
            root: Cr3::read(registers),
            lam_supervisor: cr4.lam_sup(),
            no_execute: efer.nxe(),
            physical_bits: Self::MAX_PHYSICAL_BITS,
            checks: access::Checks::new(cr0, cr4, Rflags::read(registers)),
        }
    }

    /// Returns the same state with another CR3: the other half of a page-table-isolation pair, or
    /// another process.
    #[must_use]
    pub const fn with_root(self, cr3: u64) -> Self {
        Self {
            root: Cr3::from_bits(cr3),
            ..self
        }
    }

    /// Returns the same state for a vCPU with `bits` bits of physical address (CPUID leaf
    /// `8000_0008H`), so that higher bits in an entry count as reserved. Without this they are
    /// taken as [`Self::MAX_PHYSICAL_BITS`].
    #[must_use]
    pub fn with_physical_bits(self, bits: u32) -> Self {
        Self {
            physical_bits: bits.clamp(32, Self::MAX_PHYSICAL_BITS),
            ..self
        }
    }

    /// Returns the same state with the protection-key rights of PKRU, which only
    /// [`permits`](Self::permits) asks for.
    #[must_use]
    pub const fn with_pkru(self, pkru: u32) -> Self {
        Self {
            checks: self.checks.with_pkru(pkru),
            ..self
        }
    }

    /// Returns how addresses are translated.
    #[must_use]
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// Returns CR3.
    #[must_use]
    pub const fn root(&self) -> Cr3 {
        self.root
    }

    /// Returns the address that a data access to `address` uses: the tag in a pointer's upper
    /// bits is replaced by copies of the sign, where linear-address masking is on for that half.
    ///
    /// A pointer whose bit 63 is not the sign of what remains is no valid tagged pointer and is
    /// returned as it is; it faults as non-canonical.
    ///
    /// Source: SDM vol. 3A, "Linear-Address Masking (LAM)".
    #[must_use]
    pub const fn untag(&self, address: Gva) -> Gva {
        let Some(bits) = self.untagged_bits(address) else {
            return address;
        };
        let untagged = sign_extend(address.0, bits);
        if untagged >> 63 == address.0 >> 63 {
            Gva(untagged)
        } else {
            address
        }
    }

    /// Returns how many low bits of a pointer into the half of `address` are not tag.
    const fn untagged_bits(&self, address: Gva) -> Option<u32> {
        let supervisor_half = address.0 >> 63 == 1;
        match self.mode {
            PagingMode::None | PagingMode::Bits32 { .. } | PagingMode::Pae => None,
            PagingMode::FourLevel | PagingMode::FiveLevel if supervisor_half => {
                if self.lam_supervisor {
                    Some(self.mode.linear_bits())
                } else {
                    None
                }
            }
            PagingMode::FourLevel | PagingMode::FiveLevel => {
                match (self.root.lam_u57(), self.root.lam_u48()) {
                    (true, _) => Some(57),
                    (false, true) => Some(48),
                    (false, false) => None,
                }
            }
        }
    }
}

#[cfg(test)]
mod region_tests;
#[cfg(test)]
mod tests;
