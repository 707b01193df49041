//! What `./x` does: sets up what Trapline needs, demonstrates, tests and measures it.

mod bench;
mod ci;
mod command;
mod demo;
mod images;
mod programs;
mod setup;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Sets up, demonstrates, tests and measures Trapline.
#[derive(Parser)]
#[command(name = "./x", bin_name = "./x", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boot the distribution's kernel under Trapline and debug it with GDB.
    Demo(DemoArguments),
    /// Check everything: format, lints, unit tests, real debuggers, fuzz targets.
    Test(TestArguments),
    /// Measure Trapline beside QEMU's stub.
    Bench {
        /// Passed to the benchmark program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Do what continuous integration does: the same as `test` without arguments.
    Ci,
    /// Build everything that is shipped: `trapline` for this computer and for Linux on arm64, and the hypervisor for EL2.
    Build,
    /// Only fetch and record what the others need.
    Setup,
    /// Build `trapline` and run it with the arguments that follow.
    Run {
        /// Passed to `trapline`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Args, Clone, Copy)]
struct DemoArguments {
    /// Leave you in the debugger.
    #[arg(long)]
    interactive: bool,
    /// Use LLDB instead of GDB.
    #[arg(long)]
    lldb: bool,
    /// What the debug server is in: KVM on x86-64, KVM on arm64, or the hypervisor at EL2.
    #[arg(long, value_enum, default_value = "kvm")]
    host: demo::Host,
}

#[derive(Args)]
struct TestArguments {
    /// Run the long versions as well: fuzzing for minutes, all of the lockstep and churn tests.
    #[arg(long)]
    long: bool,
    /// Run only the tests whose names contain one of these, and no other check.
    filters: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("./x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo(arguments) => {
            let debugger = if arguments.lldb {
                demo::Debugger::Lldb
            } else {
                demo::Debugger::Gdb
            };
            let mode = if arguments.interactive {
                demo::Mode::Interactive
            } else {
                demo::Mode::Scripted
            };
            demo::run(arguments.host, debugger, mode)
        }
        Task::Test(TestArguments { long, filters }) => ci::run(&ci::Scope { long, filters }),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Ci => ci::run(&ci::Scope {
            long: false,
            filters: Vec::new(),
        }),
        Task::Build => {
            setup::run(&setup::Needs::everything())?;
            println!("{}", programs::build()?.join("trapline").display());
            println!("{}", programs::build_for_arm()?.join("trapline").display());
            println!("{}", images::el2()?.path.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Setup => {
            setup::run(&setup::Needs::everything())?;
            println!("Everything is set up.");
            Ok(ExitCode::SUCCESS)
        }
        Task::Run { arguments } => programs::run_trapline(&arguments),
    }
}
