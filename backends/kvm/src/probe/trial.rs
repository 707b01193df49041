//! What comes of trying something out.

use vmm_sys_util::errno;

/// What came of one trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It did what it should.
    Passed,
    /// It did something else: this.
    Failed(String),
    /// It could not be tried, for this reason.
    #[cfg_attr(
        target_arch = "aarch64",
        expect(dead_code, reason = "all that is tried there can be tried")
    )]
    NotTried(&'static str),
}

impl Trial {
    /// Returns whether it did what it should.
    #[must_use]
    pub(crate) fn passed(&self) -> bool {
        *self == Self::Passed
    }
}

/// Turns a refused call into a trial that has failed.
pub(crate) fn or_error(result: Result<Trial, errno::Error>) -> Trial {
    result.unwrap_or_else(|error| Trial::Failed(format!("KVM refused a call: {error}")))
}
