//! A running emulated machine.

use core::{net::Ipv4Addr, time::Duration};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::OpenOptionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

use tempfile::TempDir;

use crate::{
    Architecture, Environment, GuestImage, MachineError, Output, RemoteProcess, guest_initramfs,
    image::machine_initramfs,
    protocol::{AGENT_PORT, Frame, Kind, READY, receive, send, send_all},
    qemu::Qemu,
    qmp::Monitor,
};

/// How long a boot may take. It takes about three seconds where nothing else runs.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long the agent may take to answer a request that does not run anything.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// What a machine is made of.
#[derive(Clone, Debug)]
pub struct MachineOptions {
    /// Which processor.
    pub architecture: Architecture,
    /// Processors.
    pub cpus: u32,
    /// Memory in MiB. The files below take their size of it twice while it boots.
    pub memory_mib: u32,
    /// Files: path in the machine, file on this computer. Programs bring their libraries along.
    pub files: Vec<(String, PathBuf)>,
    /// Serial ports, by name: `/dev/virtio-ports/NAME` in the machine, [`Machine::serial_port`] here.
    pub serial_ports: Vec<String>,
    /// The directory of the programs built from this workspace; [`Environment::program`] finds them if there is
    /// none.
    pub programs: Option<PathBuf>,
}

impl Default for MachineOptions {
    /// Two processors of x86-64, 2 GiB of memory, nothing else.
    fn default() -> Self {
        Self {
            architecture: Architecture::X86_64,
            cpus: 2,
            memory_mib: 2048,
            files: Vec::new(),
            serial_ports: Vec::new(),
            programs: None,
        }
    }
}

impl MachineOptions {
    /// A machine of this architecture, else as by default.
    #[must_use]
    pub fn of(architecture: Architecture) -> Self {
        Self {
            architecture,
            ..Self::default()
        }
    }

    /// Takes the programs of this workspace from a directory, as in [`MachineOptions::programs`].
    #[must_use]
    pub fn programs(mut self, directory: &Path) -> Self {
        self.programs = Some(directory.to_owned());
        self
    }

    pub(crate) fn agent(&self) -> Result<PathBuf, MachineError> {
        const AGENT: &str = "trapline-machine-agent";
        match &self.programs {
            Some(directory) => Ok(directory.join(AGENT)),
            None => Environment::program_for(self.architecture, AGENT),
        }
    }

    /// Adds a file, as in [`MachineOptions::files`].
    #[must_use]
    pub fn file(mut self, path: &str, source: impl Into<PathBuf>) -> Self {
        self.files.push((path.to_owned(), source.into()));
        self
    }

    /// Adds a serial port, as in [`MachineOptions::serial_ports`].
    #[must_use]
    pub fn serial_port(mut self, name: &str) -> Self {
        self.serial_ports.push(name.to_owned());
        self
    }
}

/// A running emulated machine with a working `/dev/kvm`. Dropping it ends it.
///
/// It cannot reach this computer or any network; only what is forwarded gets in, from the loopback address
/// or from Unix sockets that only this user may open. It also ends when the process that booted it ends in
/// whatever way.
#[derive(Debug)]
pub struct Machine {
    // Dropped first, so that QEMU is gone before its directory is.
    qemu: Qemu,
    architecture: Architecture,
    monitor: Mutex<Monitor>,
    agent: Agent,
    directory: TempDir,
    _lease: TcpStream,
}

/// The way to the agent: a forwarded port and the token that it asks for.
#[derive(Clone, Debug)]
struct Agent {
    port: u16,
    token: String,
}

impl Machine {
    /// Boots a machine and waits until it takes commands.
    ///
    /// # Errors
    /// [`MachineError::NotSetUp`] and [`MachineError::NotBuilt`] when something is missing,
    /// [`MachineError::File`] for a file that cannot be read, [`MachineError::Ended`] and
    /// [`MachineError::TimedOut`] with its console when it does not come up.
    pub fn boot(environment: &Environment, options: &MachineOptions) -> Result<Self, MachineError> {
        let directory = tempfile::Builder::new()
            .prefix("trapline-machine-")
            .tempdir()?;
        let token = random_token()?;
        let image = machine_initramfs(environment, options, &token)?;
        write_private(&directory.path().join("initramfs"), &image)?;
        let qemu = Qemu::start(
            environment.qemu_for(options.architecture)?,
            environment.kernel_for(options.architecture)?,
            directory.path(),
            options,
        )?;
        if let Err(error) = qemu.wait_for_console(READY, BOOT_LIMIT) {
            return Err(with_log(error, &directory.path().join("qemu.log")));
        }
        // QEMU has read it by now. A process that is killed leaves its directory behind; let that be small.
        let image = directory.path().join("initramfs");
        fs::remove_file(&image).map_err(MachineError::file(image))?;
        let mut monitor = Monitor::connect(&directory.path().join("monitor"))?;
        let agent = Agent {
            port: monitor.forward(AGENT_PORT)?,
            token,
        };
        let lease = agent.request(Kind::Lease, "")?;
        accepted(&lease)?;
        Ok(Self {
            qemu,
            architecture: options.architecture,
            monitor: Mutex::new(monitor),
            agent,
            directory,
            _lease: lease,
        })
    }

    /// Puts the distribution's kernel and a guest's root file system, of the image's architecture, into the
    /// machine, at the yielded paths.
    ///
    /// # Errors
    /// Those of [`guest_initramfs`] and [`Machine::put_bytes`].
    pub fn put_guest(
        &self,
        environment: &Environment,
        image: &GuestImage,
    ) -> Result<(&'static str, &'static str), MachineError> {
        const PATHS: (&str, &str) = ("/guest/kernel", "/guest/initrd");
        self.run("mkdir -p /guest", REQUEST_LIMIT)?;
        let kernel = environment.kernel_for(image.architecture)?;
        self.put(kernel, PATHS.0, 0o644)?;
        self.put_bytes(&guest_initramfs(environment, image)?, PATHS.1, 0o644)?;
        Ok(PATHS)
    }

    /// Starts a command with `/bin/sh -c`.
    ///
    /// # Errors
    /// [`MachineError::Connection`].
    pub fn spawn(&self, command: &str) -> Result<RemoteProcess, MachineError> {
        RemoteProcess::new(self.agent.request(Kind::Run, command)?)
    }

    /// Runs a command with `/bin/sh -c` to its end. Its exit status is not looked at.
    ///
    /// # Errors
    /// Those of [`RemoteProcess::wait`].
    pub fn run(&self, command: &str, limit: Duration) -> Result<Output, MachineError> {
        let process = self.spawn(command)?;
        process.close_input()?;
        process.wait(limit)
    }

    /// Copies a file of this computer to `path` in the machine, with these permission bits.
    /// Libraries are not copied along; [`MachineOptions::files`] does that.
    ///
    /// # Errors
    /// [`MachineError::File`], [`MachineError::Refused`] and [`MachineError::Connection`].
    pub fn put(&self, source: &Path, path: &str, permissions: u32) -> Result<(), MachineError> {
        let file = File::open(source).map_err(MachineError::file(source))?;
        self.put_from(file, path, permissions)
    }

    /// Writes a file in the machine.
    ///
    /// # Errors
    /// [`MachineError::Refused`] and [`MachineError::Connection`].
    pub fn put_bytes(
        &self,
        bytes: &[u8],
        path: &str,
        permissions: u32,
    ) -> Result<(), MachineError> {
        self.put_from(bytes, path, permissions)
    }

    fn put_from(
        &self,
        source: impl Read,
        path: &str,
        permissions: u32,
    ) -> Result<(), MachineError> {
        let connection = self
            .agent
            .request(Kind::Put, &format!("{permissions:o} {path}"))?;
        let sent = send_all(source, &connection, Kind::Data)
            .and_then(|()| send(&connection, Kind::End, b""));
        // A refusal says more than the broken connection it leaves.
        accepted(&connection).and(Ok(sent?))
    }

    /// Reads a file in the machine.
    ///
    /// # Errors
    /// [`MachineError::Refused`] and [`MachineError::Connection`].
    pub fn get(&self, path: &str) -> Result<Vec<u8>, MachineError> {
        let connection = self.agent.request(Kind::Get, path)?;
        connection.set_read_timeout(Some(REQUEST_LIMIT))?;
        let mut content = Vec::new();
        loop {
            match receive(&connection)? {
                Some(Frame {
                    kind: Kind::Data,
                    payload,
                }) => content.extend_from_slice(&payload),
                Some(Frame {
                    kind: Kind::End, ..
                }) => return Ok(content),
                other => return Err(refusal(other)),
            }
        }
    }

    /// Forwards a port of this computer's loopback, which is yielded, to TCP port `guest_port` of the machine's
    /// address 10.0.2.15. What listens there must not be bound to the machine's own loopback only.
    ///
    /// # Errors
    /// [`MachineError::Monitor`].
    pub fn forward(&self, guest_port: u16) -> Result<u16, MachineError> {
        self.monitor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forward(guest_port)
    }

    /// Connects to a TCP port on the machine's own loopback.
    ///
    /// # Errors
    /// [`MachineError::Refused`] when nothing listens there, [`MachineError::Connection`].
    pub fn connect_tcp(&self, guest_port: u16) -> Result<TcpStream, MachineError> {
        self.agent.connect(&format!("tcp:{guest_port}"))
    }

    /// Connects to a Unix socket in the machine.
    ///
    /// # Errors
    /// [`MachineError::Refused`] when nothing listens there, [`MachineError::Connection`].
    pub fn connect_unix(&self, path: &str) -> Result<TcpStream, MachineError> {
        self.agent.connect(&format!("unix:{path}"))
    }

    /// Makes a Unix socket on this computer, in a directory of this user's only, each connection to which
    /// becomes one to `target`: `unix:PATH` in the machine, or `tcp:PORT` on its loopback. Yields its path.
    ///
    /// # Errors
    /// [`MachineError::Connection`] when the socket cannot be made.
    pub fn forward_socket(&self, target: &str) -> Result<PathBuf, MachineError> {
        let name: String = target
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let path = self.directory.path().join(name);
        let listener = UnixListener::bind(&path)?;
        let (agent, target) = (self.agent.clone(), target.to_owned());
        // Ends with the process; once the machine is gone each connection is closed at once.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (agent, target) = (agent.clone(), target.clone());
                thread::spawn(move || {
                    // To the client, a target that refuses is a connection that ends.
                    if let Ok(inner) = agent.connect(&target) {
                        let _ = join(&client, &inner);
                    }
                });
            }
        });
        Ok(path)
    }

    /// The Unix socket that is the other end of the serial port `name` of [`MachineOptions::serial_ports`].
    #[must_use]
    pub fn serial_port(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("port-{name}"))
    }

    /// Everything the machine's console has said.
    #[must_use]
    pub fn console_log(&self) -> String {
        self.qemu.console_log()
    }

    /// The architecture of its processors.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The process number of its QEMU, for measurements.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.qemu.process_id()
    }
}

impl Agent {
    fn request(&self, kind: Kind, payload: &str) -> Result<TcpStream, MachineError> {
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.set_nodelay(true)?;
        send(&connection, Kind::Hello, self.token.as_bytes())?;
        send(&connection, kind, payload.as_bytes())?;
        Ok(connection)
    }

    fn connect(&self, target: &str) -> Result<TcpStream, MachineError> {
        let connection = self.request(Kind::Connect, target)?;
        accepted(&connection)?;
        Ok(connection)
    }
}

/// Waits for the agent's word that a request is done.
fn accepted(connection: &TcpStream) -> Result<(), MachineError> {
    connection.set_read_timeout(Some(REQUEST_LIMIT))?;
    let answer = receive(connection)?;
    connection.set_read_timeout(None)?;
    match answer {
        Some(Frame {
            kind: Kind::Accepted,
            ..
        }) => Ok(()),
        other => Err(refusal(other)),
    }
}

fn refusal(answer: Option<Frame>) -> MachineError {
    MachineError::Refused(answer.map_or_else(|| "no answer".to_owned(), |frame| frame.text()))
}

/// Copies both ways until both are at their end.
fn join(outer: &UnixStream, inner: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*inner, &mut &*outer);
            let _ = outer.shutdown(Shutdown::Write);
        });
        let _ = io::copy(&mut &*outer, &mut &*inner);
        inner.shutdown(Shutdown::Write)
    })
}

fn random_token() -> Result<String, MachineError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(MachineError::file(source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only this user may read: it holds the token.
fn write_private(path: &Path, content: &[u8]) -> Result<(), MachineError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(MachineError::file(path))
}

/// Adds what QEMU itself complained of to a boot error.
fn with_log(error: MachineError, log: &Path) -> MachineError {
    let log = fs::read_to_string(log).unwrap_or_default();
    match error {
        MachineError::Ended { reason, console } if !log.is_empty() => MachineError::Ended {
            reason: format!("{reason}; QEMU said: {}", log.trim()),
            console,
        },
        other => other,
    }
}
