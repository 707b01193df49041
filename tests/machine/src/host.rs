//! Whether this computer's KVM will run a stock kernel.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

/// What kind of KVM this computer offers.
///
/// `/dev/kvm` alone says little: a KVM may exist on a processor without VMX and SVM, where it interprets
/// any guest not written for it, some thousand times slower than hardware. A stock kernel does not finish
/// booting there, so it is told apart from a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKvm {
    /// The processor has VMX or SVM and `/dev/kvm` opens.
    Hardware,
    /// `/dev/kvm` opens, but the processor has neither VMX nor SVM. Good for tiny guests only.
    Interpreting,
    /// `/dev/kvm` exists and may not be opened by this user.
    NoPermission,
    /// There is no usable `/dev/kvm`.
    Absent,
}

impl HostKvm {
    /// Probes this computer.
    #[must_use]
    pub fn probe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self::of(Path::new("/dev/kvm"), &cpuinfo)
    }

    fn of(device: &Path, cpuinfo: &str) -> Self {
        match OpenOptions::new().read(true).write(true).open(device) {
            Ok(_) if has_virtualization(cpuinfo) => Self::Hardware,
            Ok(_) => Self::Interpreting,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Self::NoPermission,
            Err(_) => Self::Absent,
        }
    }

    /// Whether a distribution's kernel runs on it at hardware speed.
    #[must_use]
    pub fn runs_stock_kernel(self) -> bool {
        self == Self::Hardware
    }

    /// Whether it runs guests of a few thousand instructions.
    #[must_use]
    pub fn runs_tiny_guest(self) -> bool {
        matches!(self, Self::Hardware | Self::Interpreting)
    }

    /// One sentence for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Hardware => {
                "this computer's KVM uses VMX or SVM and runs a stock kernel at full speed"
            }
            Self::Interpreting => {
                "this computer has /dev/kvm, but no VMX or SVM: it interprets guests, too slowly for a stock kernel"
            }
            Self::NoPermission => {
                "this computer has /dev/kvm, but this user may not open it (join the group that owns it, often kvm)"
            }
            Self::Absent => "this computer has no usable /dev/kvm",
        }
    }
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.strip_prefix("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_matched_as_whole_words() {
        assert!(has_virtualization("flags\t\t: fpu svm sse\n"));
        assert!(has_virtualization("flags : vmx"));
        assert!(!has_virtualization(
            "flags : fpu svm_lock\nvmx flags : ept\n"
        ));
    }

    #[test]
    fn a_missing_device_is_absent() {
        assert_eq!(
            HostKvm::of(Path::new("/nonexistent/kvm"), "flags : vmx"),
            HostKvm::Absent
        );
    }

    #[test]
    fn a_device_without_processor_support_interprets() {
        assert_eq!(
            HostKvm::of(Path::new("/dev/null"), "flags : fpu"),
            HostKvm::Interpreting
        );
        assert_eq!(
            HostKvm::of(Path::new("/dev/null"), "flags : svm"),
            HostKvm::Hardware
        );
    }
}
