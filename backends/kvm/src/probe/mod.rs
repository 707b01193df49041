//! What this machine's KVM can do for a debugger, found out once at start (rule R7).
//!
//! Capability numbers say what KVM has code for. They do not say that a breakpoint hits: a KVM may
//! run in a nested guest whose own hypervisor loses debug exceptions, or may not use hardware
//! virtualization at all. So a guest of a few bytes is stepped and stopped for real, in well under
//! 100 ms.

mod host;
mod report;

use core::time::Duration;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_DEBUGREGS, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_KVMCLOCK_CTRL,
    KVM_CAP_SET_GUEST_DEBUG, KVM_CAP_SET_GUEST_DEBUG2, KVM_CAP_SREGS2, KVM_CAP_SYNC_REGS,
    KVM_CAP_VCPU_EVENTS, KVM_CAP_XSAVE2, KVM_GUESTDBG_BLOCKIRQ, KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS,
};
use kvm_ioctls::Kvm;
use trapline_arch::x86_64::debug::SLOT_COUNT;
use trapline_engine::{Capabilities, StepMethod};

use crate::sys::{KickSignal, ScratchMemory};
use crate::x86_64::{TrialGuest, Trials, VcpuTraits, xsave_layout};

pub use host::{DeviceProblem, HostKind};
pub use report::{Finding, FindingState};

/// A vCPU must come to another thread at least this fast for a step to run on the caller's.
const CHEAP_THREAD_CHANGE: Duration = Duration::from_micros(200);

/// The only version of the API there is (KVM API, "`KVM_GET_API_VERSION`").
const API_VERSION: i32 = 12;

/// The probe.
#[derive(Debug)]
pub struct Probe;

impl Probe {
    /// Probes `/dev/kvm`.
    #[must_use]
    pub fn run() -> KvmReport {
        Self::run_at(Path::new("/dev/kvm"))
    }

    /// Probes a KVM device at another path.
    #[must_use]
    pub fn run_at(path: &Path) -> KvmReport {
        let start = Instant::now();
        let mut report = KvmReport::without_device(path, HostKind::detect());
        match open(path) {
            Ok(kvm) => report.examine(&kvm),
            Err(problem) => report.problem = Some(problem),
        }
        report.elapsed = start.elapsed();
        report
    }
}

/// What was found out about a machine's KVM.
///
/// `Display` is the text of `trapline info`.
#[derive(Clone, Debug)]
pub struct KvmReport {
    path: PathBuf,
    kind: HostKind,
    problem: Option<DeviceProblem>,
    findings: Vec<Finding>,
    capabilities: Capabilities,
    traits: VcpuTraits,
    elapsed: Duration,
}

impl KvmReport {
    /// Returns why there is no KVM to use, if there is none.
    #[must_use]
    pub fn problem(&self) -> Option<&DeviceProblem> {
        self.problem.as_ref()
    }

    /// Returns what kind of KVM it is.
    #[must_use]
    pub fn kind(&self) -> HostKind {
        self.kind
    }

    /// Returns each capability with what is lost where it is absent.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Returns what the engine is told.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Returns how long the probe took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub(crate) fn traits(&self) -> VcpuTraits {
        self.traits
    }

    fn without_device(path: &Path, kind: HostKind) -> Self {
        Self {
            path: path.to_owned(),
            kind,
            problem: None,
            findings: Vec::new(),
            capabilities: Capabilities {
                host: kind.description(),
                ..Capabilities::NONE
            },
            traits: VcpuTraits::default(),
            elapsed: Duration::ZERO,
        }
    }

    fn examine(&mut self, kvm: &Kvm) {
        let numbers = Numbers::read(kvm);
        self.traits = numbers.traits(kvm);
        match self.try_out(kvm) {
            Ok(trials) => {
                self.learn(&trials, &numbers);
                self.findings = report::findings(&numbers, &trials, self.traits.changes_threads);
            }
            Err(error) => self.problem = Some(DeviceProblem::NoVm(error.to_string())),
        }
    }

    fn try_out(&self, kvm: &Kvm) -> io::Result<Trials> {
        let signal = KickSignal::install(crate::DEFAULT_KICK_SIGNAL)?;
        let scratch = ScratchMemory::lock().ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(TrialGuest::new(kvm, self.traits, signal, &scratch)?.run_all())
    }

    fn learn(&mut self, trials: &Trials, numbers: &Numbers) {
        self.traits.honours_resume_flag = trials.resume_flag.passed();
        self.traits.guards_debug_registers = trials.single_step.passed() && trials.guard.passed();
        self.traits.breakpoint_skips = trials.breakpoint_skips;
        self.traits.blocks_interrupts &= trials.held_interrupt.passed();
        self.traits.changes_threads = trials
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
        self.capabilities = Capabilities {
            host: self.kind.description(),
            step: if steps {
                StepMethod::TrapFlag
            } else {
                StepMethod::None
            },
            holds_interrupts: self.traits.blocks_interrupts,
            software_breakpoints: trials.breakpoint.passed(),
            hardware_breakpoints: slots(trials.execution.passed()),
            watchpoints: slots(trials.watch.passed()),
            slots_are_shared: true,
            hides_pauses: self.traits.tells_clock,
        };
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

fn open(path: &Path) -> Result<Kvm, DeviceProblem> {
    let not_kvm = |path: &Path| DeviceProblem::NotKvm(path.to_owned());
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| not_kvm(path))?;
    let kvm = Kvm::new_with_path(name).map_err(|error| DeviceProblem::of_open(path, error))?;
    if kvm.get_api_version() == API_VERSION {
        Ok(kvm)
    } else {
        Err(not_kvm(path))
    }
}

#[cfg(test)]
mod tests;
