//! An emulated Arm computer with a guest, with the hypervisor below the guest or without.

use core::time::Duration;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use trapline_guests::Guest;
use trapline_test_machine::{Board, Environment, StartLevel};

use super::Bench;
use crate::client::Client;
use crate::servers::KillOnDrop;

/// How long anything on a console may take, on a computer that has others to serve as well.
const LIMIT: Duration = Duration::from_secs(300);
/// What the stock guest's first process says first.
const INIT: &str = "trapline-bench: init";
/// What it says when it takes commands.
const READY: &str = "trapline-bench: ready";
/// What the hypervisor says when it takes debuggers and enters the guest.
const GUEST_BEGINS: &str = "the guest begins at";
/// How many lines of a console an error repeats.
const SHOWN_LINES: usize = 12;

/// What the stock guest's kernel is told.
const COMMAND_LINE: &str = "console=ttyAMA0 panic=-1 rdinit=/bench/init";
/// What it is told besides where it is started at EL2: to go down to EL1 and to stay there (Linux, "The kernel's
/// command-line parameters": `kvm-arm.mode`; the first is what `kvm-arm.mode=nvhe` stands for).
const STAY_AT_EL1: &str = "id_aa64mmfr1.vh=0 kvm-arm.mode=none";

/// What is below the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// Trapline's hypervisor.
    Hypervisor,
    /// Nothing, on processors that have EL2.
    Nothing,
    /// Nothing, on processors that have no EL2.
    NoEl2,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Contents {
    /// The distribution's kernel with the first process of `init.sh`.
    Stock,
    /// A tiny guest that runs for ever, held before its first instruction.
    Tiny(&'static Guest),
}

/// A computer that is on. Dropping it switches it off.
pub(super) struct Computer {
    process: KillOnDrop,
    /// When it was switched on.
    pub(super) start: Instant,
    input: ChildStdin,
    lines: Receiver<Line>,
    last: VecDeque<String>,
    directory: PathBuf,
    below: Below,
    /// The virtual counter when the stock guest's first process ran, in nanoseconds.
    pub(super) boot_ns: f64,
}

struct Line {
    at: Instant,
    text: String,
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent {
    /// By the clock, in seconds.
    pub(super) seconds: f64,
    /// Of processors, by QEMU, in seconds.
    pub(super) processor_seconds: f64,
    /// By the virtual counter of the guest, in nanoseconds: instructions where the clock goes by them.
    pub(super) counter_ns: f64,
    /// Interrupts that the guest counted.
    pub(super) interrupts: f64,
}

impl Computer {
    /// Switches a computer on.
    pub(super) fn start(
        bench: &Bench,
        below: Below,
        contents: Contents,
        cpus: u32,
    ) -> Result<Self> {
        Self::start_changed(bench, below, contents, |board| board.cpus = cpus)
    }

    /// Switches a computer on that is not as [`Board::new`] makes it.
    fn start_changed(
        bench: &Bench,
        below: Below,
        contents: Contents,
        change: impl FnOnce(&mut Board),
    ) -> Result<Self> {
        let number = bench.computers.get();
        bench.computers.set(number + 1);
        let directory = bench.directory.join(format!("board-{number}"));
        fs::create_dir(&directory)?;
        let mut command = command(bench, &directory, below, contents, change)?;
        let start = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(directory.join("qemu.log"))?)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let input = child.stdin.take().context("QEMU has no input")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || read_lines(output, &sender));
        Ok(Self {
            process: KillOnDrop(child),
            start,
            input,
            lines,
            last: VecDeque::new(),
            directory,
            below,
            boot_ns: 0.0,
        })
    }

    /// Switches a computer with a stock kernel on and waits until it takes commands.
    pub(super) fn start_stock(bench: &Bench, below: Below, cpus: u32) -> Result<Self> {
        let mut computer = Self::start(bench, below, Contents::Stock, cpus)?;
        computer.expect(READY)?;
        Ok(computer)
    }

    /// Does the same on a computer whose clocks go by instructions.
    pub(super) fn start_counting(bench: &Bench, below: Below, cpus: u32) -> Result<Self> {
        let mut computer = Self::start_changed(bench, below, Contents::Stock, |board| {
            board.cpus = cpus;
            board.counts_instructions = true;
        })?;
        let (_, line) = computer.expect(" ns since the start")?;
        computer.boot_ns = number_before(&line, " ns since")?;
        computer.expect(READY)?;
        Ok(computer)
    }

    /// Waits until the stock guest's first process runs. Yields how long that took from the start on.
    pub(super) fn boot(mut self) -> Result<Spent> {
        let (at, _) = self.expect(INIT)?;
        Ok(Spent {
            seconds: (at - self.start).as_secs_f64(),
            processor_seconds: self.processor_seconds()?,
            ..Spent::default()
        })
    }

    /// Waits until a line on the console holds `text`. Yields when that was, and the line.
    pub(super) fn expect(&mut self, text: &str) -> Result<(Instant, String)> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let log = fs::read_to_string(self.directory.join("qemu.log")).unwrap_or_default();
                let last: Vec<_> = self.last.iter().map(String::as_str).collect();
                bail!(
                    "the console does not say {text:?}; it said last:\n{}\n{log}",
                    last.join("\n")
                );
            };
            if line.text.contains(text) {
                return Ok((line.at, line.text));
            }
            self.last.push_back(line.text);
            if self.last.len() > SHOWN_LINES {
                self.last.pop_front();
            }
        }
    }

    /// Has the stock guest do a piece of work.
    pub(super) fn work(&mut self, command: &str) -> Result<Spent> {
        writeln!(self.input, "{command}")?;
        let (begin, _) = self.expect("trapline-bench: begin")?;
        let before = self.processor_seconds()?;
        let (end, _) = self.expect("trapline-bench: end")?;
        let after = self.processor_seconds()?;
        let (_, line) = self.expect(" by the counter")?;
        ensure!(line.ends_with(" status 0"), "{command} fails: {line}");
        Ok(Spent {
            seconds: (end - begin).as_secs_f64(),
            processor_seconds: after - before,
            counter_ns: number_before(&line, " ns by")?,
            interrupts: number_before(&line, " interrupts")?,
        })
    }

    /// Waits until the guest begins, or is held, and connects to the debug server: the hypervisor's, or QEMU's
    /// stub where there is no hypervisor.
    pub(super) fn connect_to_held(&mut self) -> Result<Client> {
        if self.below == Below::Hypervisor {
            self.expect(GUEST_BEGINS)?;
        }
        self.connect()
    }

    /// Connects to the debug server of a computer whose guest runs.
    pub(super) fn connect(&self) -> Result<Client> {
        let mut client = Client::connect(&debug_socket(&self.directory, self.below))?;
        client.ask("?")?;
        Ok(client)
    }

    /// Processor time of all of QEMU's threads up to now.
    fn processor_seconds(&self) -> Result<f64> {
        let mut nanoseconds = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.process.0.id()))? {
            // A thread may end meanwhile; those of processors do not.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let first = text.split(' ').next().unwrap_or_default();
            nanoseconds += first.parse().unwrap_or(0.0);
        }
        ensure!(
            nanoseconds > 0.0,
            "this kernel keeps no schedstat of threads"
        );
        Ok(nanoseconds / 1e9)
    }
}

fn read_lines(output: ChildStdout, lines: &Sender<Line>) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    while matches!(output.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
        let line = Line {
            at: Instant::now(),
            text: String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        };
        if lines.send(line).is_err() {
            return;
        }
        bytes.clear();
    }
}

/// Returns the number before `text` in a line.
pub(super) fn number_before(line: &str, text: &str) -> Result<f64> {
    line.split(text)
        .next()
        .and_then(|before| before.split(' ').next_back())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no number before {text:?} in {line:?}"))
}

fn debug_socket(directory: &Path, below: Below) -> PathBuf {
    match below {
        Below::Hypervisor => directory.join(Board::DEBUG_SOCKET),
        Below::Nothing | Below::NoEl2 => directory.join("stub"),
    }
}

/// QEMU's command. All kinds of computer have the same options but for EL2 and for what is started.
fn command(
    bench: &Bench,
    directory: &Path,
    below: Below,
    contents: Contents,
    change: impl FnOnce(&mut Board),
) -> Result<Command> {
    let (kernel, initrd, mut command_line) = match contents {
        Contents::Stock => (
            bench.environment.kernel_arm64()?.to_owned(),
            Some(bench.initrd.as_path()),
            COMMAND_LINE.to_owned(),
        ),
        Contents::Tiny(guest) => {
            let path = directory.join(guest.name);
            fs::write(&path, guest.flat().context("the guest is not an image")?)?;
            (path, None, "endless".to_owned())
        }
    };
    let is_held = matches!(contents, Contents::Tiny(_));
    if below == Below::Hypervisor {
        let mut board = Board::new(directory.join("bundle"));
        change(&mut board);
        bundle(&board.image, &kernel, initrd, &command_line, is_held)?;
        return Ok(board.command(&bench.environment, directory)?);
    }
    let mut board = Board::new(kernel);
    change(&mut board);
    board.initrd = initrd.map(Path::to_owned);
    if below == Below::NoEl2 {
        board.level = StartLevel::El1;
    } else {
        command_line = format!("{command_line} {STAY_AT_EL1}");
    }
    board.command_line = command_line;
    let mut command = board.command(&bench.environment, directory)?;
    let socket = debug_socket(directory, below);
    let socket = socket.display();
    command
        .arg("-chardev")
        .arg(format!("socket,id=stub,server=on,wait=off,path={socket}"))
        .args(["-gdb", "chardev:stub"]);
    if is_held {
        command.arg("-S");
    }
    Ok(command)
}

/// Puts the hypervisor and a guest into one image, `to`.
fn bundle(
    to: &Path,
    kernel: &Path,
    initrd: Option<&Path>,
    command_line: &str,
    is_held: bool,
) -> Result<()> {
    let mut command = Command::new(Environment::program("trapline")?);
    command.arg("bundle").arg("--hypervisor");
    command.arg(Environment::el2_image()?);
    command.arg("--kernel").arg(kernel);
    command.args(["--append", command_line]);
    if let Some(initrd) = initrd {
        command.arg("--initrd").arg(initrd);
    }
    if is_held {
        command.arg("--wait");
    }
    let output = command.arg("-o").arg(to).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_lines() {
        let line = "trapline: EL2, 4 processors, 512 MiB, 3976 KiB of it the hypervisor's";
        assert!((number_before(line, " KiB of it").unwrap() - 3976.0).abs() < 0.1);
        assert!(number_before(line, " MB").is_err());
    }
}
