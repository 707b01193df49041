//! The two debug servers, each as a process of its own with the same guest on the same KVM.

use core::sync::atomic::{AtomicU32, Ordering};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use trapline_guests::Guest;
use trapline_test_machine::Environment;

use crate::client::Client;

/// Memory of every guest.
pub(crate) const GUEST_MIB: u64 = 64;

/// The firmware of QEMU's guest; see `asm/start.S`.
const FIRMWARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/start.bin"));
/// Where the entry and the number of vCPUs are filled in.
const ENTRY_OFFSET: usize = 0xffe0;
const VCPU_COUNT_OFFSET: usize = 0xffe4;

/// A process that ends with its owner.
#[derive(Debug)]
pub(crate) struct KillOnDrop(pub(crate) Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the programs are, and a directory for sockets.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) environment: Environment,
    pub(crate) directory: PathBuf,
}

/// Whose debug server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Trapline,
    Qemu,
}

/// A debug server with a guest held before its first instruction.
pub(crate) struct Server {
    process: KillOnDrop,
    pub(crate) socket: PathBuf,
    /// QEMU's monitor.
    pub(crate) monitor: PathBuf,
    pub(crate) elf: PathBuf,
}

impl Server {
    /// Starts a server.
    pub(crate) fn start(place: &Place, who: Who, guest: &Guest, vcpus: u32) -> Result<Self> {
        let name = match who {
            Who::Trapline => "trapline",
            Who::Qemu => "qemu",
        };
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let socket = place.directory.join(format!("{name}-{number}"));
        let elf = place.directory.join(format!("{}.elf", guest.name));
        fs::write(&elf, guest.elf)?;
        let mut command = match who {
            Who::Trapline => trapline(&elf, &socket, vcpus)?,
            Who::Qemu => qemu(place, guest, &elf, &socket, vcpus)?,
        };
        let monitor = socket.with_extension("qmp");
        if who == Who::Qemu {
            command.arg("-qmp");
            command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
        }
        let log = place.directory.join(format!("{name}-{number}.log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self {
            process: KillOnDrop(child),
            socket,
            monitor,
            elf,
        })
    }

    /// Connects the benchmark's own client.
    pub(crate) fn connect(&self) -> Result<Client> {
        Client::connect(&self.socket)
    }

    /// Returns the process's number.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.0.id()
    }
}

fn trapline(elf: &Path, socket: &Path, vcpus: u32) -> Result<Command> {
    let mut command = Command::new(Environment::program("trapline")?);
    command
        .args(["run", "--wait", "--console", "none"])
        .args(["--cmdline", "endless"])
        .arg("--kernel")
        .arg(elf)
        .arg(format!("--memory={GUEST_MIB}M"))
        .arg(format!("--cpus={vcpus}"))
        .arg(format!("--listen=unix:{}", socket.display()));
    Ok(command)
}

fn qemu(place: &Place, guest: &Guest, elf: &Path, socket: &Path, vcpus: u32) -> Result<Command> {
    let entry = guest.symbol("_start").context("the guest has no entry")?;
    let mut firmware = FIRMWARE.to_vec();
    for (offset, value) in [
        (ENTRY_OFFSET, u32::try_from(entry)?),
        (VCPU_COUNT_OFFSET, vcpus),
    ] {
        let field = firmware.get_mut(offset..offset + 4);
        field
            .context("the firmware is cut short")?
            .copy_from_slice(&value.to_le_bytes());
    }
    let firmware_path = place.directory.join(format!("start-{vcpus}.bin"));
    fs::write(&firmware_path, firmware)?;
    let mut command = Command::new(place.environment.qemu()?);
    command
        .args(["-accel", "kvm", "-machine", "pc", "-nodefaults", "-S"])
        .args(["-display", "none", "-m", &GUEST_MIB.to_string()])
        .args(["-smp", &vcpus.to_string(), "-bios"])
        .arg(&firmware_path)
        .args(["-device", &format!("loader,file={}", elf.display())])
        .arg("-chardev")
        .arg(format!(
            "socket,id=gdb,server=on,wait=off,path={}",
            socket.display()
        ))
        .args(["-gdb", "chardev:gdb"]);
    Ok(command)
}
