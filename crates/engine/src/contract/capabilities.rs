//! What a hypervisor can do for a debugger, probed once at start (rule R7).

use core::fmt;

/// How a vCPU is made to execute exactly one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepMethod {
    /// It cannot: a step request is refused with a message.
    None,
    /// Intel's monitor trap flag: a VM exit after one instruction, invisible to the guest
    /// (SDM vol. 3C, "Monitor Trap Flag").
    MonitorTrap,
    /// RFLAGS.TF is set behind the guest's back (AMD SVM, KVM on x86). The engine hides it from
    /// instructions that store or load the flags.
    TrapFlag,
    /// Arm's software step exception (`MDSCR_EL1.SS`).
    SoftwareStep,
}

impl fmt::Display for StepMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::MonitorTrap => "monitor trap flag",
            Self::TrapFlag => "trap flag",
            Self::SoftwareStep => "software step",
        })
    }
}

/// What a hypervisor can do for a debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The host and the kind of virtualization, in a few words for `monitor info`, such as
    /// `"Linux KVM on AMD SVM"`.
    pub host: &'static str,
    /// How to step.
    pub step: StepMethod,
    /// Whether interrupts can be held off for the length of a step (rule R6).
    pub holds_interrupts: bool,
    /// Whether a breakpoint instruction in guest memory comes back as
    /// [`VmExit::BreakpointInstruction`](super::VmExit::BreakpointInstruction).
    pub software_breakpoints: bool,
    /// Number of hardware slots that can hold an execution breakpoint.
    pub hardware_breakpoints: u8,
    /// Number of hardware slots that can hold a watchpoint.
    pub watchpoints: u8,
    /// Whether the two numbers above count the same slots, as on x86.
    pub slots_are_shared: bool,
    /// Whether the guest's clock can be told of a pause, so that its watchdogs stay quiet.
    pub hides_pauses: bool,
}

impl Capabilities {
    /// A hypervisor that can show registers and memory and nothing else.
    pub const NONE: Self = Self {
        host: "none",
        step: StepMethod::None,
        holds_interrupts: false,
        software_breakpoints: false,
        hardware_breakpoints: 0,
        watchpoints: 0,
        slots_are_shared: true,
        hides_pauses: false,
    };
}
