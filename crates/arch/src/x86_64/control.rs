//! Control registers, EFER and RFLAGS as values. Reserved bits keep what they held.

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

stored_in! { Rflags: RFLAGS, Cr0: CR0, Cr3: CR3, Cr4: CR4, Efer: EFER }

/// The flags register.
///
/// Source: SDM vol. 1, "EFLAGS Register".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Rflags {
    /// Carry.
    pub cf: bool,
    /// Reads 1.
    #[bits(default = true)]
    pub reserved_1: bool,
    /// Parity.
    pub pf: bool,
    __: bool,
    /// Auxiliary carry.
    pub af: bool,
    __: bool,
    /// Zero.
    pub zf: bool,
    /// Sign.
    pub sf: bool,
    /// Trap: a debug exception follows the next instruction.
    pub tf: bool,
    /// Interrupts are accepted.
    pub r#if: bool,
    /// String instructions count down.
    pub df: bool,
    /// Overflow.
    pub of: bool,
    /// The lowest privilege that may do port I/O.
    #[bits(2)]
    pub iopl: u8,
    /// Nested task.
    pub nt: bool,
    __: bool,
    /// Resume: instruction breakpoints are ignored for one instruction.
    pub rf: bool,
    /// Virtual-8086 mode.
    pub vm: bool,
    /// Alignment check, or access control under SMAP.
    pub ac: bool,
    /// Virtual interrupt flag.
    pub vif: bool,
    /// Virtual interrupt pending.
    pub vip: bool,
    /// CPUID can be used if this can be changed.
    pub id: bool,
    #[bits(42)]
    __: u64,
}

/// Control register 0.
///
/// Source: SDM vol. 3A, "Control Registers".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cr0 {
    /// Protected mode.
    pub pe: bool,
    /// WAIT obeys `ts`.
    pub mp: bool,
    /// There is no x87 unit.
    pub em: bool,
    /// x87 and SSE instructions fault, so that their state can be switched lazily.
    pub ts: bool,
    /// Reads 1.
    pub et: bool,
    /// x87 errors raise #MF.
    pub ne: bool,
    #[bits(10)]
    __: u16,
    /// The supervisor may not write to read-only pages.
    pub wp: bool,
    __: bool,
    /// Alignment is checked where RFLAGS.AC says so.
    pub am: bool,
    #[bits(10)]
    __: u16,
    /// Not write-through.
    pub nw: bool,
    /// Caches are disabled.
    pub cd: bool,
    /// Paging.
    pub pg: bool,
    __: u32,
}

/// Control register 3. Its low 12 bits are the PCID if CR4.PCIDE is set, else cache controls.
///
/// Source: SDM vol. 3A, "Control Registers" and "Linear-Address Masking".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cr3 {
    /// Process-context identifier.
    #[bits(12)]
    pub pcid: u16,
    /// The root table's page-frame number; with PAE paging, bits 11:5 of the address are in
    /// `pcid`.
    #[bits(40)]
    pub frame: u64,
    #[bits(9)]
    __: u16,
    /// User pointers carry tags in bits 62:57.
    pub lam_u57: bool,
    /// User pointers carry tags in bits 62:48; ignored if `lam_u57` is set.
    pub lam_u48: bool,
    __: bool,
}

/// Control register 4.
///
/// Source: SDM vol. 3A, "Control Registers".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cr4 {
    /// Virtual-8086 mode extensions.
    pub vme: bool,
    /// Protected-mode virtual interrupts.
    pub pvi: bool,
    /// RDTSC is privileged.
    pub tsd: bool,
    /// Debugging extensions: I/O breakpoints; DR4 and DR5 fault.
    pub de: bool,
    /// 4 MiB pages in 32-bit paging.
    pub pse: bool,
    /// Page-table entries have 64 bits.
    pub pae: bool,
    /// Machine checks raise exceptions.
    pub mce: bool,
    /// Global pages.
    pub pge: bool,
    /// RDPMC is not privileged.
    pub pce: bool,
    /// FXSAVE and SSE.
    pub osfxsr: bool,
    /// SIMD floating-point exceptions.
    pub osxmmexcpt: bool,
    /// SGDT, SIDT, SLDT, SMSW and STR are privileged.
    pub umip: bool,
    /// 5-level paging.
    pub la57: bool,
    /// VMX.
    pub vmxe: bool,
    /// SMX.
    pub smxe: bool,
    __: bool,
    /// RDFSBASE and its like.
    pub fsgsbase: bool,
    /// Process-context identifiers.
    pub pcide: bool,
    /// XSAVE.
    pub osxsave: bool,
    /// Key Locker.
    pub kl: bool,
    /// The supervisor may not execute user pages.
    pub smep: bool,
    /// The supervisor may not touch user pages while RFLAGS.AC is clear.
    pub smap: bool,
    /// Protection keys for user pages.
    pub pke: bool,
    /// Control-flow enforcement.
    pub cet: bool,
    /// Protection keys for supervisor pages.
    pub pks: bool,
    /// User interrupts.
    pub uintr: bool,
    __: bool,
    /// Linear-address space separation.
    pub lass: bool,
    /// Supervisor pointers carry tags.
    pub lam_sup: bool,
    #[bits(35)]
    __: u64,
}

/// The MSR `IA32_EFER`.
///
/// Source: APM vol. 2, "Extended Feature Enable Register (EFER)".
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Efer {
    /// SYSCALL and SYSRET.
    pub sce: bool,
    #[bits(7)]
    __: u8,
    /// Long mode is enabled.
    pub lme: bool,
    __: bool,
    /// Long mode is active.
    pub lma: bool,
    /// Pages can forbid execution.
    pub nxe: bool,
    /// SVM.
    pub svme: bool,
    /// Data segment limits in 64-bit mode.
    pub lmsle: bool,
    /// Fast FXSAVE.
    pub ffxsr: bool,
    /// Translation cache extension.
    pub tce: bool,
    #[bits(48)]
    __: u64,
}

#[cfg(test)]
mod tests;
