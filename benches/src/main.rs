//! Trapline's figures, side by side with QEMU's stub and with what the machine allows.
//!
//! One run measures everything: Trapline and QEMU as processes of their own, with the same tiny
//! guest on the same `/dev/kvm`, a bare echo server on the same kind of socket, and a bare
//! `KVM_RUN` loop over the same guest. They take turns, round by round, and what is compared with
//! what is a ratio within a round, so that noise of the machine hits all alike. For the hypervisor at
//! EL2 the same is done with emulated Arm computers.

mod bare;
mod client;
mod echo;
mod el2;
mod figures;
mod machine;
mod qmp;
mod report;
mod rounds;
mod servers;
mod stats;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use trapline_test_machine::{Environment, HostKvm, workspace_root};

use figures::SYMBOLS;
use report::Figure;

/// Measures Trapline beside QEMU's stub and beside what the machine allows.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the debug server is in
    #[arg(long, value_name = "HOST", default_value = "kvm")]
    host: Host,
    /// Measure only this figure; may be given more than once [possible values: request, read, step,
    /// range-step, condition, stop, resident, resident-symbols; for el2: guest, instructions, boot,
    /// stop, steps, condition, size]
    #[arg(long, value_name = "FIGURE")]
    only: Vec<String>,
    /// Rounds of each figure; some have three times as many
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: u32,
    /// On which KVM: this computer's, that of an emulated machine, or this computer's if it has one
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    machine: Where,
    /// Where the figures go as JSON [default: target/bench/WHERE.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Be the echo server at this path
    #[arg(long, value_name = "PATH", hide = true)]
    echo: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Host {
    /// `trapline run` on x86-64
    Kvm,
    /// The hypervisor for EL2 on an emulated Arm computer
    El2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Where {
    Auto,
    Host,
    Emulated,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.echo {
        echo::serve(path)?;
        return Ok(ExitCode::SUCCESS);
    }
    let known: Vec<_> = match arguments.host {
        Host::Kvm => figures::ALL.iter().map(|(name, _)| *name).collect(),
        Host::El2 => el2::ALL.iter().map(|(name, _)| *name).collect(),
    };
    for only in &arguments.only {
        ensure!(
            known.iter().any(|name| name == only),
            "there is no figure {only:?}; there are {}",
            known.join(", ")
        );
    }
    let environment = Environment::load();
    let (name, result) = match arguments.host {
        Host::Kvm => measure_kvm(&arguments, environment)?,
        Host::El2 => ("el2", measure_el2(&arguments, environment)?),
    };
    let default = || workspace_root().join(format!("target/bench/{name}.json"));
    let path = arguments.json.clone().unwrap_or_else(default);
    write(&path, &result)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Measures on a KVM; yields the name of its kind, too.
fn measure_kvm(arguments: &Arguments, environment: Environment) -> Result<(&'static str, Value)> {
    machine::check(&environment)?;
    let host = HostKvm::probe();
    let is_emulated = match arguments.machine {
        Where::Auto => !host.runs_tiny_guest(),
        Where::Host => false,
        Where::Emulated => true,
    };
    if !is_emulated {
        ensure!(host.runs_tiny_guest(), "{}", host.describe());
    }
    if is_emulated {
        Ok(("emulated", measure_inside(arguments, &environment)?))
    } else {
        Ok(("host", measure(arguments, environment)?))
    }
}

/// Measures on this computer's KVM.
fn measure(arguments: &Arguments, environment: Environment) -> Result<Value> {
    let description = machine::describe(&environment, environment.qemu().ok());
    println!("{description:#}\n");
    let directory = tempfile::Builder::new()
        .prefix("trapline-bench-")
        .tempdir()?;
    let bench = figures::Bench {
        echo: echo::Echo::start(&directory.path().join("echo"))?,
        place: servers::Place {
            environment,
            directory: directory.path().to_owned(),
        },
        rounds: arguments.rounds.max(1),
    };
    let mut done: Vec<Figure> = Vec::new();
    for (name, measure) in figures::ALL {
        if arguments.wants(name) {
            let figure = measure(&bench).with_context(|| format!("the figure {name:?}"))?;
            println!("{figure}");
            done.push(figure);
        }
    }
    Ok(summed_up(&description, &done))
}

/// Measures the hypervisor for EL2 on emulated Arm computers.
fn measure_el2(arguments: &Arguments, environment: Environment) -> Result<Value> {
    el2::check(&environment)?;
    let description = machine::describe(&environment, environment.qemu_arm64().ok());
    println!("{description:#}\n");
    let directory = tempfile::Builder::new()
        .prefix("trapline-bench-")
        .tempdir()?;
    let rounds = arguments.rounds.max(1);
    let bench = el2::Bench::new(environment, directory.path().to_owned(), rounds)?;
    let mut done: Vec<Figure> = Vec::new();
    for (name, measure) in el2::ALL {
        if arguments.wants(name) {
            for figure in measure(&bench).with_context(|| format!("the figures {name:?}"))? {
                println!("{figure}");
                done.push(figure);
            }
        }
    }
    Ok(summed_up(&description, &done))
}

/// Says how many figures are met, and yields all as JSON.
fn summed_up(description: &Value, done: &[Figure]) -> Value {
    let met = done.iter().filter(|figure| figure.is_met()).count();
    println!("{met} of {} figures are met", done.len());
    json!({
        "machine": description,
        "figures": done.iter().map(Figure::to_json).collect::<Vec<_>>(),
    })
}

/// Measures inside an emulated machine, but for the figure that finds its machine by itself.
fn measure_inside(arguments: &Arguments, environment: &Environment) -> Result<Value> {
    let inside = figures::ALL
        .iter()
        .filter(|(name, _)| *name != SYMBOLS && arguments.wants(name));
    let mut passed: Vec<String> = inside.map(|(name, _)| format!("--only {name}")).collect();
    passed.push(format!("--machine host --rounds {}", arguments.rounds));
    machine::run_inside(environment, &passed)
}

fn write(path: &Path, result: &Value) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, format!("{result:#}\n")).with_context(|| path.display().to_string())
}

impl Arguments {
    fn wants(&self, figure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == figure)
    }
}
