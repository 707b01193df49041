//! Which KVM it is, and why there may be none.

use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vmm_sys_util::errno;

/// How KVM runs guests on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKind {
    /// With Intel VMX.
    IntelVmx,
    /// With AMD SVM.
    AmdSvm,
    /// With the module `kvm_pvm`, without hardware virtualization: a guest that is not written for
    /// it is interpreted, at about a million instructions a second.
    Interpreted,
    /// In some other way: neither VMX nor SVM shows in `/proc/cpuinfo`.
    Unknown,
}

impl HostKind {
    /// Looks at the processor's features and the modules that are loaded.
    #[must_use]
    pub fn detect() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let has_pvm = Path::new("/sys/module/kvm_pvm").exists();
        Self::of(&cpuinfo, has_pvm)
    }

    fn of(cpuinfo: &str, has_pvm: bool) -> Self {
        let flags = cpuinfo
            .lines()
            .find(|line| line.starts_with("flags"))
            .unwrap_or_default();
        let has = |flag| flags.split_ascii_whitespace().any(|word| word == flag);
        if has("vmx") {
            Self::IntelVmx
        } else if has("svm") {
            Self::AmdSvm
        } else if has_pvm {
            Self::Interpreted
        } else {
            Self::Unknown
        }
    }

    /// Returns the kind in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::IntelVmx => "Linux KVM on Intel VMX",
            Self::AmdSvm => "Linux KVM on AMD SVM",
            Self::Interpreted => {
                "Linux KVM without hardware virtualization (kvm_pvm, interpreting)"
            }
            Self::Unknown => "Linux KVM of an unknown kind",
        }
    }
}

/// Why there is no KVM to use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceProblem {
    /// There is no such file.
    #[error(
        "{} does not exist: the kernel has no KVM, or virtualization is off in the firmware or \
         hidden by the hypervisor that this machine runs in", .0.display()
    )]
    Missing(PathBuf),
    /// The file may not be opened.
    #[error(
        "no permission to open {}: add this user to the group that owns it (usually kvm), or run \
         as root", .0.display()
    )]
    NoPermission(PathBuf),
    /// The file is something else.
    #[error("{} is not a KVM device", .0.display())]
    NotKvm(PathBuf),
    /// It could not be opened for another reason.
    #[error("{} cannot be opened: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        reason: errno::Error,
    },
    /// No guest can be run; the text is the kernel's reason.
    #[error("KVM cannot run a guest: {0}")]
    NoVm(String),
}

impl DeviceProblem {
    pub(super) fn of_open(path: &Path, reason: errno::Error) -> Self {
        let path = path.to_owned();
        match reason.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR => Self::Missing(path),
            libc::EACCES | libc::EPERM => Self::NoPermission(path),
            libc::EISDIR | libc::ENOTTY => Self::NotKvm(path),
            _ => Self::Unusable { path, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_follows_processor_flags_before_modules() {
        let of =
            |flags: &str, pvm| HostKind::of(&format!("processor\t: 0\nflags\t\t: {flags}\n"), pvm);
        assert_eq!(of("fpu vmx sse", true), HostKind::IntelVmx);
        assert_eq!(of("fpu svm sse", false), HostKind::AmdSvm);
        assert_eq!(of("fpu svmx", true), HostKind::Interpreted);
        assert_eq!(of("fpu", false), HostKind::Unknown);
    }

    #[test]
    fn each_reason_not_to_open_has_its_own_message() {
        let path = Path::new("/dev/kvm");
        let of = |number| DeviceProblem::of_open(path, errno::Error::new(number));
        assert_eq!(of(libc::ENOENT), DeviceProblem::Missing(path.into()));
        assert_eq!(of(libc::EACCES), DeviceProblem::NoPermission(path.into()));
        assert_eq!(of(libc::EISDIR), DeviceProblem::NotKvm(path.into()));
        assert!(
            of(libc::EMFILE)
                .to_string()
                .starts_with("/dev/kvm cannot be opened: ")
        );
    }
}
