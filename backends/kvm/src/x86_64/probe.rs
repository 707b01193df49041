//! What is tried out on x86-64, and what follows from it.

use std::fs;
use std::io;
use std::path::Path;

use kvm_bindings::{
    KVM_CAP_DEBUGREGS, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_KVMCLOCK_CTRL,
    KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_SREGS2, KVM_CAP_SYNC_REGS,
    KVM_CAP_VCPU_EVENTS, KVM_CAP_XSAVE2, KVM_GUESTDBG_BLOCKIRQ, KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS,
};
use kvm_ioctls::Kvm;
use trapline_arch::x86_64::debug::SLOT_COUNT;
use trapline_engine::{Capabilities, StepMethod};

use super::trials::{TrialGuest, Trials};
use super::vcpu::{VcpuTraits, xsave_layout};
use crate::probe::{
    CHEAP_THREAD_CHANGE, Finding, FindingState, Found, HostKind, changes_threads_finding,
};
use crate::sys::{KickSignal, ScratchMemory};

/// Finds out how KVM runs guests: by the processor's features and the modules that are loaded.
pub(crate) fn kind() -> HostKind {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_pvm = Path::new("/sys/module/kvm_pvm").exists();
    kind_of(&cpuinfo, has_pvm)
}

fn kind_of(cpuinfo: &str, has_pvm: bool) -> HostKind {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
    if has("vmx") {
        HostKind::IntelVmx
    } else if has("svm") {
        HostKind::AmdSvm
    } else if has_pvm {
        HostKind::Interpreted
    } else {
        HostKind::Unknown
    }
}

/// Tries out what KVM can do.
///
/// # Errors
/// The kernel's reason why no guest can be run.
pub(crate) fn examine(kvm: &Kvm, kind: HostKind) -> io::Result<Found> {
    let numbers = Numbers::read(kvm);
    let mut traits = numbers.traits(kvm);
    let signal = KickSignal::install(crate::DEFAULT_KICK_SIGNAL)?;
    let scratch = ScratchMemory::lock().ok_or(io::ErrorKind::OutOfMemory)?;
    let trials = TrialGuest::new(kvm, traits, signal, &scratch)?.run_all();
    let capabilities = learn(&mut traits, &trials, &numbers, kind);
    Ok(Found {
        findings: findings(&numbers, &trials, traits.changes_threads),
        capabilities,
        traits,
    })
}

fn learn(
    traits: &mut VcpuTraits,
    trials: &Trials,
    numbers: &Numbers,
    kind: HostKind,
) -> Capabilities {
    traits.honours_resume_flag = trials.resume_flag.passed();
    traits.guards_debug_registers = trials.single_step.passed() && trials.guard.passed();
    traits.breakpoint_skips = trials.breakpoint_skips;
    traits.blocks_interrupts &= trials.held_interrupt.passed();
    traits.changes_threads = trials
        .thread_change
        .is_some_and(|cost| cost <= CHEAP_THREAD_CHANGE);
    let slots = |works: bool| {
        if works {
            u8::try_from(SLOT_COUNT).unwrap_or(0)
        } else {
            0
        }
    };
    let steps = numbers.guest_debug && trials.single_step.passed();
    Capabilities {
        host: kind.description(),
        step: if steps {
            StepMethod::TrapFlag
        } else {
            StepMethod::None
        },
        holds_interrupts: traits.blocks_interrupts,
        software_breakpoints: trials.breakpoint.passed(),
        hardware_breakpoints: slots(trials.execution.passed()),
        watchpoints: slots(trials.watch.passed()),
        slots_are_shared: true,
        hides_pauses: traits.tells_clock,
    }
}

/// Capability numbers of KVM (KVM API, "`KVM_CHECK_EXTENSION`").
#[derive(Clone, Copy, Debug)]
struct Numbers {
    guest_debug: bool,
    guest_debug_flags: u32,
    sync_registers: u32,
    xsave_len: u32,
    immediate_exit: bool,
    clock_control: bool,
    exception_payload: bool,
    debug_registers: bool,
    vcpu_events: bool,
    sregs2: bool,
}

impl Numbers {
    fn read(kvm: &Kvm) -> Self {
        let number = |capability: u32| {
            u32::try_from(kvm.check_extension_raw(capability.into())).unwrap_or(0)
        };
        Self {
            guest_debug: number(KVM_CAP_SET_GUEST_DEBUG) != 0,
            guest_debug_flags: number(KVM_CAP_SET_GUEST_DEBUG2),
            sync_registers: number(KVM_CAP_SYNC_REGS),
            xsave_len: number(KVM_CAP_XSAVE2),
            immediate_exit: number(KVM_CAP_IMMEDIATE_EXIT) != 0,
            clock_control: number(KVM_CAP_KVMCLOCK_CTRL) != 0,
            exception_payload: number(KVM_CAP_EXCEPTION_PAYLOAD) != 0,
            debug_registers: number(KVM_CAP_DEBUGREGS) != 0,
            vcpu_events: number(KVM_CAP_VCPU_EVENTS) != 0,
            sregs2: number(KVM_CAP_SREGS2) != 0,
        }
    }

    fn shares_registers(&self) -> bool {
        let needed = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
        self.sync_registers & needed == needed
    }

    fn blocks_interrupts(&self) -> bool {
        self.guest_debug_flags & KVM_GUESTDBG_BLOCKIRQ != 0
    }

    fn traits(&self, kvm: &Kvm) -> VcpuTraits {
        VcpuTraits {
            shares_registers: self.shares_registers(),
            blocks_interrupts: self.blocks_interrupts(),
            tells_clock: self.clock_control,
            tells_events: self.vcpu_events,
            xsave: xsave_layout(kvm),
            ..VcpuTraits::default()
        }
    }
}

/// Puts together what capability numbers and trials say.
fn findings(numbers: &Numbers, trials: &Trials, changes_threads: bool) -> Vec<Finding> {
    let mut findings = tried(trials);
    findings.extend(told(numbers));
    findings.push(changes_threads_finding(changes_threads));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_follows_processor_flags_before_modules() {
        let of = |flags: &str, pvm| kind_of(&format!("processor\t: 0\nflags\t\t: {flags}\n"), pvm);
        assert_eq!(of("fpu vmx sse", true), HostKind::IntelVmx);
        assert_eq!(of("fpu svm sse", false), HostKind::AmdSvm);
        assert_eq!(of("fpu svmx", true), HostKind::Interpreted);
        assert_eq!(of("fpu", false), HostKind::Unknown);
    }
}
