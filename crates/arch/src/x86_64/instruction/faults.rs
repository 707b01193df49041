//! Instructions that fault only for the memory they touch.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Decoded;

impl Decoded {
    /// Returns whether the instruction, if it is 64-bit code, raises no exception but for memory:
    /// its own bytes, its [operands](Self::memory_operands), and a place to jump to that is not
    /// canonical. The commonest of such instructions are known; of any other this is false.
    ///
    /// Checks of alignment, of shadow stacks and of locks across cache lines are for the caller to
    /// rule out: the first two by RFLAGS.AC and CR4.CET; instructions that lock are not among these.
    ///
    /// Source: SDM vol. 2, the exceptions of each instruction in 64-bit mode.
    #[must_use]
    pub fn faults_by_memory_alone(&self) -> bool {
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
        is_plain && !instruction.has_lock_prefix() && is_known(instruction)
    }

    /// Returns the offset that a direct near jump or call leads to if it is taken.
    #[must_use]
    pub fn branch_target(&self) -> Option<u64> {
        let is_direct = self.instruction.op0_kind() == OpKind::NearBranch64;
        is_direct.then(|| self.instruction.near_branch_target())
    }

    /// Returns whether the instruction is a near return, which leads to where the stack says.
    #[must_use]
    pub fn is_near_return(&self) -> bool {
        self.instruction.mnemonic() == Mnemonic::Ret
    }
}

/// An exchange with memory locks; where POP puts its value depends on the stack pointer it leaves.
fn can_have_memory(mnemonic: Mnemonic) -> bool {
    !matches!(
        mnemonic,
        Mnemonic::Xchg | Mnemonic::Pop | Mnemonic::Call | Mnemonic::Jmp
    )
}

fn is_known(instruction: &Instruction) -> bool {
    let mnemonic = instruction.mnemonic();
    match mnemonic {
        Mnemonic::Call => instruction.is_call_near(),
        Mnemonic::Jmp => instruction.is_jmp_short_or_near(),
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
            | Mnemonic::Bswap
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
            | Mnemonic::Xor
    )
}

const fn is_move(mnemonic: Mnemonic) -> bool {
    matches!(
        mnemonic,
        Mnemonic::Cbw
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
            | Mnemonic::Push
            | Mnemonic::Ret
            | Mnemonic::Xchg
    )
}
