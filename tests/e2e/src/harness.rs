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
use trapline_test_machine::{Architecture, Environment, MachineError};

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

/// Whether the long versions are wanted, as `./x test --long` asks for them by `TRAPLINE_LONG`.
#[must_use]
pub fn is_long() -> bool {
    env::var_os("TRAPLINE_LONG").is_some_and(|value| !value.is_empty())
}

/// Scenarios on one subject.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The subject.
    pub name: &'static str,
    /// The facts.
    pub scenarios: &'static [Scenario],
}

/// A scenario on one of the things it is played on, with a debugger.
type Play = (&'static Scenario, Needs, Option<Kind>);

/// Runs what the command line asks for, of `groups` and `more`.
#[must_use]
pub fn run(groups: &[Group], more: Vec<Trial>) -> ExitCode {
    let arguments = Arguments::from_args();
    let host = [Needs::AnyKvm, Needs::Hardware].map(|needs| (needs, Place::host_has(needs)));
    let on_host = |needs| host.contains(&(needs, true));
    let mut trials = more;
    for group in groups {
        let mut in_machines = [Vec::new(), Vec::new()];
        let [x86, arm] = &mut in_machines;
        for play in plays(group) {
            let (_, needs, _) = play;
            let name = format!("{}::{}", group.name, title(play));
            match needs {
                Needs::AnyKvm | Needs::Hardware if on_host(needs) => {
                    trials.push(Trial::test(name, move || alone(play, &Place::Host)));
                }
                Needs::AnyKvm | Needs::Hardware => x86.push(play),
                Needs::KvmArm64 => arm.push(play),
                Needs::El2 => trials.push(Trial::test(name, move || alone(play, &Place::Board))),
            }
        }
        let machines = [
            ("in_a_machine", Architecture::X86_64),
            ("in_an_arm_machine", Architecture::Arm64),
        ];
        for ((test, architecture), plays) in machines.into_iter().zip(in_machines) {
            if !plays.is_empty() {
                let (name, group) = (format!("{}::{test}", group.name), group.name);
                let run = move || in_a_machine(&format!("{group}::{test}"), architecture, &plays);
                trials.push(Trial::test(name, run));
            }
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    Place::end_machines();
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
    let with_places =
        scenarios.flat_map(|scenario| scenario.needs.iter().map(move |needs| (scenario, *needs)));
    with_places
        .flat_map(|(scenario, needs)| {
            let kinds = scenario.with.kinds().iter();
            kinds.map(move |kind| (scenario, needs, *kind))
        })
        .filter(move |play| title(*play).contains(&only))
}

fn title((scenario, needs, kind): Play) -> String {
    let place = match needs {
        Needs::AnyKvm | Needs::Hardware => String::new(),
        Needs::KvmArm64 | Needs::El2 => format!("{needs}::"),
    };
    match kind {
        Some(kind) => format!("{place}{kind}::{}", scenario.name),
        None => format!("{place}{}", scenario.name),
    }
}

/// Plays one that shares nothing with others.
fn alone(play: Play, place: &Place) -> Result<(), Failed> {
    let environment = Environment::load();
    if let Err(error) = missing(&environment, place) {
        did_not_run(&title(play), &error.to_string());
        return Ok(());
    }
    play_on(play, &environment, place).map_err(Failed::from)
}

/// What a place takes from outside, where it is not there.
fn missing(environment: &Environment, place: &Place) -> Result<(), MachineError> {
    match place {
        Place::Host | Place::Machine(_) => Ok(()),
        Place::Board => {
            environment.qemu_arm64()?;
            environment.kernel_arm64()?;
            environment.busybox_arm64()?;
            environment.gdb_multiarch()?;
            Environment::el2_image().map(drop)
        }
    }
}

/// Plays all in one machine and tells of each that failed.
///
/// A process has one machine, and in it one guest at a time: with several, stock kernels ended in
/// triple faults under QEMU's nested SVM. Test runners that give each test a process have a machine for
/// each.
fn in_a_machine(group: &str, architecture: Architecture, plays: &[Play]) -> Result<(), Failed> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let environment = Environment::load();
    let place = match Place::machine(&environment, architecture) {
        Ok(place) => place,
        Err(error) if is_missing(&error, architecture) => {
            let names: Vec<_> = plays.iter().copied().map(title).collect();
            let what = format!("{group} ({})", names.join(", "));
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

/// Whether the computer lacks something that `./x setup` has not found for it either. Without a toolchain for arm64
/// there are no programs for it.
fn is_missing(error: &anyhow::Error, architecture: Architecture) -> bool {
    match error.downcast_ref::<MachineError>() {
        Some(MachineError::NotSetUp { .. }) => true,
        Some(MachineError::NotBuilt(_)) => architecture == Architecture::Arm64,
        _ => false,
    }
}

/// Plays a scenario. The error is its failure with the transcript.
fn play_on(
    (scenario, _, kind): Play,
    environment: &Environment,
    place: &Place,
) -> Result<(), String> {
    let stage = Arc::new(Stage::new(environment.clone(), place.clone(), kind));
    let inner = Arc::clone(&stage);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| (scenario.run)(&inner)));
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{}\n{error:#}", stage.transcript())),
        Err(_) => Err(format!("{}\nthe scenario panicked", stage.transcript())),
    }
}
