//! Which KVM it is, and why there may be none.

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
    /// At EL2 of an Arm processor.
    ArmEl2,
    /// In some other way: neither VMX nor SVM shows in `/proc/cpuinfo`.
    Unknown,
}

impl HostKind {
    /// Returns the kind in a few words.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::IntelVmx => "Linux KVM on Intel VMX",
            Self::AmdSvm => "Linux KVM on AMD SVM",
            Self::Interpreted => {
                "Linux KVM without hardware virtualization (kvm_pvm, interpreting)"
            }
            Self::ArmEl2 => "Linux KVM on AArch64",
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
