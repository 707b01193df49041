//! The debugger's session.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use trapline_test_machine::{Architecture, Environment};

use super::{Debugger, Host, Mode, place::Guest};

/// The sessions of the scripted demo. What they print is what the newcomer reads.
const GDB_SESSION: &str = include_str!("session_gdb.py");
const LLDB_SESSION: &str = include_str!("session_lldb.py");

/// A session to be.
pub(super) struct Session<'a> {
    /// Where the debuggers are.
    pub(super) environment: &'a Environment,
    /// The directory of `trapline`.
    pub(super) programs: &'a Path,
    /// What the debug server is in.
    pub(super) host: Host,
    /// Which debugger.
    pub(super) debugger: Debugger,
    /// Who types.
    pub(super) mode: Mode,
}

impl Session<'_> {
    /// Runs the debugger in the user's terminal.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn run(&self, guest: &Guest) -> Result<ExitCode> {
        let mut command = match self.debugger {
            Debugger::Gdb => self.gdb(&guest.socket)?,
            Debugger::Lldb => self.lldb(&guest.socket)?,
        };
        let host = self.host.to_possible_value();
        let host = host.as_ref().map_or("", |value| value.get_name());
        let status = command
            .env("TRAPLINE_DEMO_HOST", host)
            .status()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn gdb(&self, socket: &Path) -> Result<Command> {
        let mut command = Command::new(match self.host.architecture() {
            Architecture::X86_64 => self.environment.gdb()?,
            Architecture::Arm64 => self.environment.gdb_multiarch()?,
        });
        // Without the user's own start-up files, so that everybody sees the same.
        command.args(["-nx", "-q"]);
        for setting in ["pagination off", "confirm off", "debuginfod enabled off"] {
            command.arg("-ex").arg(format!("set {setting}"));
        }
        // Over a serial line a file here is quicker than the server's.
        if self.host == Host::El2 {
            command.arg(self.symbols(socket)?);
        }
        command
            .arg("-ex")
            .arg(format!("target remote {}", socket.display()));
        if self.mode == Mode::Scripted {
            let session = script("demo_session_gdb.py", GDB_SESSION)?;
            command.arg("-batch").arg("-x").arg(session);
        }
        Ok(command)
    }

    /// LLDB does not fetch symbols from a server: it is given the file that `trapline symbols` writes.
    fn lldb(&self, socket: &Path) -> Result<Command> {
        let mut command = Command::new(self.environment.lldb()?);
        command.arg("--no-lldbinit");
        command.arg(self.symbols(socket)?).arg("-o").arg(format!(
            "process connect --plugin gdb-remote unix-connect://{}",
            socket.display()
        ));
        if self.mode == Mode::Scripted {
            let session = script("demo_session_lldb.py", LLDB_SESSION)?;
            command
                .arg("--batch")
                .arg("-o")
                .arg(format!("command script import {}", session.display()));
        }
        Ok(command)
    }

    /// Has `trapline symbols` write the kernel's symbols to a file. A serial line is slow, so with a hypervisor they
    /// are from the kernel's file.
    fn symbols(&self, socket: &Path) -> Result<PathBuf> {
        let symbols = Environment::directory().join("demo-kernel");
        let mut command = Command::new(self.programs.join("trapline"));
        command
            .arg("symbols")
            .arg(format!("unix:{}", socket.display()))
            .arg("-o")
            .arg(&symbols);
        if self.host == Host::El2 {
            command
                .arg("--kernel")
                .arg(self.environment.kernel_arm64()?);
        }
        let status = command.status().context("cannot run trapline symbols")?;
        ensure!(
            status.success(),
            "trapline symbols did not get the guest's symbols"
        );
        Ok(symbols)
    }

    /// Says how to do each thing by hand.
    pub(super) fn explain(&self) {
        match self.host {
            Host::Kvm | Host::KvmArm64 => self.explain_run(),
            Host::El2 => println!(
                "\nBy hand, on a board: docs/boards.md. ./x build makes the hypervisor's image; the commands above put a \
                 guest behind it and start both in QEMU.\n\
                 ./x demo --host el2 --interactive leaves you in GDB, and with --lldb in LLDB."
            ),
        }
    }

    fn explain_run(&self) {
        let kernel = self.environment.kernel_for(self.host.architecture());
        let kernel = kernel
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
}

fn script(name: &str, text: &str) -> Result<PathBuf> {
    let script = Environment::directory().join(name);
    fs::write(&script, text).with_context(|| script.display().to_string())?;
    Ok(script)
}
