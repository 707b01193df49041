//! Exception levels and execution states.

use core::fmt;

use super::{control::Pstate, registers, tags::PointerTags};
use crate::{Gva, PcError, RegisterFile, RegisterId};

/// An exception level: how privileged code is.
///
/// Source: Arm ARM, "Exception levels".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExceptionLevel {
    /// Programs.
    El0 = 0,
    /// Kernels.
    El1 = 1,
    /// Hypervisors.
    El2 = 2,
    /// The secure monitor.
    El3 = 3,
}

impl ExceptionLevel {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0b11 {
            0 => Self::El0,
            1 => Self::El1,
            2 => Self::El2,
            _ => Self::El3,
        }
    }
}

impl fmt::Display for ExceptionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EL{}", *self as u8)
    }
}

/// Which stack pointer code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackPointer {
    /// That of EL0, at any level (`t` for thread).
    El0,
    /// That of the level itself (`h` for handler).
    Own,
}

/// An AArch32 mode.
///
/// Source: Arm ARM, "AArch32 state PE modes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aarch32Mode {
    /// User, at EL0.
    User,
    /// FIQ.
    Fiq,
    /// IRQ.
    Irq,
    /// Supervisor.
    Supervisor,
    /// Monitor, at EL3.
    Monitor,
    /// Abort.
    Abort,
    /// Hyp, at EL2.
    Hyp,
    /// Undefined.
    Undefined,
    /// System.
    System,
}

/// The instruction set of AArch32 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aarch32InstructionSet {
    /// A32, of 32-bit instructions.
    A32,
    /// T32 (Thumb), of 16- and 32-bit instructions.
    T32,
}

/// The mode in which a vCPU executes.
///
/// Source: Arm ARM, "Process state, PSTATE"; "`SPSR_EL1`, Saved Program Status Register (EL1)",
/// fields M.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuMode {
    /// AArch64 state.
    Aarch64 {
        /// The exception level.
        level: ExceptionLevel,
        /// The stack pointer in use.
        stack: StackPointer,
    },
    /// AArch32 state.
    Aarch32 {
        /// The mode.
        mode: Aarch32Mode,
        /// The instruction set.
        instruction_set: Aarch32InstructionSet,
    },
    /// No mode: the bits M hold a value that is not defined.
    Illegal,
}

impl CpuMode {
    /// Returns the mode a vCPU is in. The group `General` must be loaded.
    #[must_use]
    pub fn of(registers: &RegisterFile) -> Self {
        Self::of_pstate(Pstate::read(registers))
    }

    /// Returns the mode that a process state describes.
    #[must_use]
    pub const fn of_pstate(pstate: Pstate) -> Self {
        if pstate.n_rw() {
            return Self::aarch32(pstate);
        }
        let level = ExceptionLevel::from_bits(pstate.m() >> 2);
        match (level, pstate.m() & 0b11) {
            (_, 0b00) => Self::Aarch64 {
                level,
                stack: StackPointer::El0,
            },
            (ExceptionLevel::El1 | ExceptionLevel::El2 | ExceptionLevel::El3, 0b01) => {
                Self::Aarch64 {
                    level,
                    stack: StackPointer::Own,
                }
            }
            _ => Self::Illegal,
        }
    }

    const fn aarch32(pstate: Pstate) -> Self {
        let mode = match pstate.m() {
            0b0000 => Aarch32Mode::User,
            0b0001 => Aarch32Mode::Fiq,
            0b0010 => Aarch32Mode::Irq,
            0b0011 => Aarch32Mode::Supervisor,
            0b0110 => Aarch32Mode::Monitor,
            0b0111 => Aarch32Mode::Abort,
            0b1010 => Aarch32Mode::Hyp,
            0b1011 => Aarch32Mode::Undefined,
            0b1111 => Aarch32Mode::System,
            _ => return Self::Illegal,
        };
        let instruction_set = if pstate.t() {
            Aarch32InstructionSet::T32
        } else {
            Aarch32InstructionSet::A32
        };
        Self::Aarch32 {
            mode,
            instruction_set,
        }
    }

    /// Returns the exception level; `None` in an illegal mode.
    #[must_use]
    pub const fn level(self) -> Option<ExceptionLevel> {
        Some(match self {
            Self::Aarch64 { level, .. } => level,
            Self::Aarch32 { mode, .. } => match mode {
                Aarch32Mode::User => ExceptionLevel::El0,
                Aarch32Mode::Hyp => ExceptionLevel::El2,
                Aarch32Mode::Monitor => ExceptionLevel::El3,
                Aarch32Mode::Fiq
                | Aarch32Mode::Irq
                | Aarch32Mode::Supervisor
                | Aarch32Mode::Abort
                | Aarch32Mode::Undefined
                | Aarch32Mode::System => ExceptionLevel::El1,
            },
            Self::Illegal => return None,
        })
    }

    /// Returns what the address of an instruction is a multiple of, in bytes.
    #[must_use]
    pub const fn instruction_alignment_bytes(self) -> u64 {
        match self {
            Self::Aarch32 {
                instruction_set: Aarch32InstructionSet::T32,
                ..
            } => 2,
            Self::Aarch64 { .. } | Self::Aarch32 { .. } | Self::Illegal => 4,
        }
    }
}

impl fmt::Display for CpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aarch64 { level, stack } => {
                let suffix = match stack {
                    StackPointer::El0 => 't',
                    StackPointer::Own => 'h',
                };
                write!(f, "{level}{suffix}")
            }
            Self::Aarch32 {
                mode,
                instruction_set,
            } => write!(f, "AArch32 {mode:?} mode, {instruction_set:?}"),
            Self::Illegal => f.write_str("illegal mode"),
        }
    }
}

/// Returns the banked register that `sp` shows, among those in the table: `sp_el0` or `sp_el1`.
///
/// It is `None` at EL2 and EL3 with a stack pointer of their own, and in AArch32 state, where the
/// stack pointer is a general-purpose register.
#[must_use]
pub fn banked_sp(registers: &RegisterFile) -> Option<RegisterId> {
    match CpuMode::of(registers) {
        CpuMode::Aarch64 {
            stack: StackPointer::El0,
            ..
        } => Some(registers::SP_EL0),
        CpuMode::Aarch64 {
            level: ExceptionLevel::El1,
            stack: StackPointer::Own,
        } => Some(registers::SP_EL1),
        CpuMode::Aarch64 { .. } | CpuMode::Aarch32 { .. } | CpuMode::Illegal => None,
    }
}

/// Returns the virtual address of the next instruction.
#[must_use]
pub fn pc(registers: &RegisterFile) -> Gva {
    Gva(registers.u64(registers::PC))
}

/// Makes `pc` the virtual address of the next instruction. A tag or signature in it is removed, so
/// that a pointer read from memory will do (rule M2). The groups `General` and `System` must be
/// loaded.
///
/// # Errors
///
/// [`PcError::Misaligned`] if no instruction of the present state can be there; nothing is changed
/// then.
pub fn set_pc(registers: &mut RegisterFile, pc: Gva) -> Result<(), PcError> {
    let mode = CpuMode::of(registers);
    let alignment_bytes = mode.instruction_alignment_bytes();
    if pc.offset_in(alignment_bytes) != 0 {
        return Err(PcError::Misaligned {
            pc,
            alignment_bytes,
        });
    }
    let pc = match mode {
        CpuMode::Aarch32 { .. } => pc,
        CpuMode::Aarch64 { .. } | CpuMode::Illegal => {
            PointerTags::from_registers(registers).strip_code(pc)
        }
    };
    registers.set_u64(registers::PC, pc.0);
    Ok(())
}

/// Returns the virtual address of the top of the stack, without its tag.
#[must_use]
pub fn sp(registers: &RegisterFile) -> Gva {
    let sp = match CpuMode::of(registers) {
        // Source: Arm ARM, "Mapping of the general-purpose registers between the Execution states".
        CpuMode::Aarch32 { .. } => {
            return Gva(registers.u64(registers::X13) & u64::from(u32::MAX));
        }
        CpuMode::Aarch64 { .. } | CpuMode::Illegal => registers.u64(registers::SP),
    };
    PointerTags::from_registers(registers).strip(Gva(sp))
}

#[cfg(test)]
mod tests;
