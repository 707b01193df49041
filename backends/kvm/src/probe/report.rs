//! The report in words: what is there, and what is lost where it is not.

use core::fmt;

use super::{KvmReport, Trial};

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
    pub(crate) fn number(subject: &'static str, present: bool, lost: &'static str) -> Self {
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

    pub(crate) fn trial(subject: &'static str, trial: &Trial, lost: &'static str) -> Self {
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

/// Says whether a step can run on the thread that asks for it.
pub(crate) fn changes_threads_finding(changes_threads: bool) -> Finding {
    Finding {
        subject: "steps on the caller's thread",
        state: if changes_threads {
            FindingState::Present
        } else {
            let why = "a vCPU takes long to change threads, as on Linux before 6.12";
            FindingState::Absent(why.to_owned())
        },
        lost: "speed: a client's single step waits for another thread",
    }
}

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
            "hardware slots: {} for breakpoints, {} for watchpoints{}",
            capabilities.hardware_breakpoints,
            capabilities.watchpoints,
            if capabilities.slots_are_shared {
                ", shared"
            } else {
                ""
            }
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
