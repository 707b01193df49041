//! The debugger's session.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use trapline_test_machine::Environment;

use super::{Debugger, Mode, place::Guest};

/// The sessions of the scripted demo. What they print is what the newcomer reads.
const GDB_SESSION: &str = include_str!("session_gdb.py");
const LLDB_SESSION: &str = include_str!("session_lldb.py");

/// Runs the debugger in the user's terminal.
pub(super) fn run(
    environment: &Environment,
    programs: &Path,
    debugger: Debugger,
    mode: Mode,
    guest: &Guest,
) -> Result<ExitCode> {
    let mut command = match debugger {
        Debugger::Gdb => gdb(environment, mode, &guest.socket)?,
        Debugger::Lldb => lldb(environment, programs, mode, &guest.socket)?,
    };
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn script(name: &str, text: &str) -> Result<PathBuf> {
    let script = Environment::directory().join(name);
    fs::write(&script, text).with_context(|| script.display().to_string())?;
    Ok(script)
}

fn gdb(environment: &Environment, mode: Mode, socket: &Path) -> Result<Command> {
    let mut command = Command::new(environment.gdb()?);
    // Without the user's own start-up files, so that everybody sees the same.
    command.args(["-nx", "-q"]);
    for setting in ["pagination off", "confirm off", "debuginfod enabled off"] {
        command.arg("-ex").arg(format!("set {setting}"));
    }
    command
        .arg("-ex")
        .arg(format!("target remote {}", socket.display()));
    if mode == Mode::Scripted {
        command
            .arg("-batch")
            .arg("-x")
            .arg(script("demo_session_gdb.py", GDB_SESSION)?);
    }
    Ok(command)
}

/// LLDB does not fetch symbols from a server: it is given the file that `trapline symbols` writes.
fn lldb(environment: &Environment, programs: &Path, mode: Mode, socket: &Path) -> Result<Command> {
    let symbols = Environment::directory().join("demo-kernel");
    let status = Command::new(programs.join("trapline"))
        .arg("symbols")
        .arg(format!("unix:{}", socket.display()))
        .arg("-o")
        .arg(&symbols)
        .status()
        .context("cannot run trapline symbols")?;
    ensure!(
        status.success(),
        "trapline symbols did not get the guest's symbols"
    );
    let mut command = Command::new(environment.lldb()?);
    command.arg("--no-lldbinit").arg(&symbols).arg("-o");
    command.arg(format!(
        "process connect --plugin gdb-remote unix-connect://{}",
        socket.display()
    ));
    if mode == Mode::Scripted {
        let session = script("demo_session_lldb.py", LLDB_SESSION)?;
        command
            .arg("--batch")
            .arg("-o")
            .arg(format!("command script import {}", session.display()));
    }
    Ok(command)
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
         \x20 trapline symbols unix:/tmp/guest.socket -o kernel.elf\n\
         \x20 lldb kernel.elf -o 'process connect --plugin gdb-remote unix-connect:///tmp/guest.socket'\n\
         \x20 trapline shell unix:/tmp/guest.socket\n\
         ./x demo --interactive leaves you in GDB, and ./x demo --lldb --interactive in LLDB."
    );
}
