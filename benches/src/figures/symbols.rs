//! Memory that Trapline keeps beside a stock kernel's once it has found and served its symbols.

use core::fmt::Write as _;
use core::time::Duration;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use trapline_test_machine::{
    Environment, GuestImage, HostKvm, Machine, MachineOptions, RemoteProcess, guest_initramfs,
};

use super::{Bench, resident};
use crate::client::Client;
use crate::report::{Bar, Figure};
use crate::servers::KillOnDrop;

/// How long the stock kernel may take to boot, where it is emulated twice over.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// How long a command in the machine may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// What the guest says when it is up.
const UP: &str = "trapline-guest: up";
/// Memory of the guest.
const GUEST_MIB: u64 = 256;
/// Data of one request for a part of the symbol file.
const PART_BYTES: usize = 0x1_0000;
const SOCKET: &str = "/debug.sock";

pub(super) fn measure_all(bench: &Bench) -> Result<Figure> {
    let guest = if HostKvm::probe().runs_stock_kernel() {
        StockGuest::here(bench)?
    } else {
        StockGuest::in_machine(bench)?
    };
    let mut client = Client::connect(&guest.socket)?;
    client.ask("?")?;
    let before = guest.smaps()?;
    let file_bytes = read_symbol_file(&mut client)?;
    let after = guest.smaps()?;
    let [before, after] = [before, after].map(|smaps| resident::summary_of(&smaps, GUEST_MIB));
    Ok(
        Figure::new("resident memory, stock kernel with its symbols", "MiB")
            .value("trapline, client connected", before)
            .value("trapline, symbols served", after)
            .check("trapline", after, Bar::AtMost(resident::BAR_MIB))
            .note(resident::NOTE)
            .note(format!("the symbol file has {file_bytes} bytes"))
            .note(guest.place()),
    )
}

/// Does what GDB does to get the kernel's symbols, and returns the size of the file.
fn read_symbol_file(client: &mut Client) -> Result<usize> {
    let name = client.ask("qXfer:exec-file:read::0,1000")?;
    let Some(name) = name.strip_prefix('l').filter(|name| !name.is_empty()) else {
        bail!("the server offers no symbol file but {name:?}");
    };
    let mut path = String::new();
    for byte in name.bytes() {
        write!(path, "{byte:02x}")?;
    }
    let opened = client.ask(&format!("vFile:open:{path},0,0"))?;
    let Some(descriptor) = opened.strip_prefix('F').filter(|n| !n.starts_with('-')) else {
        bail!("the symbol file cannot be opened: {opened}");
    };
    let descriptor = descriptor.to_owned();
    let mut offset = 0;
    loop {
        let part = client.ask(&format!(
            "vFile:pread:{descriptor},{PART_BYTES:x},{offset:x}"
        ))?;
        let len = part
            .strip_prefix('F')
            .and_then(|part| part.split(';').next());
        let len = len.and_then(|len| usize::from_str_radix(len, 16).ok());
        match len.context("the symbol file cannot be read")? {
            0 => break,
            len => offset += len,
        }
    }
    ensure!(
        client
            .ask(&format!("vFile:close:{descriptor}"))?
            .starts_with('F')
    );
    Ok(offset)
}

/// A stock kernel under `trapline run`, here or in an emulated machine.
struct StockGuest {
    socket: PathBuf,
    process: Process,
}

enum Process {
    Here(KillOnDrop),
    InMachine {
        // Dropped before the machine that it runs in.
        _trapline: RemoteProcess,
        machine: Machine,
    },
}

impl StockGuest {
    fn here(bench: &Bench) -> Result<Self> {
        let environment = &bench.place.environment;
        let directory = &bench.place.directory;
        let (initrd, console, socket) = (
            directory.join("initrd"),
            directory.join("console"),
            directory.join("stock"),
        );
        fs::write(
            &initrd,
            guest_initramfs(environment, &GuestImage::default())?,
        )?;
        let child = Command::new(Environment::program("trapline")?)
            .arg("run")
            .arg("--kernel")
            .arg(environment.kernel()?)
            .arg("--initrd")
            .arg(&initrd)
            .arg(format!("--memory={GUEST_MIB}M"))
            .arg(format!("--console=file:{}", console.display()))
            .arg(format!("--listen=unix:{}", socket.display()))
            .stdin(Stdio::null())
            .stderr(File::create(directory.join("stock.log"))?)
            .spawn()?;
        let process = Process::Here(KillOnDrop(child));
        let deadline = Instant::now() + BOOT_LIMIT;
        while !fs::read_to_string(&console)
            .unwrap_or_default()
            .contains(UP)
        {
            ensure!(
                Instant::now() < deadline,
                "the stock kernel does not come up"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { socket, process })
    }

    fn in_machine(bench: &Bench) -> Result<Self> {
        let options =
            MachineOptions::default().file("/trapline/trapline", Environment::program("trapline")?);
        let machine = Machine::boot(&bench.place.environment, &options)?;
        let (kernel, initrd) =
            machine.put_guest(&bench.place.environment, &GuestImage::default())?;
        let trapline = machine.spawn(&format!(
            "exec /trapline/trapline run --kernel {kernel} --initrd {initrd} \
             --memory {GUEST_MIB}M --console stdio --listen unix:{SOCKET}"
        ))?;
        trapline.expect(UP, BOOT_LIMIT)?;
        let socket = machine.forward_socket(&format!("unix:{SOCKET}"))?;
        Ok(Self {
            socket,
            process: Process::InMachine {
                _trapline: trapline,
                machine,
            },
        })
    }

    fn smaps(&self) -> Result<String> {
        match &self.process {
            Process::Here(process) => {
                let path = format!("/proc/{}/smaps", process.0.id());
                fs::read_to_string(&path).context(path)
            }
            Process::InMachine { machine, .. } => {
                let output = machine.run("cat /proc/$(pidof trapline)/smaps", COMMAND_LIMIT)?;
                Ok(output.text())
            }
        }
    }

    fn place(&self) -> &'static str {
        match self.process {
            Process::Here(_) => "on this computer's own KVM",
            Process::InMachine { .. } => {
                "in an emulated machine: this computer's KVM runs no stock kernel"
            }
        }
    }
}
