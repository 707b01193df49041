//! What scenarios must know of a guest's architecture, in one place.

use trapline_test_machine::Architecture;

use crate::Kind;

/// The names that debuggers and kernels use on an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// The program counter.
    pub pc: &'static str,
    /// The stack pointer.
    pub sp: &'static str,
    /// The register of a function's first argument.
    pub argument: &'static str,
    /// The general registers that both debuggers have.
    pub general: &'static [&'static str],
    /// The flags, as GDB and as LLDB call them.
    flags: [&'static str; 2],
    /// What a backtrace from `do_sys_openat2` leads to.
    pub system_call: &'static str,
    /// What the names of functions begin with that a kernel enters on an interrupt.
    pub interrupt_entries: &'static [&'static str],
    /// How many bytes an instruction takes at the least and at the most.
    pub instruction_bytes: (u64, u64),
}

const X86_64: Names = Names {
    pc: "rip",
    sp: "rsp",
    argument: "rdi",
    general: &[
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15", "rip",
    ],
    flags: ["eflags", "rflags"],
    system_call: "do_syscall_64",
    interrupt_entries: &[
        "sysvec",
        "irq_entries",
        "asm_sysvec",
        "asm_common_interrupt",
        "asm_exc_nmi",
    ],
    instruction_bytes: (1, 15),
};

const ARM64: Names = Names {
    pc: "pc",
    sp: "sp",
    argument: "x0",
    general: &[
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
        "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26",
        "x27", "x28", "x29", "x30", "sp", "pc",
    ],
    flags: ["cpsr", "cpsr"],
    system_call: "el0t_64_sync",
    interrupt_entries: &[
        "el1h_64_irq",
        "el1_interrupt",
        "el0t_64_irq",
        "gic_handle_irq",
    ],
    instruction_bytes: (4, 4),
};

impl Names {
    /// The names of an architecture.
    #[must_use]
    pub fn of(architecture: Architecture) -> &'static Self {
        match architecture {
            Architecture::X86_64 => &X86_64,
            Architecture::Arm64 => &ARM64,
        }
    }

    /// The flags, as a debugger calls them.
    #[must_use]
    pub fn flags(&self, kind: Kind) -> &'static str {
        let [gdb, lldb] = self.flags;
        match kind {
            Kind::Gdb => gdb,
            Kind::Lldb => lldb,
        }
    }
}
