//! `trapline`: boots a guest under the debug server, and talks to such a server.

mod bundle;
mod bus;
mod client;
mod info;
mod run;
mod shell;
mod symbols;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Debugs the guests of hypervisors with GDB, LLDB or a shell, with nothing installed in the guest.
#[derive(Debug, Parser)]
#[command(name = "trapline", version, about, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boots a guest on KVM with the debug server beside it
    Run(run::RunArguments),
    /// Looks into a guest and controls it, by commands in words
    Shell(shell::ShellArguments),
    /// Writes the guest kernel's symbols, at their run-time addresses, to a file for debuggers
    Symbols(symbols::SymbolsArguments),
    /// Puts a bare-metal hypervisor and its guest into one image
    Bundle(bundle::BundleArguments),
    /// Shows what this machine can do for a debugger, and what is lost where it cannot
    Info(info::InfoArguments),
}

/// Returns the folder of the sockets that `trapline run` makes and `trapline shell` finds.
fn runtime_folder() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder).join("trapline"),
        _ => {
            let user = rustix::process::getuid().as_raw();
            std::env::temp_dir().join(format!("trapline-{user}"))
        }
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::main(&arguments),
        Command::Shell(arguments) => shell::main(&arguments),
        Command::Symbols(arguments) => symbols::main(&arguments),
        Command::Bundle(arguments) => bundle::main(&arguments),
        Command::Info(arguments) => info::main(&arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("trapline: {error:#}");
        ExitCode::FAILURE
    })
}
