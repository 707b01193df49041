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
    Architecture, Environment, GuestImage, HostKvm, Machine, MachineOptions, RemoteProcess,
    guest_initramfs,
};

use super::{Host, board};
use crate::{images, programs};

/// The guest's heartbeat, on its console.
const HEARTBEAT: &str = "trapline-guest: heartbeat";
/// How long the guest may take to its first heartbeat; nested emulation takes some twenty seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long one heartbeat may take to follow another.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);
/// No RTC and no keyboard controller to wait for; everything on the serial console.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1";

/// This computer's KVM, or an emulated machine's, or an emulated board with this image of the hypervisor.
pub(super) enum Place {
    Here,
    Machine(Box<Machine>),
    Board(PathBuf),
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
    pub(super) fn prepare(host: Host, environment: &Environment, own: &Path) -> Result<Self> {
        let programs = match host {
            Host::El2 => return Ok(Self::Board(images::el2()?.path)),
            Host::KvmArm64 => programs::build_for_arm()?,
            Host::Kvm if HostKvm::probe().runs_stock_kernel() => return Ok(Self::Here),
            Host::Kvm => {
                let why = HostKvm::probe().describe();
                println!("   {why}, so an emulated machine is booted for it");
                own.to_owned()
            }
        };
        let options = MachineOptions::of(host.architecture())
            .programs(&programs)
            .file("/bin/trapline", programs.join("trapline"));
        Ok(Self::Machine(Box::new(Machine::boot(
            environment,
            &options,
        )?)))
    }

    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Here => "trapline runs on this computer's KVM, at full speed",
            Self::Machine(machine) if machine.architecture() == Architecture::Arm64 => {
                "trapline runs inside an emulated Arm machine (QEMU, TCG, EL2), on that machine's KVM"
            }
            Self::Board(_) => {
                "the hypervisor runs at EL2 of an emulated Arm board (QEMU, TCG), the guest at EL1; the board's second \
                 serial port is for debuggers"
            }
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
            Self::Board(image) => {
                let directory = fresh_directory()?;
                let child = board::start(&image, environment, programs, &directory)?;
                Guest::here(
                    child,
                    directory.join(trapline_test_machine::Board::DEBUG_SOCKET),
                )
            }
        }
    }
}

fn boot_here(environment: &Environment, programs: &Path) -> Result<Guest> {
    let directory = fresh_directory()?;
    let initrd = directory.join("initrd");
    fs::write(
        &initrd,
        guest_initramfs(environment, &GuestImage::default())?,
    )?;
    let socket = directory.join("socket");
    let log = File::create(directory.join("trapline.log"))?;
    let child = Command::new(programs.join("trapline"))
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
    Guest::here(child, socket)
}

fn fresh_directory() -> Result<PathBuf> {
    let directory = Environment::directory().join("demo");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn boot_in(machine: Box<Machine>, environment: &Environment) -> Result<Guest> {
    let image = GuestImage {
        architecture: machine.architecture(),
        ..GuestImage::default()
    };
    let (kernel, initrd) = machine.put_guest(environment, &image)?;
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
    /// A guest whose console is the output of a process on this computer. Waits for its first heartbeat.
    fn here(mut child: Child, socket: PathBuf) -> Result<Self> {
        let output = child.stdout.take().context("there is no console")?;
        let console = std::sync::Mutex::new(BufReader::new(output).lines());
        let mut guest = Self {
            socket,
            first_heartbeat: String::new(),
            running: Running::Here { child, console },
            _place: Place::Here,
        };
        guest.first_heartbeat = guest.next_heartbeat()?;
        Ok(guest)
    }

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
                bail!("the guest ended; see target/trapline/demo")
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
