//! Which exceptions an instruction may raise.

use bitflags::bitflags;
use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, Register};

use super::{Decoded, StepClass};
use crate::RegisterFile;
use crate::x86_64::control::{Cr0, Cr4, Rflags};
use crate::x86_64::mode::{self, CpuMode};

/// The size of the lines that a locked access should not cross.
const CACHE_LINE_BYTES: u64 = 64;

bitflags! {
    /// Exceptions that an instruction can raise, each bit n for vector n.
    ///
    /// Source: SDM vol. 3A, "Exception and Interrupt Vectors".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Faults: u32 {
        /// #DE, divide error.
        const DE = 1 << 0;
        /// #OF, overflow.
        const OF = 1 << 4;
        /// #BR, BOUND range exceeded.
        const BR = 1 << 5;
        /// #UD, invalid opcode.
        const UD = 1 << 6;
        /// #NM, device not available.
        const NM = 1 << 7;
        /// #TS, invalid TSS.
        const TS = 1 << 10;
        /// #NP, segment not present.
        const NP = 1 << 11;
        /// #SS, stack-segment fault.
        const SS = 1 << 12;
        /// #GP, general protection.
        const GP = 1 << 13;
        /// #PF, page fault.
        const PF = 1 << 14;
        /// #MF, x87 floating-point error.
        const MF = 1 << 16;
        /// #AC, alignment check.
        const AC = 1 << 17;
        /// #XM, SIMD floating-point exception.
        const XM = 1 << 19;
        /// #CP, control protection.
        const CP = 1 << 21;

        /// What an access to memory can raise.
        const MEMORY = Self::PF.bits() | Self::GP.bits() | Self::SS.bits();
        /// What a far transfer, or the load of a segment register, can raise.
        const SEGMENT = Self::MEMORY.bits() | Self::NP.bits() | Self::TS.bits();
    }
}

impl Faults {
    /// The likeliest first.
    const BY_LIKELIHOOD: [Self; 14] = [
        Self::PF,
        Self::GP,
        Self::UD,
        Self::NM,
        Self::DE,
        Self::SS,
        Self::XM,
        Self::MF,
        Self::NP,
        Self::AC,
        Self::TS,
        Self::BR,
        Self::OF,
        Self::CP,
    ];

    /// Those for which the processor pushes an error code.
    const WITH_ERROR_CODE: Self = Self::SEGMENT.union(Self::AC).union(Self::CP);

    /// Returns the vectors, the likeliest first, and whether the processor pushes an error code.
    pub fn vectors(self) -> impl Iterator<Item = (u8, bool)> {
        let contained = Self::BY_LIKELIHOOD.into_iter();
        contained
            .filter(move |fault| self.contains(*fault))
            .map(|fault| {
                let vector = u8::try_from(fault.bits().trailing_zeros()).unwrap_or(0);
                (vector, Self::WITH_ERROR_CODE.contains(fault))
            })
    }
}

impl Decoded {
    /// Returns the exceptions that the instruction may raise when it executes with `registers`,
    /// of which the groups `General` and `System` must be loaded. In 64-bit code these do not count:
    /// what the fetch of the instruction raises, what its [operands](Self::memory_operands) raise for
    /// being where they are, and what a place to jump to raises that is not canonical. [`Faults::PF`]
    /// is in the answer if the instruction accesses other memory than those.
    ///
    /// Of an instruction that is not known to be harmless it is assumed that it may raise more than
    /// it can. What a processor raises between instructions is left out: #DB, NMI, machine checks.
    ///
    /// Source: SDM vol. 2, the exceptions of each instruction in 64-bit mode.
    #[must_use]
    pub fn faults(&self, registers: &RegisterFile) -> Faults {
        let instruction = &self.instruction;
        let (cr0, cr4) = (Cr0::read(registers), Cr4::read(registers));
        let mut faults = self.own_faults(cr0, cr4);
        // Any instruction can be one that an indirect branch must not lead to.
        faults.set(Faults::CP, cr4.cet());
        let checks_alignment =
            cr0.am() && Rflags::read(registers).ac() && mode::cpl(registers) == 3;
        let is_locked = instruction.has_lock_prefix() || is_exchange(instruction);
        faults.set(
            Faults::AC,
            checks_alignment || is_locked && self.crosses_lines(registers),
        );
        if CpuMode::of(registers) != CpuMode::Long64 {
            // Limits and rights of segments are not looked at.
            faults |= Faults::MEMORY;
        }
        faults
    }

    fn own_faults(&self, cr0: Cr0, cr4: Cr4) -> Faults {
        let instruction = &self.instruction;
        let mnemonic = instruction.mnemonic();
        if self.is_plain() && is_known(instruction) {
            return Faults::empty();
        }
        if self.is_plain() && matches!(mnemonic, Mnemonic::Div | Mnemonic::Idiv) {
            return Faults::DE;
        }
        if is_segment_load(instruction) || is_far(instruction) {
            return Faults::SEGMENT | Faults::UD;
        }
        match self.class() {
            StepClass::SoftwareInterrupt { .. }
            | StepClass::Int3
            | StepClass::Into
            | StepClass::Icebp
            | StepClass::InterruptReturn
            | StepClass::LoadSs => return Faults::SEGMENT,
            StepClass::PortIo => {}
            _ if instruction.is_string_instruction() && is_integer(instruction) => {
                return Faults::empty();
            }
            _ => {}
        }
        match mnemonic {
            Mnemonic::Aam => Faults::DE,
            Mnemonic::Bound
            | Mnemonic::Bndcl
            | Mnemonic::Bndcu
            | Mnemonic::Bndcn
            | Mnemonic::Bndldx
            | Mnemonic::Bndstx => Faults::BR | Faults::UD | Faults::MEMORY,
            _ => float_faults(instruction, cr0, cr4).unwrap_or(Faults::UD | Faults::MEMORY),
        }
    }

    /// Returns whether all operands are general registers, constants, plain memory or a near place.
    fn is_plain(&self) -> bool {
        let instruction = &self.instruction;
        let is_plain =
            (0..instruction.op_count()).all(|operand| match instruction.op_kind(operand) {
                OpKind::Register => instruction.op_register(operand).is_gpr(),
                OpKind::Memory => can_have_memory(instruction.mnemonic()),
                OpKind::NearBranch64
                | OpKind::Immediate8
                | OpKind::Immediate16
                | OpKind::Immediate32
                | OpKind::Immediate64
                | OpKind::Immediate8to16
                | OpKind::Immediate8to32
                | OpKind::Immediate8to64
                | OpKind::Immediate32to64 => true,
                _ => false,
            });
        is_plain && is_integer(instruction)
    }

    /// Returns whether an operand lies on two cache lines. If it is locked too, the processor may
    /// have been told to raise #AC.
    fn crosses_lines(&self, registers: &RegisterFile) -> bool {
        let operands = self.memory_operands(registers);
        operands.iter().any(|operand| {
            let offset = operand.address.offset_in(CACHE_LINE_BYTES);
            offset.saturating_add(operand.len_bytes) > CACHE_LINE_BYTES
        })
    }

    /// Returns the offset that a direct near jump or call leads to if it is taken.
    #[must_use]
    pub fn branch_target(&self) -> Option<u64> {
        let is_direct = self.instruction.op0_kind() == OpKind::NearBranch64;
        is_direct.then(|| self.instruction.near_branch_target())
    }

    /// Returns whether the instruction is a near jump or call, conditional or not.
    #[must_use]
    pub fn is_near_branch(&self) -> bool {
        let instruction = &self.instruction;
        self.branch_target().is_some()
            || instruction.is_call_near_indirect()
            || instruction.is_jmp_near_indirect()
    }

    /// Returns whether the instruction is a near return, which leads to where the stack says.
    #[must_use]
    pub fn is_near_return(&self) -> bool {
        self.instruction.mnemonic() == Mnemonic::Ret
    }
}

/// Returns what a floating-point or vector instruction raises, or `None` for another.
fn float_faults(instruction: &Instruction, cr0: Cr0, cr4: Cr4) -> Option<Faults> {
    let features = instruction.cpuid_features();
    let uses = |kind: fn(Register) -> bool| {
        (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && kind(instruction.op_register(operand))
        })
    };
    let mut faults = Faults::empty();
    if instruction.mnemonic() == Mnemonic::Wait {
        faults |= Faults::MF;
        faults.set(Faults::NM, cr0.mp() && cr0.ts());
    } else if features.iter().any(|feature| is_x87(*feature)) || uses(Register::is_mm) {
        faults |= Faults::MF | Faults::UD;
        faults.set(Faults::NM, cr0.em() || cr0.ts());
    } else if uses(Register::is_vector_register) {
        faults |= Faults::UD;
        // 512-bit registers can be switched off on their own, by IA32_XFD.
        let has_own_switch = uses(Register::is_zmm);
        faults.set(Faults::NM, cr0.ts() || has_own_switch);
        faults.set(Faults::XM, cr4.osxmmexcpt());
    } else {
        return None;
    }
    // An operand may have to be aligned, and elements of a vector may be anywhere.
    let touches_memory = (0..instruction.op_count()).any(|operand| {
        !matches!(
            instruction.op_kind(operand),
            OpKind::Register | OpKind::Immediate8 | OpKind::Immediate8_2nd
        )
    });
    if touches_memory {
        faults |= Faults::MEMORY;
    }
    Some(faults)
}

const fn is_x87(feature: CpuidFeature) -> bool {
    matches!(
        feature,
        CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387
    )
}

/// Returns whether every 64-bit processor has the instruction, without any register to switch on.
fn is_integer(instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            CpuidFeature::INTEL8086
                | CpuidFeature::INTEL186
                | CpuidFeature::INTEL286
                | CpuidFeature::INTEL386
                | CpuidFeature::INTEL486
                | CpuidFeature::X64
                | CpuidFeature::CMOV
                | CpuidFeature::MULTIBYTENOP
                | CpuidFeature::PAUSE
                | CpuidFeature::CET_IBT
        )
    })
}

/// Where POP puts its value depends on the stack pointer it leaves.
fn can_have_memory(mnemonic: Mnemonic) -> bool {
    mnemonic != Mnemonic::Pop
}

/// An exchange with memory locks, prefix or not.
fn is_exchange(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Xchg
}

fn is_segment_load(instruction: &Instruction) -> bool {
    let loads = matches!(
        instruction.mnemonic(),
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss
    );
    let moves = matches!(instruction.mnemonic(), Mnemonic::Mov | Mnemonic::Pop);
    loads || moves && instruction.op0_register().is_segment_register()
}

fn is_far(instruction: &Instruction) -> bool {
    let loads = matches!(
        instruction.mnemonic(),
        Mnemonic::Retf | Mnemonic::Ltr | Mnemonic::Lldt
    );
    loads
        || instruction.is_call_far()
        || instruction.is_call_far_indirect()
        || instruction.is_jmp_far()
        || instruction.is_jmp_far_indirect()
}

fn is_known(instruction: &Instruction) -> bool {
    let mnemonic = instruction.mnemonic();
    match mnemonic {
        Mnemonic::Call => instruction.is_call_near() || instruction.is_call_near_indirect(),
        Mnemonic::Jmp => instruction.is_jmp_short_or_near() || instruction.is_jmp_near_indirect(),
        _ if instruction.is_jcc_short_or_near() => true,
        _ => is_arithmetic(mnemonic) || is_move(mnemonic),
    }
}

const fn is_arithmetic(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Adc
            | Mnemonic::Add
            | Mnemonic::And
            | Mnemonic::Bsf
            | Mnemonic::Bsr
            | Mnemonic::Bswap
            | Mnemonic::Cmpxchg
            | Mnemonic::Cmp
            | Mnemonic::Dec
            | Mnemonic::Imul
            | Mnemonic::Inc
            | Mnemonic::Mul
            | Mnemonic::Neg
            | Mnemonic::Not
            | Mnemonic::Or
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Sar
            | Mnemonic::Sbb
            | Mnemonic::Shl
            | Mnemonic::Shr
            | Mnemonic::Sub
            | Mnemonic::Test
            | Mnemonic::Xadd
            | Mnemonic::Xor
    )
}

const fn is_move(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cbw
            | Mnemonic::Clc
            | Mnemonic::Cld
            | Mnemonic::Cdq
            | Mnemonic::Cdqe
            | Mnemonic::Cqo
            | Mnemonic::Cwd
            | Mnemonic::Cwde
            | Mnemonic::Endbr64
            | Mnemonic::Lea
            | Mnemonic::Leave
            | Mnemonic::Mov
            | Mnemonic::Movsx
            | Mnemonic::Movsxd
            | Mnemonic::Movzx
            | Mnemonic::Nop
            | Mnemonic::Pause
            | Mnemonic::Pop
            | Mnemonic::Popfq
            | Mnemonic::Push
            | Mnemonic::Pushfq
            | Mnemonic::Ret
            | Mnemonic::Stc
            | Mnemonic::Std
            | Mnemonic::Xchg
    )
}
