//! What this machine's KVM can do for a debugger, found out once at start (rule R7).
//!
//! Capability numbers say what KVM has code for. They do not say that a breakpoint hits: a KVM may
//! run in a nested guest whose own hypervisor loses debug exceptions, or may not use hardware
//! virtualization at all. So a guest of a few bytes is stepped and stopped for real, in well under
//! 100 ms.

mod problem;
mod report;
mod trial;

use core::time::Duration;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kvm_ioctls::Kvm;
use trapline_engine::Capabilities;

use crate::host::{self, VcpuTraits};

pub use problem::{DeviceProblem, HostKind};
pub(crate) use report::changes_threads_finding;
pub use report::{Finding, FindingState};
pub(crate) use trial::{Trial, or_error};

/// A vCPU must come to another thread at least this fast for a step to run on the caller's.
pub(crate) const CHEAP_THREAD_CHANGE: Duration = Duration::from_micros(200);

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
        let mut report = KvmReport::without_device(path, host::kind());
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
        match host::examine(kvm, self.kind) {
            Ok(found) => {
                self.findings = found.findings;
                self.capabilities = found.capabilities;
                self.traits = found.traits;
            }
            Err(error) => self.problem = Some(DeviceProblem::NoVm(error.to_string())),
        }
    }
}

/// What came of trying KVM out.
pub(crate) struct Found {
    pub(crate) findings: Vec<Finding>,
    pub(crate) capabilities: Capabilities,
    pub(crate) traits: VcpuTraits,
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
