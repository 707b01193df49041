//! Where the guest of the demo runs.

use core::time::Duration;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{
    Environment, GuestImage, HostKvm, Machine, MachineOptions, RemoteProcess, guest_initramfs,
};

/// The guest's heartbeat, on its console.
const HEARTBEAT: &str = "trapline-guest: heartbeat";
/// How long the guest may take to its first heartbeat; nested emulation takes some twenty seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long one heartbeat may take to follow another.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);
/// No RTC and no keyboard controller to wait for; everything on the serial console.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1";

/// This computer's KVM, or an emulated machine's.
pub(super) enum Place {
    Here,
    Machine(Box<Machine>),
}

/// A booted guest with a debug server.
pub(super) struct Guest {
    /// The server's Unix socket on this computer.
    pub(super) socket: PathBuf,
    /// What the console said first of all that a user sees.
    pub(super) first_heartbeat: String,
    running: Running,
    // Dropped after the guest that runs in it.
    _place: Place,
}

enum Running {
    Here {
        child: Child,
        console: std::sync::Mutex<Lines<BufReader<ChildStdout>>>,
    },
    Machine(RemoteProcess),
}

impl Place {
    /// Chooses, and boots the emulated machine if it has to be one.
    pub(super) fn prepare(environment: &Environment, programs: &Path) -> Result<Self> {
        if HostKvm::probe().runs_stock_kernel() {
            return Ok(Self::Here);
        }
        println!(
            "   {}, so an emulated machine is booted for it",
            HostKvm::probe().describe()
        );
        let trapline = programs.join("trapline");
        let options = MachineOptions::default()
            .programs(programs)
            .file("/bin/trapline", trapline);
        Ok(Self::Machine(Box::new(Machine::boot(
            environment,
            &options,
        )?)))
    }

    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Here => "trapline runs on this computer's KVM, at full speed",
            Self::Machine(_) => {
                "trapline runs inside an emulated machine (QEMU, TCG, SVM), on that machine's KVM: the same \
                 program and the same rules, some ten to a hundred times slower"
            }
        }
    }

    /// Boots the guest and waits for its first sign of life.
    pub(super) fn boot(self, environment: &Environment, programs: &Path) -> Result<Guest> {
        match self {
            Self::Here => boot_here(environment, programs),
            Self::Machine(machine) => boot_in(machine, environment),
        }
    }
}

fn boot_here(environment: &Environment, programs: &Path) -> Result<Guest> {
    let directory = Environment::directory().join("demo");
    fs::create_dir_all(&directory)?;
    let initrd = directory.join("initrd");
    fs::write(
        &initrd,
        guest_initramfs(environment, &GuestImage::default())?,
    )?;
    let socket = directory.join("socket");
    let log = File::create(directory.join("trapline.log"))?;
    let mut child = Command::new(programs.join("trapline"))
        .args([
            "run",
            "--cpus",
            "2",
            "--memory",
            "512M",
            "--console",
            "stdio",
        ])
        .args(["--cmdline", COMMAND_LINE, "--kernel"])
        .arg(environment.kernel()?)
        .arg("--initrd")
        .arg(initrd)
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let output = child
        .stdout
        .take()
        .context("trapline has no standard output")?;
    let console = std::sync::Mutex::new(BufReader::new(output).lines());
    let mut guest = Guest {
        socket,
        first_heartbeat: String::new(),
        running: Running::Here { child, console },
        _place: Place::Here,
    };
    guest.first_heartbeat = guest.next_heartbeat()?;
    Ok(guest)
}

fn boot_in(machine: Box<Machine>, environment: &Environment) -> Result<Guest> {
    let (kernel, initrd) = machine.put_guest(environment, &GuestImage::default())?;
    let process = machine.spawn(&format!(
        "exec trapline run --cpus 2 --memory 512M --console stdio --kernel {kernel} --initrd {initrd} \
         --cmdline '{COMMAND_LINE}' --listen unix:/run/trapline.socket"
    ))?;
    process.expect(HEARTBEAT, BOOT_LIMIT)?;
    let first_heartbeat = format!("{HEARTBEAT}{}", process.expect("\n", HEARTBEAT_LIMIT)?);
    Ok(Guest {
        socket: machine.forward_socket("unix:/run/trapline.socket")?,
        first_heartbeat,
        running: Running::Machine(process),
        _place: Place::Machine(machine),
    })
}

impl Guest {
    /// Waits for the guest's next heartbeat.
    pub(super) fn next_heartbeat(&self) -> Result<String> {
        match &self.running {
            Running::Here { console, .. } => {
                let mut lines = console
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                for line in &mut *lines {
                    let line = line?;
                    if line.contains(HEARTBEAT) {
                        return Ok(line);
                    }
                }
                bail!("trapline ended; see target/trapline/demo/trapline.log")
            }
            Running::Machine(process) => {
                // What it said meanwhile is skipped: only what comes from now on shows that it lives.
                process.skip_output();
                process.expect(HEARTBEAT, HEARTBEAT_LIMIT)?;
                Ok(format!(
                    "{HEARTBEAT}{}",
                    process.expect("\n", HEARTBEAT_LIMIT)?
                ))
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Running::Here { child, .. } = &mut self.running {
            // Errors mean that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
