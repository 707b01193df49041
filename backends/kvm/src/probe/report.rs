//! The report in words: what is there, and what is lost where it is not.

use core::fmt;

use super::{KvmReport, Numbers};
use crate::x86_64::{Trial, Trials};

/// Whether a capability is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindingState {
    /// It was tried and works, or KVM says that it has it and there is nothing to try.
    Present,
    /// KVM does not have it, or it could not be tried; the text says why.
    Absent(String),
    /// KVM says that it has it, and it does not work; the text says what happened.
    Broken(String),
}

/// One capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: &'static str,
    /// Whether it is there.
    pub state: FindingState,
    /// What cannot be done without it.
    pub lost: &'static str,
}

impl Finding {
    fn number(subject: &'static str, present: bool, lost: &'static str) -> Self {
        let state = if present {
            FindingState::Present
        } else {
            FindingState::Absent("this kernel's KVM does not have it".to_owned())
        };
        Self {
            subject,
            state,
            lost,
        }
    }

    fn trial(subject: &'static str, trial: &Trial, lost: &'static str) -> Self {
        let state = match trial {
            Trial::Passed => FindingState::Present,
            Trial::NotTried(reason) => FindingState::Absent((*reason).to_owned()),
            Trial::Failed(observed) => FindingState::Broken(observed.clone()),
        };
        Self {
            subject,
            state,
            lost,
        }
    }
}

/// Puts together what capability numbers and trials say.
pub(super) fn findings(numbers: &Numbers, trials: &Trials, changes_threads: bool) -> Vec<Finding> {
    let mut findings = tried(trials);
    findings.extend(told(numbers));
    findings.push(Finding {
        subject: "steps on the caller's thread",
        state: if changes_threads {
            FindingState::Present
        } else {
            let why = "a vCPU takes long to change threads, as on Linux before 6.12";
            FindingState::Absent(why.to_owned())
        },
        lost: "speed: a client's single step waits for another thread",
    });
    findings
}

fn tried(trials: &Trials) -> Vec<Finding> {
    let trial = Finding::trial;
    vec![
        trial("single step", &trials.single_step, "single steps"),
        trial(
            "step over CPUID counts as one",
            &trials.step_over_cpuid,
            STEP_TWO,
        ),
        trial("step over IN counts as one", &trials.step_over_in, STEP_TWO),
        trial(
            "step over OUT counts as one",
            &trials.step_over_out,
            STEP_TWO,
        ),
        trial(
            "step over a write to MMIO counts as one",
            &trials.step_over_mmio,
            STEP_TWO,
        ),
        trial(
            "hardware breakpoint",
            &trials.execution,
            "hardware breakpoints",
        ),
        trial(
            "RFLAGS.RF passes a hardware breakpoint",
            &trials.resume_flag,
            "nothing: a breakpoint is passed by a step instead, which is a little slower",
        ),
        Finding {
            subject: "accesses to debug registers come out (DR7.GD)",
            state: if trials.guard.passed() {
                FindingState::Present
            } else {
                let why = "this KVM does not tell of them while the debugger uses slots";
                FindingState::Absent(why.to_owned())
            },
            lost: "a breakpoint that the guest sets in its own debug registers while the debugger \
                   uses slots takes some milliseconds to come into force",
        },
        trial("watchpoint", &trials.watch, "watchpoints"),
        trial(
            "software breakpoint",
            &trials.breakpoint,
            "software breakpoints",
        ),
        trial(
            "the guest's own int3 is handed back",
            &trials.returned_breakpoint,
            if trials.breakpoint.passed() {
                "guests that use int3 themselves (kprobes, live patching, debuggers) go wrong"
            } else {
                "nothing: the guest's own int3 goes to the guest at once"
            },
        ),
        trial(
            "interrupts are held off in a step (KVM_GUESTDBG_BLOCKIRQ)",
            &trials.held_interrupt,
            "a step may end in an interrupt handler",
        ),
    ]
}

fn told(numbers: &Numbers) -> Vec<Finding> {
    let number = Finding::number;
    vec![
        number(
            "guest debugging (KVM_CAP_SET_GUEST_DEBUG)",
            numbers.guest_debug,
            "breakpoints, watchpoints and single steps; registers and memory can still be read",
        ),
        number(
            "immediate exit (KVM_CAP_IMMEDIATE_EXIT)",
            numbers.immediate_exit,
            "a stop request may take as long as the guest does not leave by itself",
        ),
        number(
            "registers in the shared page (KVM_CAP_SYNC_REGS)",
            numbers.shares_registers(),
            "speed: each stop and each step costs system calls more",
        ),
        number(
            "the guest's clock is told of pauses (KVM_CAP_KVMCLOCK_CTRL)",
            numbers.clock_control,
            "a Linux guest may report soft lock-ups after a stop",
        ),
        number(
            "debug registers (KVM_CAP_DEBUGREGS)",
            numbers.debug_registers,
            "the guest's own debug registers cannot be shown or set",
        ),
        number(
            "pending events (KVM_CAP_VCPU_EVENTS)",
            numbers.vcpu_events,
            "exceptions that wait for delivery cannot be shown",
        ),
        number(
            "extended state of any length (KVM_CAP_XSAVE2)",
            numbers.xsave_len != 0,
            "vector registers beyond the first 4 KiB of state",
        ),
        number(
            "exception payloads (KVM_CAP_EXCEPTION_PAYLOAD)",
            numbers.exception_payload,
            "nothing: it is not used",
        ),
        number(
            "page directory pointers (KVM_CAP_SREGS2)",
            numbers.sregs2,
            "nothing: not used",
        ),
    ]
}

const STEP_TWO: &str = "a step over such an instruction may execute the next one too";

impl fmt::Display for KvmReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(problem) = self.problem() {
            return writeln!(f, "KVM: not usable: {problem}");
        }
        writeln!(
            f,
            "KVM: {} ({})",
            self.kind().description(),
            self.path.display()
        )?;
        let capabilities = self.capabilities();
        writeln!(f, "step method: {}", capabilities.step)?;
        writeln!(
            f,
            "hardware slots: {} for breakpoints, {} for watchpoints, shared",
            capabilities.hardware_breakpoints, capabilities.watchpoints
        )?;
        for finding in self.findings() {
            match &finding.state {
                FindingState::Present => writeln!(f, "  yes     {}", finding.subject)?,
                FindingState::Absent(why) => {
                    writeln!(f, "  no      {}: {why}", finding.subject)?;
                    writeln!(f, "          lost: {}", finding.lost)?;
                }
                FindingState::Broken(observed) => {
                    writeln!(f, "  broken  {}: {observed}", finding.subject)?;
                    writeln!(f, "          lost: {}", finding.lost)?;
                }
            }
        }
        writeln!(f, "probed in {} ms", self.elapsed.as_millis())
    }
}
