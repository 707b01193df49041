//! Modes of the processor, and linear addresses as each mode forms them.

use core::fmt;

use super::{
    control::{Cr0, Efer, Rflags},
    registers,
    segment::SegmentRegister,
};
pub use crate::PcError;
use crate::{Gva, RegisterFile};

/// The mode in which a vCPU executes.
///
/// Source: APM vol. 2, "Operating Modes"; SDM vol. 3A, "Modes of Operation".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuMode {
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected mode, 16-bit code.
    Protected16,
    /// Protected mode, 32-bit code.
    Protected32,
    /// Long mode, 16-bit code of a compatibility segment.
    Compatibility16,
    /// Long mode, 32-bit code of a compatibility segment.
    Compatibility32,
    /// Long mode, 64-bit code.
    Long64,
}

impl fmt::Display for CpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Real => "real mode",
            Self::Virtual8086 => "virtual-8086 mode",
            Self::Protected16 => "16-bit protected mode",
            Self::Protected32 => "32-bit protected mode",
            Self::Compatibility16 => "16-bit compatibility mode",
            Self::Compatibility32 => "32-bit compatibility mode",
            Self::Long64 => "64-bit mode",
        })
    }
}

impl CpuMode {
    /// Returns the mode a vCPU is in.
    #[must_use]
    pub fn of(registers: &RegisterFile) -> Self {
        if !Cr0::read(registers).pe() {
            return Self::Real;
        }
        let code = SegmentRegister::Cs.attributes(registers);
        let long = Efer::read(registers).lma();
        match (long, code.l(), code.db()) {
            (true, true, _) => Self::Long64,
            (true, false, true) => Self::Compatibility32,
            (true, false, false) => Self::Compatibility16,
            (false, _, _) if Rflags::read(registers).vm() => Self::Virtual8086,
            (false, _, true) => Self::Protected32,
            (false, _, false) => Self::Protected16,
        }
    }

    /// Returns the default operand size of code in bits: 16, 32 or 64.
    #[must_use]
    pub const fn code_bits(self) -> u32 {
        match self {
            Self::Real | Self::Virtual8086 | Self::Protected16 | Self::Compatibility16 => 16,
            Self::Protected32 | Self::Compatibility32 => 32,
            Self::Long64 => 64,
        }
    }

    /// Returns whether loading a selector sets the base to sixteen times the selector.
    #[must_use]
    pub const fn is_real_like(self) -> bool {
        matches!(self, Self::Real | Self::Virtual8086)
    }
}

/// Returns the linear address of `offset` in a segment.
///
/// 64-bit code uses the bases of FS and GS only. Other code wraps at 4 GiB. The offset is taken
/// as it is: a 16-bit offset must have been truncated before.
#[must_use]
pub fn linear(registers: &RegisterFile, segment: SegmentRegister, offset: u64) -> Gva {
    if CpuMode::of(registers) == CpuMode::Long64 {
        let has_base = matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
        let base = if has_base { segment.base(registers) } else { 0 };
        return Gva(base.wrapping_add(offset));
    }
    Gva(segment.base(registers).wrapping_add(offset) & u64::from(u32::MAX))
}

/// Returns the linear address of the next instruction.
#[must_use]
pub fn linear_pc(registers: &RegisterFile) -> Gva {
    linear(
        registers,
        SegmentRegister::Cs,
        registers.u64(registers::RIP),
    )
}

/// Makes `pc` the linear address of the next instruction, leaving the code segment as it is.
///
/// # Errors
///
/// [`PcError::OutsideCodeSegment`] if no instruction pointer of the present mode reaches the
/// address; nothing is changed then. The segment's limit does not count: to run into it is the
/// guest's fault to take.
pub fn set_linear_pc(registers: &mut RegisterFile, pc: Gva) -> Result<(), PcError> {
    let mode = CpuMode::of(registers);
    if mode == CpuMode::Long64 {
        registers.set_u64(registers::RIP, pc.0);
        return Ok(());
    }
    let base = SegmentRegister::Cs.base(registers) & u64::from(u32::MAX);
    let offset = pc.0.wrapping_sub(base) & u64::from(u32::MAX);
    let highest = if mode.code_bits() == 16 {
        u16::MAX.into()
    } else {
        u64::from(u32::MAX)
    };
    if pc.0 > u64::from(u32::MAX) || offset > highest {
        return Err(PcError::OutsideCodeSegment {
            pc,
            base: Gva(base),
        });
    }
    registers.set_u64(registers::RIP, offset);
    Ok(())
}

/// Returns the linear address of the top of the stack, by the stack segment's own size.
#[must_use]
pub fn linear_sp(registers: &RegisterFile) -> Gva {
    let sp = registers.u64(registers::RSP);
    let offset = match CpuMode::of(registers) {
        CpuMode::Long64 => sp,
        _ if SegmentRegister::Ss.attributes(registers).db() => sp & u64::from(u32::MAX),
        _ => sp & u64::from(u16::MAX),
    };
    linear(registers, SegmentRegister::Ss, offset)
}

/// Returns the current privilege level, 0 to 3.
///
/// Both vendors keep it in the DPL of SS while a vCPU is in protected mode; the RPL of CS is not
/// it between the switch to protected mode and the first far jump.
///
/// Source: SDM vol. 3C, "Guest Register State".
#[must_use]
pub fn cpl(registers: &RegisterFile) -> u8 {
    match CpuMode::of(registers) {
        CpuMode::Real => 0,
        CpuMode::Virtual8086 => 3,
        CpuMode::Protected16
        | CpuMode::Protected32
        | CpuMode::Compatibility16
        | CpuMode::Compatibility32
        | CpuMode::Long64 => SegmentRegister::Ss.attributes(registers).dpl(),
    }
}

#[cfg(test)]
mod tests;
