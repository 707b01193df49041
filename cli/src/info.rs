//! `trapline info`.

use std::process::ExitCode;

use clap::Args;
use trapline_kvm::Probe;

/// Options of `trapline info`.
#[derive(Args, Debug)]
pub(crate) struct InfoArguments {}

/// Probes this machine and says what it found.
pub(crate) fn main(_: &InfoArguments) -> anyhow::Result<ExitCode> {
    let report = Probe::run();
    print!("{report}");
    Ok(if report.problem().is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
