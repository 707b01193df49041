//! Makes tests of scenarios.
//!
//! What this computer's KVM can run is a test for each scenario and debugger. What it cannot run
//! takes an emulated machine, whose boot takes seconds. cargo-nextest runs every test in a process of
//! its own, so there such scenarios are one test for each group: it boots a machine, plays them in
//! turn, and fails at the end with the names and transcripts of those that failed.
//!
//! `TRAPLINE_E2E_ONLY=TEXT` plays only the scenarios whose names contain the text.

use core::fmt::Write as _;
use std::{
    env, panic,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use libtest_mimic::{Arguments, Failed, Trial};
use trapline_test_machine::{Environment, MachineError};

use crate::{Kind, Needs, Place, Scenario, Stage};

/// What this process could not play, for the end of its output.
static LEFT_OUT: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Records that `what` could not be played here, and why. It is told at the end of the run, and to
/// `./x test`.
pub fn did_not_run(what: &str, why: &str) {
    trapline_test_machine::did_not_run(what, why);
    let mut left_out = LEFT_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    left_out.push(format!("did not run: {what} because {why}"));
}

/// Scenarios on one subject.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The subject.
    pub name: &'static str,
    /// The facts.
    pub scenarios: &'static [Scenario],
}

/// A scenario with a debugger.
type Play = (&'static Scenario, Option<Kind>);

/// Runs what the command line asks for, of `groups` and `more`.
#[must_use]
pub fn run(groups: &[Group], more: Vec<Trial>) -> ExitCode {
    let arguments = Arguments::from_args();
    let host = [Needs::AnyKvm, Needs::Hardware].map(|needs| (needs, Place::host_has(needs)));
    let on_host = |needs| host.contains(&(needs, true));
    let mut trials = more;
    for group in groups {
        let (here, there): (Vec<Play>, Vec<Play>) =
            plays(group).partition(|(scenario, _)| on_host(scenario.needs));
        for play in here {
            let name = format!("{}::{}", group.name, title(play));
            trials.push(Trial::test(name, move || on_this_computer(play)));
        }
        if !there.is_empty() {
            let (name, group) = (format!("{}::in_a_machine", group.name), group.name);
            trials.push(Trial::test(name, move || in_a_machine(group, &there)));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    Place::end_machine();
    for line in LEFT_OUT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        println!("{line}");
    }
    conclusion.exit_code()
}

fn plays(group: &Group) -> impl Iterator<Item = Play> + use<> {
    let only = env::var("TRAPLINE_E2E_ONLY").unwrap_or_default();
    let scenarios = group.scenarios.iter();
    scenarios
        .flat_map(|scenario| {
            scenario
                .with
                .kinds()
                .iter()
                .map(move |kind| (scenario, *kind))
        })
        .filter(move |play| title(*play).contains(&only))
}

fn title((scenario, kind): Play) -> String {
    match kind {
        Some(kind) => format!("{kind}::{}", scenario.name),
        None => scenario.name.to_owned(),
    }
}

fn on_this_computer(play: Play) -> Result<(), Failed> {
    play_on(play, &Environment::load(), &Place::Host).map_err(Failed::from)
}

/// Plays all in one machine and tells of each that failed.
///
/// A process has one machine, and in it one guest at a time: with several, stock kernels ended in
/// triple faults under QEMU's nested SVM. Test runners that give each test a process have a machine for
/// each.
fn in_a_machine(group: &str, plays: &[Play]) -> Result<(), Failed> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let environment = Environment::load();
    let place = match Place::machine(&environment) {
        Ok(place) => place,
        Err(error) if is_missing(&error) => {
            let names: Vec<_> = plays.iter().copied().map(title).collect();
            let what = format!("{group}::in_a_machine ({})", names.join(", "));
            did_not_run(&what, &error.to_string());
            return Ok(());
        }
        Err(error) => return Err(format!("{error:?}").into()),
    };
    let mut failures = String::new();
    for play in plays {
        let start = Instant::now();
        let result = play_on(*play, &environment, &place);
        let seconds = start.elapsed().as_secs_f64();
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{group}::{} ... {verdict} ({seconds:.1} s)", title(*play));
        if let Err(failure) = result {
            // Writing to a string cannot fail.
            let _ = writeln!(failures, "---- {group}::{}\n{failure}", title(*play));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.into())
    }
}

/// Whether the computer lacks something that `./x setup` has not found for it either.
fn is_missing(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<MachineError>(),
        Some(MachineError::NotSetUp { .. })
    )
}

/// Plays a scenario. The error is its failure with the transcript.
fn play_on((scenario, kind): Play, environment: &Environment, place: &Place) -> Result<(), String> {
    let stage = Arc::new(Stage::new(environment.clone(), place.clone(), kind));
    let inner = Arc::clone(&stage);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| (scenario.run)(&inner)));
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{}\n{error:#}", stage.transcript())),
        Err(_) => Err(format!("{}\nthe scenario panicked", stage.transcript())),
    }
}
