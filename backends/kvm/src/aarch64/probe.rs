//! What is tried out on AArch64, and what follows from it.

use std::io;

use kvm_bindings::{
    KVM_CAP_ARM_PTRAUTH_ADDRESS, KVM_CAP_ARM_SVE, KVM_CAP_GUEST_DEBUG_HW_BPS,
    KVM_CAP_GUEST_DEBUG_HW_WPS, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_SET_GUEST_DEBUG,
};
use kvm_ioctls::Kvm;
use trapline_engine::{Capabilities, StepMethod};

use super::trials::{TrialGuest, Trials};
use super::vcpu::VcpuTraits;
use crate::probe::{
    CHEAP_THREAD_CHANGE, Finding, FindingState, Found, HostKind, changes_threads_finding,
};
use crate::sys::{KickSignal, ScratchMemory};

/// Finds out how KVM runs guests: on Arm there is one way.
pub(crate) const fn kind() -> HostKind {
    HostKind::ArmEl2
}

/// Tries out what KVM can do.
///
/// # Errors
/// The kernel's reason why no guest can be run.
pub(crate) fn examine(kvm: &Kvm, kind: HostKind) -> io::Result<Found> {
    let numbers = Numbers::read(kvm);
    let signal = KickSignal::install(crate::DEFAULT_KICK_SIGNAL)?;
    let scratch = ScratchMemory::lock().ok_or(io::ErrorKind::OutOfMemory)?;
    let slots = Capabilities {
        hardware_breakpoints: numbers.breakpoints,
        watchpoints: numbers.watchpoints,
        ..Capabilities::NONE
    };
    let trials = TrialGuest::new(kvm, slots, signal, &scratch)?.run_all();
    let changes_threads = trials
        .thread_change
        .is_some_and(|cost| cost <= CHEAP_THREAD_CHANGE);
    let steps = numbers.guest_debug && trials.single_step.passed();
    let working = |trial_passed: bool, count: u8| if trial_passed { count } else { 0 };
    let capabilities = Capabilities {
        host: kind.description(),
        step: if steps {
            StepMethod::SoftwareStep
        } else {
            StepMethod::None
        },
        holds_interrupts: steps && trials.held_mask.passed(),
        software_breakpoints: trials.breakpoint.passed(),
        hardware_breakpoints: working(trials.execution.passed(), numbers.breakpoints),
        watchpoints: working(trials.watch.passed(), numbers.watchpoints),
        slots_are_shared: false,
        hides_pauses: true,
    };
    Ok(Found {
        findings: findings(&numbers, &trials, changes_threads),
        capabilities,
        traits: VcpuTraits {
            changes_threads,
            ..VcpuTraits::default()
        },
    })
}

/// Capability numbers of KVM (KVM API, "`KVM_CHECK_EXTENSION`").
#[derive(Clone, Copy, Debug)]
struct Numbers {
    guest_debug: bool,
    breakpoints: u8,
    watchpoints: u8,
    immediate_exit: bool,
    sve: bool,
    pointer_authentication: bool,
}

impl Numbers {
    fn read(kvm: &Kvm) -> Self {
        let number =
            |capability: u32| u8::try_from(kvm.check_extension_raw(capability.into())).unwrap_or(0);
        Self {
            guest_debug: number(KVM_CAP_SET_GUEST_DEBUG) != 0,
            breakpoints: number(KVM_CAP_GUEST_DEBUG_HW_BPS),
            watchpoints: number(KVM_CAP_GUEST_DEBUG_HW_WPS),
            immediate_exit: number(KVM_CAP_IMMEDIATE_EXIT) != 0,
            sve: number(KVM_CAP_ARM_SVE) != 0,
            pointer_authentication: number(KVM_CAP_ARM_PTRAUTH_ADDRESS) != 0,
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
            "step over an emulated instruction counts as one",
            &trials.step_over_emulated,
            STEP_TWO,
        ),
        trial(
            "step over a read from MMIO counts as one",
            &trials.step_over_load,
            STEP_TWO,
        ),
        trial(
            "step over a write to MMIO counts as one",
            &trials.step_over_store,
            STEP_TWO,
        ),
        trial(
            "hardware breakpoint",
            &trials.execution,
            "hardware breakpoints",
        ),
        trial("watchpoint", &trials.watch, "watchpoints"),
        trial(
            "software breakpoint",
            &trials.breakpoint,
            "software breakpoints",
        ),
        Finding {
            subject: "accesses to debug registers come out",
            state: FindingState::Absent(
                "KVM does not tell of them while the debugger uses slots".to_owned(),
            ),
            lost: "a breakpoint that the guest sets in its own debug registers while the debugger \
                   uses slots takes some milliseconds to come into force",
        },
        trial(
            "interrupts are held off in a step (PSTATE.I, hidden)",
            &trials.held_mask,
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
            "scalable vectors (KVM_CAP_ARM_SVE)",
            numbers.sve,
            "guests have no SVE",
        ),
        number(
            "pointer authentication (KVM_CAP_ARM_PTRAUTH_ADDRESS)",
            numbers.pointer_authentication,
            "guests have no pointer authentication",
        ),
    ]
}

const STEP_TWO: &str = "a step over such an instruction may execute the next one too";
