//! Guests under `trapline run`.

use core::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use trapline_guests::{Ending, Guest};
use trapline_test_machine::{Board, Environment, did_not_run};

use crate::{
    LIMIT, Place, Transcript,
    place::{PROGRAM_IN_MACHINE, program},
    process::{LocalProcess, Process},
};

/// What guests have unless a scenario says otherwise. The tiny ones use no more than 4 MiB.
const DEFAULTS: [(&str, &str); 2] = [("--console", "none"), ("--memory", "16M")];

/// What the hypervisor for EL2 says on the console when it takes debuggers and enters the guest.
const HYPERVISOR_IS_UP: &str = "the guest begins at 0x";

/// What a tiny guest says there when all was as it should be.
const PASSED_ON_A_BOARD: &str = "status 00";

/// What to boot.
#[derive(Clone, Debug)]
pub enum Image {
    /// A tiny guest.
    Tiny(&'static Guest),
    /// A kernel and an initial RAM disk, by their paths in the place where the guest runs.
    Files(String, String),
    /// A kernel's file on this computer, without an initial RAM disk.
    Kernel(PathBuf),
}

/// A guest to be.
#[derive(Clone, Debug)]
pub struct GuestBuilder {
    place: Place,
    transcript: Transcript,
    image: Image,
    cpus: u32,
    cmdline: String,
    runs_at_once: bool,
    more: Vec<String>,
    debug_uarts: Vec<String>,
    change_board: fn(&mut Board),
    change_bundle: fn(&mut Vec<u8>),
    pub(crate) qemu: Vec<String>,
}

/// A guest that runs. Dropping it ends it.
#[derive(Debug)]
pub struct RunningGuest {
    process: Process,
    image: Image,
    socket: PathBuf,
    extra_socket: PathBuf,
    directory: TempDir,
    place: Place,
    slide: u64,
}

impl GuestBuilder {
    /// A guest that is held before its first instruction, with one vCPU.
    #[must_use]
    pub fn new(place: Place, image: Image, transcript: Transcript) -> Self {
        Self {
            place,
            transcript,
            image,
            cpus: 1,
            cmdline: String::new(),
            runs_at_once: false,
            more: Vec::new(),
            debug_uarts: Vec::new(),
            change_board: |_| {},
            change_bundle: |_| {},
            qemu: Vec::new(),
        }
    }

    /// With this many vCPUs.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// With this kernel command line.
    #[must_use]
    pub fn cmdline(mut self, text: &str) -> Self {
        text.clone_into(&mut self.cmdline);
        self
    }

    /// Not held at the start.
    #[must_use]
    pub fn running(mut self) -> Self {
        self.runs_at_once = true;
        self
    }

    /// With more options of `trapline run`. On a board they say nothing.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.more
            .extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// On a board that is not as [`Board::new`] makes it. Elsewhere this says nothing.
    #[must_use]
    pub fn board(mut self, change: fn(&mut Board)) -> Self {
        self.change_board = change;
        self
    }

    /// On a board, with debuggers on both serial ports, of which the first is then no console but the socket of
    /// [`RunningGuest::second_socket`].
    #[must_use]
    pub fn two_links(mut self) -> Self {
        self.debug_uarts = ["uart0", "uart1"].map(str::to_owned).into();
        self.change_board = |board| board.has_console = false;
        self
    }

    /// With an image for a board that is not as `trapline bundle` makes it.
    #[must_use]
    pub fn bundle_bytes(mut self, change: fn(&mut Vec<u8>)) -> Self {
        self.change_bundle = change;
        self
    }

    /// Starts it and waits until it takes debuggers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(self) -> Result<RunningGuest> {
        match self.place {
            Place::Host | Place::Machine(_) => self.start_under_kvm(),
            Place::Board => self.start_on_board(),
        }
    }

    fn start_under_kvm(self) -> Result<RunningGuest> {
        let directory = tempfile::tempdir()?;
        let (kernel, initrd) = self.put_image(directory.path())?;
        let (socket, extra) = self.socket_names(directory.path());
        let mut arguments = vec!["run".to_owned(), "--kernel".to_owned(), kernel];
        if let Some(initrd) = initrd {
            arguments.extend(["--initrd".to_owned(), initrd]);
        }
        if !self.cmdline.is_empty() {
            arguments.extend(["--cmdline".to_owned(), self.cmdline.clone()]);
        }
        if !self.runs_at_once {
            arguments.push("--wait".to_owned());
        }
        for (option, value) in DEFAULTS {
            if !self.more.iter().any(|given| given == option) {
                arguments.extend([option, value].map(str::to_owned));
            }
        }
        arguments.extend(["--cpus".to_owned(), self.cpus.to_string()]);
        arguments.extend(["--listen".to_owned(), format!("unix:{socket}")]);
        arguments.extend(["--listen-read-only".to_owned(), format!("unix:{extra}")]);
        arguments.extend(self.more.iter().cloned());
        let process = self.spawn(&arguments)?;
        process.expect("read-only clients at", LIMIT)?;
        let (socket, extra_socket) = match self.place.remote() {
            None => (PathBuf::from(socket), PathBuf::from(extra)),
            Some(machine) => (
                machine.forward_socket(&format!("unix:{socket}"))?,
                machine.forward_socket(&format!("unix:{extra}"))?,
            ),
        };
        Ok(RunningGuest {
            process,
            image: self.image,
            socket,
            extra_socket,
            directory,
            place: self.place,
            slide: 0,
        })
    }

    /// Starts it and waits until its console says `text`, for `limit` at most.
    ///
    /// A stock kernel's boot fails now and then in an emulated machine, with no debugger there: of some
    /// fifty, one hung. There it is booted once more, which is told in the list of what did not run. On
    /// hardware the first failure counts.
    ///
    /// # Errors
    /// When it does not start, or does not say it.
    pub fn start_until(self, text: &str, limit: Duration) -> Result<RunningGuest> {
        let again = self.place.remote().is_some().then(|| self.clone());
        match (self.try_until(text, limit), again) {
            (Err(error), Some(again)) => {
                let error = error.to_string();
                let why = error.lines().next().unwrap_or_default();
                did_not_run(
                    "the first boot of a stock kernel, which was booted again",
                    why,
                );
                again.try_until(text, limit)
            }
            (result, _) => result,
        }
    }

    fn try_until(self, text: &str, limit: Duration) -> Result<RunningGuest> {
        let guest = self.start()?;
        guest.expect(text, limit)?;
        Ok(guest)
    }

    /// Puts the image where `trapline` finds it. Yields the paths of kernel and RAM disk there.
    fn put_image(&self, directory: &Path) -> Result<(String, Option<String>)> {
        match (&self.image, self.place.remote()) {
            (Image::Files(kernel, initrd), _) => Ok((kernel.clone(), Some(initrd.clone()))),
            (Image::Kernel(kernel), None) => Ok((kernel.display().to_string(), None)),
            (Image::Kernel(kernel), Some(machine)) => {
                let path = "/tmp/kernel".to_owned();
                machine.put_bytes(&fs::read(kernel)?, &path, 0o644)?;
                Ok((path, None))
            }
            (Image::Tiny(guest), None) => {
                let path = image_path(directory, guest);
                fs::write(&path, guest.elf)?;
                if !matches!(self.place, Place::Board) {
                    return Ok((path.display().to_string(), None));
                }
                let path = path.with_extension("image");
                fs::write(&path, guest.flat().context("a guest without a segment")?)?;
                Ok((path.display().to_string(), None))
            }
            (Image::Tiny(guest), Some(machine)) => {
                // The debugger runs here and wants the file, too.
                fs::write(image_path(directory, guest), guest.elf)?;
                let path = format!("/tmp/{}.elf", guest.name);
                machine.put_bytes(guest.elf, &path, 0o644)?;
                Ok((path, None))
            }
        }
    }

    /// Puts hypervisor and guest into one image and starts that where firmware would.
    fn start_on_board(self) -> Result<RunningGuest> {
        let mut guest = self.switch_on()?;
        guest.process.expect(HYPERVISOR_IS_UP, LIMIT)?;
        guest.process.expect("\n", LIMIT)?;
        if let Image::Tiny(image) = &guest.image {
            guest.slide = slide(image, &guest.process.text())?;
        }
        Ok(guest)
    }

    /// Starts a board and waits for nothing.
    ///
    /// # Errors
    /// When it does not start.
    pub fn switch_on(self) -> Result<RunningGuest> {
        let directory = tempfile::tempdir()?;
        let bundle = directory.path().join("bundle");
        self.bundle(directory.path(), &bundle)?;
        let mut bytes = fs::read(&bundle)?;
        (self.change_bundle)(&mut bytes);
        fs::write(&bundle, bytes)?;
        let mut board = Board::new(bundle);
        board.cpus = self.cpus;
        board.more.clone_from(&self.qemu);
        (self.change_board)(&mut board);
        let mut command = board.command(&Environment::load(), directory.path())?;
        let process = LocalProcess::start(&mut command, &self.transcript, "board")?;
        Ok(RunningGuest {
            process: Process::Local(process),
            image: self.image,
            socket: directory.path().join(Board::DEBUG_SOCKET),
            extra_socket: directory.path().join(Board::CONSOLE_SOCKET),
            directory,
            place: self.place,
            slide: 0,
        })
    }

    fn bundle(&self, directory: &Path, bundle: &Path) -> Result<()> {
        let (kernel, initrd) = self.put_image(directory)?;
        let mut command = Command::new(program()?);
        command.arg("bundle").arg("--hypervisor");
        command.arg(Environment::el2_image()?);
        command.args(["--kernel", &kernel]);
        if let Some(initrd) = &initrd {
            command.args(["--initrd", initrd]);
        }
        if !self.cmdline.is_empty() {
            command.args(["--append", &self.cmdline]);
        }
        if !self.runs_at_once {
            command.arg("--wait");
        }
        for uart in &self.debug_uarts {
            command.args(["--debug-uart", uart]);
        }
        command.arg("-o").arg(bundle);
        let mut process = LocalProcess::start(&mut command, &self.transcript, "bundle")?;
        let status = process.wait(LIMIT)?;
        ensure!(status == 0, "trapline bundle: {}", process.text());
        Ok(())
    }

    fn socket_names(&self, directory: &Path) -> (String, String) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        match self.place.remote() {
            None => (
                directory.join("debug").display().to_string(),
                directory.join("look").display().to_string(),
            ),
            Some(_) => (
                format!("/tmp/debug-{number}"),
                format!("/tmp/look-{number}"),
            ),
        }
    }

    fn spawn(&self, arguments: &[String]) -> Result<Process> {
        match self.place.remote() {
            None => {
                let mut command = Command::new(program()?);
                command.args(arguments);
                LocalProcess::start(&mut command, &self.transcript, "trapline").map(Process::Local)
            }
            Some(machine) => {
                let mut line = format!("exec {PROGRAM_IN_MACHINE}");
                for argument in arguments {
                    line.push_str(&format!(" '{argument}'"));
                }
                self.transcript.say("machine", &line);
                Ok(Process::Remote(machine.spawn(&line)?))
            }
        }
    }
}

impl RunningGuest {
    /// The Unix socket of the server, on this computer.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The Unix socket for clients that may only look, on this computer.
    #[must_use]
    pub fn read_only_socket(&self) -> &Path {
        &self.extra_socket
    }

    /// The Unix socket of a board's other serial port, where [`GuestBuilder::two_links`] was asked for.
    #[must_use]
    pub fn second_socket(&self) -> &Path {
        &self.extra_socket
    }

    /// Says where a guest that has no console to say it on lies: where its first instruction is.
    ///
    /// # Errors
    /// When it is no tiny guest.
    pub fn starts_at(&mut self, pc: u64) -> Result<()> {
        let start = self.guest()?.symbol("_start");
        let start = start.context("a guest without a start")?;
        self.slide = pc.wrapping_sub(start);
        Ok(())
    }

    /// Where it runs.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The tiny guest's image on this computer, for the debugger's symbols.
    ///
    /// # Errors
    /// When it is no tiny guest.
    pub fn image_path(&self) -> Result<PathBuf> {
        Ok(image_path(self.directory.path(), self.guest()?))
    }

    /// The address of a label of the tiny guest.
    ///
    /// # Errors
    /// When there is no such label.
    pub fn symbol(&self, name: &str) -> Result<u64> {
        let guest = self.guest()?;
        let address = guest
            .symbol(name)
            .with_context(|| format!("the guest {} has no label {name}", guest.name))?;
        Ok(address.wrapping_add(self.slide))
    }

    /// How far behind the place that it was linked for the tiny guest lies.
    #[must_use]
    pub fn slide(&self) -> u64 {
        self.slide
    }

    fn guest(&self) -> Result<&'static Guest> {
        match &self.image {
            Image::Tiny(guest) => Ok(guest),
            Image::Files(..) | Image::Kernel(_) => bail!("not a tiny guest"),
        }
    }

    /// Waits until `trapline` prints `text` after this call.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn expect_anew(&self, text: &str, limit: Duration) -> Result<()> {
        self.process.skip_output();
        self.process.expect(text, limit)
    }

    /// Waits until `trapline` has printed `text`, after what an earlier call found.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub fn expect(&self, text: &str, limit: Duration) -> Result<()> {
        self.process.expect(text, limit)
    }

    /// Everything that `trapline` has printed.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.text()
    }

    /// Waits for the end of `trapline`; yields its exit status.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait(&mut self) -> Result<i32> {
        self.process
            .wait(LIMIT)
            .with_context(|| format!("trapline said: {}", self.process.text()))
    }

    /// Waits for the guest's end, and requires that its checks of itself have passed.
    ///
    /// # Errors
    /// When they have not, or the guest does not end.
    pub fn expect_passed(&mut self) -> Result<()> {
        let status = self.wait()?;
        ensure!(
            status == 0,
            "the guest's own checks failed: status {status}; trapline said: {}",
            self.process.text()
        );
        // A board has no exit status: there the guest says it on the console.
        let has_said = self.process.text().contains(PASSED_ON_A_BOARD);
        let must_say = matches!(self.place, Place::Board) && self.guest()?.ending == Ending::Passed;
        ensure!(
            has_said || !must_say,
            "the guest's own checks failed: {}",
            self.process.text()
        );
        Ok(())
    }

    /// Asks `trapline` to end, by the signal that a user's `kill` sends.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> Result<()> {
        self.process.terminate()
    }
}

/// How far behind the place that it was linked for a guest lies, by what the hypervisor has said.
fn slide(guest: &Guest, console: &str) -> Result<u64> {
    let (_, address) = console.split_once(HYPERVISOR_IS_UP).unwrap_or_default();
    let digits = address.split(|c: char| !c.is_ascii_hexdigit()).next();
    let address = u64::from_str_radix(digits.unwrap_or_default(), 16)?;
    let linked = guest.symbol("_start").context("a guest without a start")?;
    Ok(address.wrapping_sub(linked))
}

fn image_path(directory: &Path, guest: &Guest) -> PathBuf {
    directory.join(guest.name).with_extension("elf")
}
