//! The gate: every check that `./x test` and continuous integration make.
//!
//! All steps run even when one fails, so that one run tells everything that is wrong. At the end comes a
//! table of the steps, then what could not run on this computer and why, then the number of tests.

mod builds;
mod files;
mod layers;
mod licences;
mod rules;
mod runs;
mod source;
mod unsafe_code;

use core::time::Duration;
use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use trapline_test_machine::{Environment, HostKvm};

use crate::{programs, setup};

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
    /// The file in which tests say what they could not do here.
    left_out: PathBuf,
    /// What steps could not do here.
    did_not_run: Vec<String>,
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
    ("licences", licences::check),
    ("lints", builds::lints),
    ("no std in crates/", builds::no_std),
    ("documentation", builds::documentation),
    ("release build", release),
    ("unit tests", runs::unit),
    ("documentation tests", runs::documentation),
    ("end-to-end tests", runs::end_to_end),
    ("fuzz targets", runs::fuzz),
];

/// The steps of a run with filters.
const FILTERED_STEPS: &[Step] = &[
    ("release build", release),
    ("unit tests", runs::unit),
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
    let left_out = Environment::directory().join("did-not-run");
    fs::write(&left_out, "").with_context(|| left_out.display().to_string())?;
    let mut context = Context {
        scope,
        programs: None,
        left_out,
        did_not_run: Vec::new(),
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
    let text = fs::read_to_string(&context.left_out)
        .with_context(|| context.left_out.display().to_string())?;
    let left_out: Vec<_> = context
        .did_not_run
        .iter()
        .map(String::as_str)
        .chain(text.lines())
        .collect();
    if left_out.is_empty() {
        println!("\nEverything ran.");
    } else {
        println!("\nDid not run on this computer:");
        left_out.iter().for_each(|line| println!("    {line}"));
    }
    println!("\n{:.0} s in all", total.as_secs_f64());
    println!("{}", context.counts);
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
