//! Which instructions need care when they are stepped.

use iced_x86::{Instruction, Mnemonic, Register};

/// What kind of care a single step over an instruction needs.
///
/// Source: SDM vol. 3B, "Single-Step Exception Condition", and the pages of the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepClass {
    /// None.
    Plain,
    /// PUSHF stores the flags: a borrowed TF or a hidden IF would reach the guest's stack.
    PushFlags,
    /// POPF loads the flags: TF and IF become the guest's, and the step may end without a trap.
    PopFlags,
    /// IRET loads flags, code segment and stack.
    InterruptReturn,
    /// SYSCALL saves the flags to R11 and masks them with SFMASK.
    Syscall,
    /// SYSRET loads the flags from R11.
    Sysret,
    /// SYSENTER clears IF, and leaves TF set on entry to the kernel.
    Sysenter,
    /// SYSEXIT.
    Sysexit,
    /// INT n pushes the flags and clears TF.
    SoftwareInterrupt {
        /// The vector.
        vector: u8,
    },
    /// INT3 raises #BP.
    Int3,
    /// INTO raises #OF if OF is set.
    Into,
    /// INT1 raises #DB without setting a bit of DR6.
    Icebp,
    /// MOV SS or POP SS: debug traps and interrupts are held off until after the next
    /// instruction, so that a step takes two.
    LoadSs,
    /// STI: interrupts are held off until after the next instruction.
    Sti,
    /// CLI.
    Cli,
    /// HLT: the vCPU waits.
    Halt,
    /// MWAIT and its like: the vCPU may wait.
    Wait,
    /// IN, OUT, INS or OUTS: a hypervisor may complete it outside the guest.
    PortIo,
    /// A string instruction in memory with a repeat prefix: a step is one iteration.
    RepString,
    /// MOV to or from a debug register.
    MoveDebugRegister,
    /// MOV to a control register, LMSW or CLTS: the mode or the address space may change.
    WriteControlRegister,
    /// RDMSR, which may read what a debugger borrowed.
    ReadMsr,
    /// WRMSR, which may change what a debugger borrowed.
    WriteMsr,
    /// CPUID, which a hypervisor completes outside the guest.
    Cpuid,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// XBEGIN: a debug trap inside the transaction aborts it.
    BeginTransaction,
    /// RSM: leaves system-management mode.
    Resume,
}

pub(super) fn classify(instruction: &Instruction) -> StepClass {
    match instruction.mnemonic() {
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => StepClass::PushFlags,
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => StepClass::PopFlags,
        Mnemonic::Iret
        | Mnemonic::Iretd
        | Mnemonic::Iretq
        | Mnemonic::Eretu
        | Mnemonic::Erets
        | Mnemonic::Uiret => StepClass::InterruptReturn,
        Mnemonic::Syscall => StepClass::Syscall,
        Mnemonic::Sysret | Mnemonic::Sysretq => StepClass::Sysret,
        Mnemonic::Sysenter => StepClass::Sysenter,
        Mnemonic::Sysexit | Mnemonic::Sysexitq => StepClass::Sysexit,
        Mnemonic::Int => StepClass::SoftwareInterrupt {
            vector: instruction.immediate8(),
        },
        Mnemonic::Int3 => StepClass::Int3,
        Mnemonic::Into => StepClass::Into,
        Mnemonic::Int1 => StepClass::Icebp,
        Mnemonic::Mov => classify_mov(instruction),
        Mnemonic::Pop if instruction.op0_register() == Register::SS => StepClass::LoadSs,
        Mnemonic::Sti => StepClass::Sti,
        Mnemonic::Cli => StepClass::Cli,
        Mnemonic::Hlt => StepClass::Halt,
        Mnemonic::Mwait | Mnemonic::Mwaitx | Mnemonic::Umwait | Mnemonic::Tpause => StepClass::Wait,
        Mnemonic::Lmsw | Mnemonic::Clts => StepClass::WriteControlRegister,
        Mnemonic::Rdmsr => StepClass::ReadMsr,
        Mnemonic::Wrmsr | Mnemonic::Wrmsrns => StepClass::WriteMsr,
        Mnemonic::Cpuid => StepClass::Cpuid,
        Mnemonic::Vmcall | Mnemonic::Vmmcall => StepClass::Hypercall,
        Mnemonic::Xbegin => StepClass::BeginTransaction,
        Mnemonic::Rsm => StepClass::Resume,
        _ => classify_string(instruction),
    }
}

fn classify_mov(instruction: &Instruction) -> StepClass {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    if to == Register::SS {
        StepClass::LoadSs
    } else if to.is_dr() || from.is_dr() {
        StepClass::MoveDebugRegister
    } else if to.is_cr() {
        StepClass::WriteControlRegister
    } else {
        StepClass::Plain
    }
}

fn classify_string(instruction: &Instruction) -> StepClass {
    match instruction.mnemonic() {
        Mnemonic::In
        | Mnemonic::Out
        | Mnemonic::Insb
        | Mnemonic::Insw
        | Mnemonic::Insd
        | Mnemonic::Outsb
        | Mnemonic::Outsw
        | Mnemonic::Outsd => StepClass::PortIo,
        _ if instruction.is_string_instruction()
            && (instruction.has_rep_prefix() || instruction.has_repne_prefix()) =>
        {
            StepClass::RepString
        }
        _ => StepClass::Plain,
    }
}
