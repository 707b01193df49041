//! Trapline's figures, side by side with QEMU's stub and with what the machine allows.
//!
//! One run measures everything: Trapline and QEMU as processes of their own, with the same tiny
//! guest on the same `/dev/kvm`, a bare echo server on the same kind of socket, and a bare
//! `KVM_RUN` loop over the same guest. They take turns, round by round, and what is compared with
//! what is a ratio within a round, so that noise of the machine hits all alike.

mod bare;
mod client;
mod echo;
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
    /// Measure only this figure; may be given more than once [possible values: request, read, step,
    /// range-step, condition, stop, resident, resident-symbols]
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
    let known = figures::ALL.iter().map(|(name, _)| *name);
    for only in &arguments.only {
        ensure!(
            known.clone().any(|name| name == only),
            "there is no figure {only:?}; there are {}",
            known.collect::<Vec<_>>().join(", ")
        );
    }
    let environment = Environment::load();
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
    let result = if is_emulated {
        measure_inside(&arguments, &environment)?
    } else {
        measure(&arguments, environment)?
    };
    let name = if is_emulated { "emulated" } else { "host" };
    let default = || workspace_root().join(format!("target/bench/{name}.json"));
    let path = arguments.json.clone().unwrap_or_else(default);
    write(&path, &result)?;
    println!("{}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Measures on this computer's KVM.
fn measure(arguments: &Arguments, environment: Environment) -> Result<Value> {
    let description = machine::describe(&environment);
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
    let missed: Vec<_> = done.iter().filter(|figure| !figure.is_met()).collect();
    println!(
        "{} of {} figures are met",
        done.len() - missed.len(),
        done.len()
    );
    Ok(json!({
        "machine": description,
        "figures": done.iter().map(Figure::to_json).collect::<Vec<_>>(),
    }))
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
