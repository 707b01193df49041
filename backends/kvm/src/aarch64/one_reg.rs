//! The numbers by which `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` know registers.
//!
//! Source: KVM API, "`KVM_SET_ONE_REG`", section on arm64 registers.

use core::mem::offset_of;

use kvm_bindings::{
    KVM_REG_ARM_CORE, KVM_REG_ARM_DEMUX, KVM_REG_ARM64, KVM_REG_ARM64_SVE, KVM_REG_ARM64_SYSREG,
    KVM_REG_SIZE_U32, KVM_REG_SIZE_U64, KVM_REG_SIZE_U128, KVM_REG_SIZE_U256, KVM_REG_SIZE_U512,
    KVM_REG_SIZE_U2048, kvm_regs, user_fpsimd_state, user_pt_regs,
};
use kvm_ioctls::VcpuFd;
use trapline_arch::RegisterId;
use trapline_arch::aarch64::registers as ids;
use vmm_sys_util::errno;

/// KVM's number of a register. It contains the register's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OneReg(pub(super) u64);

/// The general registers of EL0 and EL1 lie in a structure, whose offsets are the numbers.
const fn core(offset_bytes: usize, size: u64) -> OneReg {
    OneReg(KVM_REG_ARM64 | size | KVM_REG_ARM_CORE as u64 | (offset_bytes / 4) as u64)
}

const fn core_64(offset_bytes: usize) -> OneReg {
    core(offset_bytes, KVM_REG_SIZE_U64)
}

/// A system register by its encoding in MRS and MSR.
///
/// Source: Arm ARM, "System instruction class encoding overview".
const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> OneReg {
    let encoding = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
    OneReg(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | encoding)
}

/// The program counter.
pub(super) const PC: OneReg = core_64(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pc));
/// The process state, as an exception would save it.
pub(super) const PSTATE: OneReg =
    core_64(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, pstate));
/// The stack pointer of EL0.
pub(super) const SP_EL0: OneReg =
    core_64(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, sp));
/// The stack pointer of EL1.
pub(super) const SP_EL1: OneReg = core_64(offset_of!(kvm_regs, sp_el1));
/// The virtual counter.
pub(super) const COUNTER: OneReg = system(3, 3, 14, 3, 2);
/// `MPIDR_EL1`.
pub(super) const MPIDR: OneReg = system(3, 0, 0, 0, 5);
/// `ID_AA64DFR0_EL1`.
pub(super) const DFR0: OneReg = system(3, 0, 0, 5, 0);

/// The vector lengths that a vCPU with SVE has, one bit for each number of quadwords.
pub(super) const SVE_LENGTHS: OneReg =
    OneReg(KVM_REG_ARM64 | KVM_REG_ARM64_SVE as u64 | KVM_REG_SIZE_U512 | 0xffff);

/// Returns x`number`, 0 to 30.
pub(super) const fn x(number: usize) -> OneReg {
    core_64(offset_of!(kvm_regs, regs) + offset_of!(user_pt_regs, regs) + 8 * number)
}

/// Returns v`number`, 0 to 31, of a vCPU without SVE.
pub(super) const fn v(number: usize) -> OneReg {
    let vectors = offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, vregs);
    core(vectors + 16 * number, KVM_REG_SIZE_U128)
}

/// FPSR.
pub(super) const FPSR: OneReg = core(
    offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, fpsr),
    KVM_REG_SIZE_U32,
);
/// FPCR.
pub(super) const FPCR: OneReg = core(
    offset_of!(kvm_regs, fp_regs) + offset_of!(user_fpsimd_state, fpcr),
    KVM_REG_SIZE_U32,
);

const fn sve(size: u64, base: u64, number: u64) -> OneReg {
    OneReg(KVM_REG_ARM64 | KVM_REG_ARM64_SVE as u64 | size | base | number << 5)
}

/// Returns z`number`, 0 to 31, with room for the longest vectors.
pub(super) const fn z(number: u64) -> OneReg {
    sve(KVM_REG_SIZE_U2048, 0, number)
}

/// Returns p`number`, 0 to 15, with room for the longest vectors; 16 is FFR.
pub(super) const fn p(number: u64) -> OneReg {
    sve(KVM_REG_SIZE_U256, 0x400, number)
}

/// Returns `CCSIDR_EL1` for a value of `CSSELR_EL1`.
pub(super) const fn ccsidr(cache: u64) -> OneReg {
    OneReg(KVM_REG_ARM64 | KVM_REG_SIZE_U32 | KVM_REG_ARM_DEMUX as u64 | cache & 0xff)
}

/// The registers of a breakpoint or watchpoint, by the encoding's op2.
const DBGBVR: u64 = 4;
const DBGBCR: u64 = 5;
const DBGWVR: u64 = 6;
const DBGWCR: u64 = 7;

/// Returns the debug registers of a slot, 0 to 15, with their places in the table.
pub(super) fn debug_slot(slot: u8) -> [(RegisterId, OneReg); 4] {
    let place = |first: RegisterId| RegisterId(first.0 + u16::from(slot));
    let number = |op2| system(2, 0, 0, slot.into(), op2);
    [
        (place(ids::DBGBVR0_EL1), number(DBGBVR)),
        (place(ids::DBGBCR0_EL1), number(DBGBCR)),
        (place(ids::DBGWVR0_EL1), number(DBGWVR)),
        (place(ids::DBGWCR0_EL1), number(DBGWCR)),
    ]
}

/// What address translation and exceptions depend on.
pub(super) const SYSTEM: [(RegisterId, OneReg); 29] = [
    (ids::SCTLR_EL1, system(3, 0, 1, 0, 0)),
    (ids::TCR_EL1, system(3, 0, 2, 0, 2)),
    (ids::TTBR0_EL1, system(3, 0, 2, 0, 0)),
    (ids::TTBR1_EL1, system(3, 0, 2, 0, 1)),
    (ids::MAIR_EL1, system(3, 0, 10, 2, 0)),
    (ids::AMAIR_EL1, system(3, 0, 10, 3, 0)),
    (ids::CPACR_EL1, system(3, 0, 1, 0, 2)),
    (ids::CONTEXTIDR_EL1, system(3, 0, 13, 0, 1)),
    (ids::PAR_EL1, system(3, 0, 7, 4, 0)),
    (ids::AFSR0_EL1, system(3, 0, 5, 1, 0)),
    (ids::AFSR1_EL1, system(3, 0, 5, 1, 1)),
    (ids::ESR_EL1, system(3, 0, 5, 2, 0)),
    (ids::FAR_EL1, system(3, 0, 6, 0, 0)),
    (ids::SP_EL0, SP_EL0),
    (ids::SP_EL1, SP_EL1),
    (ids::TPIDR_EL0, system(3, 3, 13, 0, 2)),
    (ids::TPIDRRO_EL0, system(3, 3, 13, 0, 3)),
    (ids::TPIDR_EL1, system(3, 0, 13, 0, 4)),
    (ids::VBAR_EL1, system(3, 0, 12, 0, 0)),
    (ids::ELR_EL1, core_64(offset_of!(kvm_regs, elr_el1))),
    (ids::SPSR_EL1, core_64(offset_of!(kvm_regs, spsr))),
    (ids::TCR2_EL1, system(3, 0, 2, 0, 3)),
    (ids::PIR_EL1, system(3, 0, 10, 2, 3)),
    (ids::PIRE0_EL1, system(3, 0, 10, 2, 2)),
    (ids::ZCR_EL1, system(3, 0, 1, 2, 0)),
    (ids::RGSR_EL1, system(3, 0, 1, 0, 5)),
    (ids::GCR_EL1, system(3, 0, 1, 0, 6)),
    (ids::TFSR_EL1, system(3, 0, 5, 6, 0)),
    (ids::TFSRE0_EL1, system(3, 0, 5, 6, 1)),
];

/// The debug registers that are there but once.
pub(super) const DEBUG: [(RegisterId, OneReg); 2] = [
    (ids::MDSCR_EL1, system(2, 0, 0, 2, 2)),
    (ids::OSLSR_EL1, system(2, 0, 1, 1, 4)),
];

/// The timers, and what the processor is. KVM has numbers of its own for the virtual counter and
/// its comparator, which are exchanged (KVM API, "arm64 system registers").
pub(super) const OTHER: [(RegisterId, OneReg); 28] = [
    (ids::CNTKCTL_EL1, system(3, 0, 14, 1, 0)),
    (ids::CNTVCT_EL0, COUNTER),
    (ids::CNTV_CTL_EL0, system(3, 3, 14, 3, 1)),
    (ids::CNTV_CVAL_EL0, system(3, 3, 14, 0, 2)),
    (ids::CNTP_CTL_EL0, system(3, 3, 14, 2, 1)),
    (ids::CNTP_CVAL_EL0, system(3, 3, 14, 2, 2)),
    (ids::MIDR_EL1, system(3, 0, 0, 0, 0)),
    (ids::MPIDR_EL1, MPIDR),
    (ids::REVIDR_EL1, system(3, 0, 0, 0, 6)),
    (ids::CTR_EL0, system(3, 3, 0, 0, 1)),
    (ids::CLIDR_EL1, system(3, 1, 0, 0, 1)),
    (ids::CSSELR_EL1, system(3, 2, 0, 0, 0)),
    (ids::ID_AA64PFR0_EL1, system(3, 0, 0, 4, 0)),
    (ids::ID_AA64PFR1_EL1, system(3, 0, 0, 4, 1)),
    (ids::ID_AA64PFR2_EL1, system(3, 0, 0, 4, 2)),
    (ids::ID_AA64ZFR0_EL1, system(3, 0, 0, 4, 4)),
    (ids::ID_AA64SMFR0_EL1, system(3, 0, 0, 4, 5)),
    (ids::ID_AA64DFR0_EL1, DFR0),
    (ids::ID_AA64DFR1_EL1, system(3, 0, 0, 5, 1)),
    (ids::ID_AA64ISAR0_EL1, system(3, 0, 0, 6, 0)),
    (ids::ID_AA64ISAR1_EL1, system(3, 0, 0, 6, 1)),
    (ids::ID_AA64ISAR2_EL1, system(3, 0, 0, 6, 2)),
    (ids::ID_AA64MMFR0_EL1, system(3, 0, 0, 7, 0)),
    (ids::ID_AA64MMFR1_EL1, system(3, 0, 0, 7, 1)),
    (ids::ID_AA64MMFR2_EL1, system(3, 0, 0, 7, 2)),
    (ids::ID_AA64MMFR3_EL1, system(3, 0, 0, 7, 3)),
    (ids::ID_AA64MMFR4_EL1, system(3, 0, 0, 7, 4)),
    (ids::DCZID_EL0, system(3, 3, 0, 0, 7)),
];

/// Reads a register of up to 64 bits.
///
/// # Errors
/// ENOENT if the vCPU has no such register.
pub(super) fn read(fd: &VcpuFd, register: OneReg) -> Result<u64, errno::Error> {
    let mut value = [0; 8];
    fd.get_one_reg(register.0, &mut value)?;
    Ok(u64::from_le_bytes(value))
}

/// Writes a register of 64 bits.
pub(super) fn write(fd: &VcpuFd, register: OneReg, value: u64) -> Result<(), errno::Error> {
    fd.set_one_reg(register.0, &value.to_le_bytes()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernels_documentation() {
        assert_eq!(x(0).0, 0x6030_0000_0010_0000);
        assert_eq!(x(30).0, 0x6030_0000_0010_003c);
        assert_eq!(SP_EL0.0, 0x6030_0000_0010_003e);
        assert_eq!(PC.0, 0x6030_0000_0010_0040);
        assert_eq!(PSTATE.0, 0x6030_0000_0010_0042);
        assert_eq!(SP_EL1.0, 0x6030_0000_0010_0044);
        assert_eq!(v(0).0, 0x6040_0000_0010_0054);
        assert_eq!(v(31).0, 0x6040_0000_0010_00d0);
        assert_eq!(FPSR.0, 0x6020_0000_0010_00d4);
        assert_eq!(FPCR.0, 0x6020_0000_0010_00d5);
        assert_eq!(MPIDR.0, 0x6030_0000_0013_c005);
        assert_eq!(z(1).0, 0x6080_0000_0015_0020);
        assert_eq!(p(16).0, 0x6050_0000_0015_0600);
        assert_eq!(SVE_LENGTHS.0, 0x6060_0000_0015_ffff);
    }
}
