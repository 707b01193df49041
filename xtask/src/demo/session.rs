//! The debugger's session.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use trapline_test_machine::Environment;

use super::{Debugger, Mode, place::Guest};

/// The sessions of the scripted demo. Lines of text in them are what the newcomer reads.
const GDB_SESSION: &str = include_str!("session.gdb");
const LLDB_SESSION: &str = include_str!("session.lldb");

/// Runs the debugger in the user's terminal.
pub(super) fn run(
    environment: &Environment,
    debugger: Debugger,
    mode: Mode,
    guest: &Guest,
) -> Result<ExitCode> {
    let (program, session) = match debugger {
        Debugger::Gdb => (environment.gdb()?, GDB_SESSION),
        Debugger::Lldb => (environment.lldb()?, LLDB_SESSION),
    };
    let script = Environment::directory().join("demo-session");
    fs::write(&script, session).with_context(|| script.display().to_string())?;
    let mut command = Command::new(program);
    match debugger {
        Debugger::Gdb => gdb(&mut command, mode, &guest.socket, &script),
        Debugger::Lldb => lldb(&mut command, mode, &guest.socket, &script),
    }
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn gdb(command: &mut Command, mode: Mode, socket: &Path, script: &Path) {
    // Without the user's own start-up files, so that everybody sees the same.
    command.args([
        "-nx",
        "-q",
        "-ex",
        "set pagination off",
        "-ex",
        "set confirm off",
    ]);
    command
        .arg("-ex")
        .arg(format!("target remote {}", socket.display()));
    if mode == Mode::Scripted {
        command.arg("-batch").arg("-x").arg(script);
    }
}

fn lldb(command: &mut Command, mode: Mode, socket: &Path, script: &Path) {
    command.args(["--no-lldbinit", "-o"]);
    command.arg(format!(
        "process connect unix-connect://{}",
        socket.display()
    ));
    if mode == Mode::Scripted {
        command.arg("--batch").arg("--source").arg(script);
    }
}

/// Says how to do each thing by hand.
pub(super) fn explain(environment: &Environment) {
    let kernel = environment
        .kernel()
        .map(|path| path.display().to_string())
        .unwrap_or_default();
    println!(
        "\nBy hand, on a computer whose KVM runs at full speed:\n\
         \x20 trapline run --kernel {kernel} --initrd FILE --cmdline console=ttyS0 --cpus 2 --memory 512M \\\n\
         \x20     --listen unix:/tmp/guest.socket\n\
         \x20 gdb -ex 'target remote /tmp/guest.socket'\n\
         \x20 lldb -o 'process connect unix-connect:///tmp/guest.socket'\n\
         \x20 trapline shell unix:/tmp/guest.socket\n\
         ./x demo --interactive leaves you in GDB, and ./x demo --lldb --interactive in LLDB."
    );
}
