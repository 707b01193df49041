//! The gate: every check that `./x test` and continuous integration make.
//!
//! All steps run even when one fails, so that one run tells everything that is wrong. At the end comes a
//! table of the steps, then what could not run on this computer and why, then the number of tests.

mod builds;
mod emulated;
mod files;
mod layers;
mod left_out;
mod licences;
mod rules;
mod runs;
mod source;
mod unsafe_code;

use core::time::Duration;
use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use left_out::LeftOut;
use trapline_test_machine::HostKvm;

use crate::{
    images, programs, setup,
    toolchain::{Target, Toolchain},
};

/// What to run.
pub(crate) struct Scope {
    /// The long versions as well.
    pub(crate) long: bool,
    /// Only tests whose names contain one of these; empty for everything.
    pub(crate) filters: Vec<String>,
}

/// What the steps share.
struct Context<'a> {
    scope: &'a Scope,
    /// Where the release programs are, once they are built.
    programs: Option<PathBuf>,
    /// What could not run here.
    left_out: LeftOut,
    counts: runs::Counts,
}

/// A check: its name and what does it.
type Step = (&'static str, fn(&mut Context<'_>) -> Result<()>);

/// Cheap checks first, so that a slip is told at once.
const STEPS: &[Step] = &[
    ("format", builds::format),
    ("layers", layers::check),
    ("unsafe inventory", unsafe_code::check),
    ("file length", files::length),
    ("names of servers", files::servers),
    ("rules", rules::check),
    ("silent skips", left_out::check),
    ("licences", licences::check),
    ("lints", builds::lints),
    ("bare metal", builds::no_std),
    ("documentation", builds::documentation),
    ("release build, image sizes", release),
    ("unit tests", runs::unit),
    ("KVM tests on emulated hardware", emulated::check),
    ("documentation tests", runs::documentation),
    ("end-to-end tests", runs::end_to_end),
    ("fuzz targets", runs::fuzz),
];

/// The steps of a run with filters.
const FILTERED_STEPS: &[Step] = &[
    ("release build, image sizes", release),
    ("unit tests", runs::unit),
    ("KVM tests on emulated hardware", emulated::check),
    ("end-to-end tests", runs::end_to_end),
];

/// How a step went.
struct Outcome {
    name: &'static str,
    duration: Duration,
    error: Option<anyhow::Error>,
}

/// Runs the gate.
///
/// # Errors
/// When what the checks need cannot be set up.
pub(crate) fn run(scope: &Scope) -> Result<ExitCode> {
    let start = Instant::now();
    println!("==> setup");
    setup::run(&setup::Needs::everything())?;
    println!("    {}", HostKvm::probe().describe());
    let mut context = Context {
        scope,
        programs: None,
        left_out: LeftOut::new()?,
        counts: runs::Counts::default(),
    };
    let steps = if scope.filters.is_empty() {
        STEPS
    } else {
        FILTERED_STEPS
    };
    let outcomes: Vec<_> = steps
        .iter()
        .map(|step| perform(step, &mut context))
        .collect();
    report(&outcomes, &context, start.elapsed())
}

fn perform((name, check): &Step, context: &mut Context<'_>) -> Outcome {
    println!("==> {name}");
    let start = Instant::now();
    let error = check(context).err();
    let duration = start.elapsed();
    match &error {
        None => println!("    PASS {name} ({:.1} s)", duration.as_secs_f64()),
        Some(error) => println!(
            "    FAIL {name} ({:.1} s)\n{error:#}",
            duration.as_secs_f64()
        ),
    }
    Outcome {
        name,
        duration,
        error,
    }
}

fn release(context: &mut Context<'_>) -> Result<()> {
    context.programs = Some(programs::build()?);
    if Toolchain::find(Target::LinuxArm).is_some() {
        programs::build_for_arm()?;
    } else {
        let what = "programs for Linux on arm64, and all tests in emulated Arm machines";
        context
            .left_out
            .step(format!("{what}: no Rust toolchain here builds them"));
    }
    if Toolchain::find(Target::BareArm).is_some() {
        image(&images::el2()?)
    } else {
        let what = "the hypervisor for EL2, and all tests of it on emulated boards";
        context
            .left_out
            .step(format!("{what}: no Rust toolchain here builds it"));
        Ok(())
    }
}

/// Tells an image's size, which has a limit.
fn image(image: &images::Image) -> Result<()> {
    println!(
        "    {}: {} KiB, by {}",
        image.path.display(),
        image.size_bytes.div_ceil(1024),
        image.toolchain.describe()
    );
    ensure!(
        image.size_bytes <= images::EL2_LIMIT_BYTES,
        "the image may have {} KiB at the most",
        images::EL2_LIMIT_BYTES / 1024
    );
    Ok(())
}

fn report(outcomes: &[Outcome], context: &Context<'_>, total: Duration) -> Result<ExitCode> {
    println!("\n==> summary");
    for outcome in outcomes {
        let verdict = if outcome.error.is_some() {
            "FAIL"
        } else {
            "PASS"
        };
        println!(
            "    {verdict}  {:>7.1} s  {}",
            outcome.duration.as_secs_f64(),
            outcome.name
        );
    }
    for outcome in outcomes {
        if let Some(error) = &outcome.error {
            println!("\n{} failed:\n{error:#}", outcome.name);
        }
    }
    let (steps, tests) = context.left_out.lines()?;
    if steps.is_empty() && tests.is_empty() {
        println!("\nEverything ran.");
    } else {
        println!("\nDid not run on this computer, or not as a whole:");
        let lines = steps.iter().chain(&tests);
        lines.for_each(|line| println!("    {line}"));
    }
    println!("\n{:.0} s in all", total.as_secs_f64());
    let mut counts = context.counts;
    counts.skip(tests.len());
    println!("{counts}");
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
