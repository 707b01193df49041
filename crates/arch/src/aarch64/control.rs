//! System registers and the process state as values. Reserved bits keep what they held.

use bitfield_struct::bitfield;

use super::registers;
use crate::{RegisterFile, RegisterId};

macro_rules! stored_in {
    ($($type:ident: $id:ident),+ $(,)?) => { $(
        impl $type {
            /// The register that holds the value.
            pub const REGISTER: RegisterId = registers::$id;

            /// Reads the register.
            #[must_use]
            pub fn read(registers: &RegisterFile) -> Self {
                Self::from_bits(registers.u64(Self::REGISTER))
            }

            /// Writes the register.
            pub fn write(self, registers: &mut RegisterFile) {
                registers.set_u64(Self::REGISTER, self.into_bits());
            }
        }
    )+ };
}
pub(super) use stored_in;

stored_in! {
    Pstate: CPSR,
    Sctlr: SCTLR_EL1,
    Tcr: TCR_EL1,
    Tcr2: TCR2_EL1,
    Dczid: DCZID_EL0,
}

/// The process state, in the form in which an exception saves it.
///
/// Source: Arm ARM, "`SPSR_EL1`, Saved Program Status Register (EL1)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Pstate {
    /// The mode: exception level and stack pointer, or the mode of AArch32.
    #[bits(4)]
    pub m: u8,
    /// The execution state is AArch32.
    pub n_rw: bool,
    /// AArch32: the instruction set is T32.
    pub t: bool,
    /// FIQ is masked.
    pub f: bool,
    /// IRQ is masked.
    pub i: bool,
    /// `SError` is masked.
    pub a: bool,
    /// Watchpoints, breakpoints and software step are masked.
    pub d: bool,
    /// The kind of branch that led to the next instruction.
    #[bits(2)]
    pub btype: u8,
    /// Speculative store bypassing is allowed.
    pub ssbs: bool,
    /// All interrupts are masked, those that cannot be masked otherwise included.
    pub allint: bool,
    #[bits(6)]
    __: u8,
    /// Illegal execution state.
    pub il: bool,
    /// Software step: the next instruction is the one to be stepped.
    pub ss: bool,
    /// Privileged accesses to memory open to EL0 fault.
    pub pan: bool,
    /// Unprivileged loads and stores act as privileged ones.
    pub uao: bool,
    /// Timing does not depend on data.
    pub dit: bool,
    /// Allocation tags are not checked.
    pub tco: bool,
    #[bits(2)]
    __: u8,
    /// Overflow.
    pub v: bool,
    /// Carry.
    pub c: bool,
    /// Zero.
    pub z: bool,
    /// Negative.
    pub n: bool,
    __: u32,
}

impl Pstate {
    /// Returns the mask bits D, A, I and F where the register DAIF has them, which is where they
    /// are here.
    #[must_use]
    pub const fn masks_in_place(self) -> u64 {
        Self::new()
            .with_d(self.d())
            .with_a(self.a())
            .with_i(self.i())
            .with_f(self.f())
            .into_bits()
    }
}

/// The system control register.
///
/// Source: Arm ARM, "`SCTLR_EL1`, System Control Register (EL1)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Sctlr {
    /// Stage 1 translation is on.
    pub m: bool,
    #[bits(12)]
    __: u16,
    /// Data pointers are signed with key B.
    pub en_db: bool,
    #[bits(5)]
    __: u8,
    /// What can be written cannot be executed.
    pub wxn: bool,
    #[bits(3)]
    __: u8,
    /// An exception to EL1 leaves PSTATE.PAN as it is.
    pub span: bool,
    /// EL0's data is big-endian.
    pub e0e: bool,
    /// EL1's data and the translation tables are big-endian.
    pub ee: bool,
    __: bool,
    /// Data pointers are signed with key A.
    pub en_da: bool,
    #[bits(2)]
    __: u8,
    /// Code pointers are signed with key B.
    pub en_ib: bool,
    /// Code pointers are signed with key A.
    pub en_ia: bool,
    #[bits(12)]
    __: u16,
    /// What PSTATE.SSBS is after an exception to EL1.
    pub dssbs: bool,
    #[bits(12)]
    __: u16,
    /// Privileged access never also counts pages that EL0 can only execute.
    pub epan: bool,
    #[bits(4)]
    __: u8,
    /// An exception to EL1 leaves all interrupts unmasked that masks cannot hold.
    pub spintmask: bool,
    __: bool,
}

impl Sctlr {
    /// Returns whether code signs pointers of any kind.
    #[must_use]
    pub const fn signs_pointers(self) -> bool {
        self.en_ia() || self.en_ib() || self.en_da() || self.en_db()
    }
}

/// The translation control register.
///
/// Source: Arm ARM, "`TCR_EL1`, Translation Control Register (EL1)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Tcr {
    /// The lower half has 2^(64 - this) addresses.
    #[bits(6)]
    pub t0sz: u8,
    __: bool,
    /// The lower half is not walked.
    pub epd0: bool,
    #[bits(6)]
    __: u8,
    /// The granule of the lower half.
    #[bits(2)]
    pub tg0: u8,
    /// The upper half has 2^(64 - this) addresses.
    #[bits(6)]
    pub t1sz: u8,
    /// TTBR1 holds the ASID.
    pub a1: bool,
    /// The upper half is not walked.
    pub epd1: bool,
    #[bits(6)]
    __: u8,
    /// The granule of the upper half, in another encoding than that of the lower.
    #[bits(2)]
    pub tg1: u8,
    /// The size of intermediate physical addresses.
    #[bits(3)]
    pub ips: u8,
    __: bool,
    /// ASIDs have 16 bits.
    pub r#as: bool,
    /// The top byte of addresses of the lower half is ignored.
    pub tbi0: bool,
    /// The top byte of addresses of the upper half is ignored.
    pub tbi1: bool,
    /// Hardware sets the access flag.
    pub ha: bool,
    /// Hardware makes clean pages dirty.
    pub hd: bool,
    /// Table descriptors of the lower half restrict nothing.
    pub hpd0: bool,
    /// Table descriptors of the upper half restrict nothing.
    pub hpd1: bool,
    __: u8,
    /// TBI0 is for data alone.
    pub tbid0: bool,
    /// TBI1 is for data alone.
    pub tbid1: bool,
    #[bits(2)]
    __: u8,
    /// EL0 cannot use the lower half.
    pub e0pd0: bool,
    /// EL0 cannot use the upper half.
    pub e0pd1: bool,
    #[bits(2)]
    __: u8,
    /// Granules of 4 and 16 KiB have 52-bit addresses (`FEAT_LPA2`).
    pub ds: bool,
    /// Bits 59:56 of addresses of the lower half are a tag and never a signature.
    pub mtx0: bool,
    /// Bits 59:56 of addresses of the upper half are a tag and never a signature.
    pub mtx1: bool,
    #[bits(2)]
    __: u8,
}

/// The extended translation control register; 0 where there is none.
///
/// Source: Arm ARM, "`TCR2_EL1`, Extended Translation Control Register (EL1)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Tcr2 {
    __: bool,
    /// Permissions are indirect: an entry holds an index into PIR and PIRE0.
    pub pie: bool,
    #[bits(3)]
    __: u8,
    /// Descriptors have 128 bits.
    pub d128: bool,
    #[bits(58)]
    __: u64,
}

/// A translation table base register.
///
/// Source: Arm ARM, "`TTBR0_EL1`, Translation Table Base Register 0 (EL1)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Ttbr {
    /// The entries are common to all processors.
    pub cnp: bool,
    /// Bits 47:1 of the table's address; bits 51:48 in its bits 5:2 where addresses have 52 bits.
    #[bits(47)]
    pub baddr: u64,
    /// The address space.
    pub asid: u16,
}

/// The virtualization translation control register, which governs stage 2.
///
/// Source: Arm ARM, "`VTCR_EL2`, Virtualization Translation Control Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Vtcr {
    /// There are 2^(64 - this) intermediate physical addresses.
    #[bits(6)]
    pub t0sz: u8,
    /// The level at which a walk starts, in an encoding that depends on the granule.
    #[bits(2)]
    pub sl0: u8,
    #[bits(6)]
    __: u8,
    /// The granule.
    #[bits(2)]
    pub tg0: u8,
    /// The size of physical addresses.
    #[bits(3)]
    pub ps: u8,
    #[bits(2)]
    __: u8,
    /// Hardware sets the access flag.
    pub ha: bool,
    /// Hardware makes clean pages dirty.
    pub hd: bool,
    #[bits(9)]
    __: u16,
    /// Granules of 4 and 16 KiB have 52-bit addresses (`FEAT_LPA2`).
    pub ds: bool,
    /// With SL0, a walk starts at level -1.
    pub sl2: bool,
    #[bits(30)]
    __: u32,
}

/// The data cache zero identification register.
///
/// Source: Arm ARM, "`DCZID_EL0`, Data Cache Zero ID Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Dczid {
    /// The binary logarithm of the block size in words of 4 bytes.
    #[bits(4)]
    pub bs: u8,
    /// DC ZVA is not permitted.
    pub dzp: bool,
    #[bits(59)]
    __: u64,
}

impl Dczid {
    /// Returns the size in bytes of the block that DC ZVA clears, 4 to 131072; the architecture
    /// permits up to 2048.
    #[must_use]
    pub const fn block_bytes(self) -> u64 {
        4 << self.bs()
    }
}

#[cfg(test)]
mod tests;
