//! The guest's architecture as a value.

use core::fmt;

use thiserror::Error;

use crate::{Gva, LayoutKind, Register, RegisterFile, RegisterGroup, RegisterId, aarch64, x86_64};

/// A guest's instruction set architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86 with the 64-bit extension, in whatever mode it runs.
    X86_64,
    /// The 64-bit Arm architecture, with what programs at EL0 may run of AArch32.
    Aarch64,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Aarch64 => "AArch64",
        })
    }
}

/// When a watchpoint stops a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchTiming {
    /// Before the access: the instruction has yet to execute.
    BeforeAccess,
    /// After the access: the program counter is past the instruction.
    AfterAccess,
}

/// Why a virtual address cannot become the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PcError {
    /// The code segment does not reach the address.
    #[error("{pc} is outside the code segment at {base}")]
    OutsideCodeSegment {
        /// The wanted program counter.
        pc: Gva,
        /// The linear address of the code segment's first byte.
        base: Gva,
    },
    /// No instruction can be there.
    #[error("{pc} is no multiple of {alignment_bytes}, as the address of an instruction is")]
    Misaligned {
        /// The wanted program counter.
        pc: Gva,
        /// What it should be a multiple of.
        alignment_bytes: u64,
    },
}

impl Architecture {
    /// Returns the table of the architecture's registers.
    #[must_use]
    pub const fn registers(self) -> &'static [Register] {
        match self {
            Self::X86_64 => x86_64::registers::TABLE,
            Self::Aarch64 => aarch64::registers::TABLE,
        }
    }

    /// Makes a register file of zeros.
    #[must_use]
    pub fn new_register_file(self) -> RegisterFile {
        RegisterFile::new(self.registers())
    }

    /// Returns the layout a client gets that asks for none.
    #[must_use]
    pub const fn native_layout(self) -> LayoutKind {
        match self {
            Self::X86_64 => LayoutKind::X86_64,
            Self::Aarch64 => LayoutKind::Aarch64,
        }
    }

    /// Returns the bytes of the instruction that stops a vCPU.
    #[must_use]
    pub const fn software_breakpoint(self) -> &'static [u8] {
        match self {
            // INT3, in its one-byte form.
            Self::X86_64 => &[0xcc],
            Self::Aarch64 => &aarch64::instruction::BRK,
        }
    }

    /// Returns what the address of a breakpoint is a multiple of: the shortest instruction's length
    /// where instructions are aligned, else 1.
    #[must_use]
    pub const fn breakpoint_alignment_bytes(self) -> u64 {
        match self {
            Self::X86_64 => 1,
            Self::Aarch64 => aarch64::instruction::LEN_BYTES as u64,
        }
    }

    /// Returns how far past a software breakpoint the program counter is when it has stopped a
    /// vCPU, in bytes.
    ///
    /// Source: SDM vol. 3A, "Exception and Interrupt Reference", #BP is a trap. A hypervisor that
    /// intercepts the exception before delivery may find the counter still on the instruction.
    /// Arm ARM, "Breakpoint Instruction exceptions": the preferred return address is BRK itself.
    #[must_use]
    pub const fn breakpoint_trap_offset_bytes(self) -> u64 {
        match self {
            Self::X86_64 => 1,
            Self::Aarch64 => 0,
        }
    }

    /// Returns whether a client may give `kind` with a software or hardware breakpoint (`Z0`,
    /// `Z1`).
    ///
    /// The kind is the length of the instruction planted: on x86 1, on AArch64 4. Clients that know no
    /// kinds send 0. The kinds of AArch32 code (2 and 3 for T32) are not accepted.
    ///
    /// Source: GDB manual, "Packets", `z type,addr,kind`; "ARM Breakpoint Kinds".
    #[must_use]
    pub const fn accepts_breakpoint_kind(self, kind: u64) -> bool {
        match self {
            Self::X86_64 => matches!(kind, 0 | 1),
            Self::Aarch64 => matches!(kind, 0 | 4),
        }
    }

    /// Returns how many addresses the debug registers hold at most, breakpoints and watchpoints
    /// together. A processor of AArch64 may have fewer.
    #[must_use]
    pub const fn hardware_slot_count(self) -> usize {
        match self {
            Self::X86_64 => x86_64::debug::SLOT_COUNT,
            Self::Aarch64 => aarch64::debug::SLOT_COUNT,
        }
    }

    /// Returns when a watchpoint stops a vCPU.
    #[must_use]
    pub const fn watch_timing(self) -> WatchTiming {
        match self {
            Self::X86_64 => WatchTiming::AfterAccess,
            Self::Aarch64 => WatchTiming::BeforeAccess,
        }
    }

    /// Returns the longest instruction in bytes.
    #[must_use]
    pub const fn max_instruction_len_bytes(self) -> usize {
        match self {
            Self::X86_64 => x86_64::instruction::MAX_LEN_BYTES,
            Self::Aarch64 => aarch64::instruction::LEN_BYTES,
        }
    }

    /// Returns the register that holds the program counter.
    #[must_use]
    pub const fn pc_register(self) -> RegisterId {
        match self {
            Self::X86_64 => x86_64::registers::RIP,
            Self::Aarch64 => aarch64::registers::PC,
        }
    }

    /// Returns the virtual address of the next instruction.
    #[must_use]
    pub fn pc(self, registers: &RegisterFile) -> Gva {
        match self {
            Self::X86_64 => x86_64::mode::linear_pc(registers),
            Self::Aarch64 => aarch64::mode::pc(registers),
        }
    }

    /// Makes `pc` the virtual address of the next instruction.
    ///
    /// # Errors
    ///
    /// [`PcError`] if the vCPU's mode cannot reach the address; nothing is changed then.
    pub fn set_pc(self, registers: &mut RegisterFile, pc: Gva) -> Result<(), PcError> {
        match self {
            Self::X86_64 => x86_64::mode::set_linear_pc(registers, pc),
            Self::Aarch64 => aarch64::mode::set_pc(registers, pc),
        }
    }

    /// Returns the virtual address of the top of the stack.
    #[must_use]
    pub fn sp(self, registers: &RegisterFile) -> Gva {
        match self {
            Self::X86_64 => x86_64::mode::linear_sp(registers),
            Self::Aarch64 => aarch64::mode::sp(registers),
        }
    }

    /// Computes the registers that are views of others, after a hypervisor has loaded `group` or a
    /// debugger has changed it: on AArch64 the masks of pointer authentication and `daif`.
    pub fn complete(self, registers: &mut RegisterFile, group: RegisterGroup) {
        match self {
            Self::X86_64 => (),
            Self::Aarch64 => aarch64::registers::complete(registers, group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: Architecture = Architecture::X86_64;

    #[test]
    fn a_breakpoint_is_one_byte_of_int3() {
        assert_eq!(X86.software_breakpoint(), [0xcc]);
        assert_eq!(X86.breakpoint_trap_offset_bytes(), 1);
        assert!(X86.accepts_breakpoint_kind(1));
        assert!(X86.accepts_breakpoint_kind(0));
        assert!(!X86.accepts_breakpoint_kind(2));
    }

    #[test]
    fn a_breakpoint_of_aarch64_is_brk_0() {
        let arm = Architecture::Aarch64;
        assert_eq!(arm.software_breakpoint(), 0xd420_0000_u32.to_le_bytes());
        assert_eq!(arm.breakpoint_trap_offset_bytes(), 0);
        assert!(arm.accepts_breakpoint_kind(4));
        assert!(arm.accepts_breakpoint_kind(0));
        assert!(!arm.accepts_breakpoint_kind(2));
        assert_eq!(arm.watch_timing(), WatchTiming::BeforeAccess);
        assert_eq!(arm.hardware_slot_count(), 32);
    }

    #[test]
    fn a_new_vcpu_is_in_real_mode() {
        let mut registers = X86.new_register_file();
        registers.set_u64(x86_64::registers::CS_BASE, 0xffff_0000);
        registers.set_u64(x86_64::registers::RIP, 0xfff0);
        registers.set_u64(x86_64::registers::RSP, 0x1_0008);
        assert_eq!(X86.pc(&registers), Gva(0xffff_fff0));
        assert_eq!(X86.sp(&registers), Gva(8));
        assert_eq!(X86.set_pc(&mut registers, Gva(0xffff_0000)), Ok(()));
        assert_eq!(X86.pc(&registers), Gva(0xffff_0000));
        assert!(X86.set_pc(&mut registers, Gva(0)).is_err());
    }
}
