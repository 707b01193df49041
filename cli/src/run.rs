//! `trapline run`: a guest on KVM with the debug server beside it.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, bail};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use trapline_arch::{Architecture, FeatureSet, LayoutKind};
use trapline_darwin::DarwinGuest;
use trapline_engine::{
    Access, Command, Engine, GuestConfig, GuestEnd, GuestOs, Start, StopReason, Systems, VcpuId,
};
use trapline_kvm::{
    ARCHITECTURE, DEFAULT_KICK_SIGNAL, GuestRam, KvmReport, KvmVcpu, PoolConfig, Probe, VcpuPool,
};

use trapline_linux::LinuxGuest;
use trapline_server::{Exposure, Hub, ListenAddress, Server};
use trapline_vmm::{Console, EndedBy, Image, ImageKind, KernelFormat, Vm, VmConfig};

use crate::bus::Bus;

/// Guest-physical addresses below this are entered in real mode.
const REAL_MODE_END: u64 = 1 << 20;

/// Options of `trapline run`.
#[derive(Args, Debug)]
pub(crate) struct RunArguments {
    /// What to boot: on x86-64 a bzImage, an ELF image (PVH or plain 64-bit) or a Multiboot image, on
    /// AArch64 an Image or a plain ELF image, or with --flat anything
    #[arg(long, value_name = "IMAGE")]
    kernel: PathBuf,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// Take the image as plain code and copy it to this guest-physical address (on x86-64, below
    /// 1 MiB: real mode)
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    flat: Option<u64>,
    /// Number of vCPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Guest memory, such as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    memory: u64,
    /// Where to listen for debuggers: unix:PATH, tcp:HOST:PORT or serial:DEVICE (with @ and a rate if
    /// it is not 115200); may be given more than once [default: a Unix socket of this process's]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<ListenAddress>,
    /// The same, for clients that may look but not touch
    #[arg(long, value_name = "ADDRESS")]
    listen_read_only: Vec<ListenAddress>,
    /// Let --listen tcp:… use addresses that other machines can reach. Whoever reaches the port
    /// controls the guest
    #[arg(long)]
    allow_remote: bool,
    /// Hold every vCPU before its first instruction until a debugger resumes it
    #[arg(long)]
    wait: bool,
    /// Where the guest's serial console leads: stdio, pty, none, or file: and a path
    #[arg(long, value_name = "CONSOLE", default_value = "stdio", value_parser = parse_console)]
    console: Console,
    /// A disk image, as a virtio block device; may be given more than once
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// Which registers debuggers are shown at first
    #[arg(long, value_name = "LAYOUT", value_parser = parse_layout)]
    layout: Option<LayoutKind>,
}

/// Boots the guest and serves debuggers until it ends.
pub(crate) fn main(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let report = Probe::run();
    if let Some(problem) = report.problem() {
        bail!("{problem}");
    }
    let mut vm = Vm::new(&vm_config(arguments))?;
    let hub_slot: Arc<OnceLock<Arc<Hub>>> = Arc::default();
    let (pool, features) = start_pool(&mut vm, report, &hub_slot)?;
    let pool = Arc::new(pool);
    let hub = make_hub(arguments, &vm, &pool, features)?;
    let _ = hub_slot.set(Arc::clone(&hub));
    let mut server = Server::new(Arc::clone(&hub));
    listen(arguments, &mut server)?;
    if let Some(path) = vm.console_path() {
        eprintln!("trapline: the guest's console is {}", path.display());
    }
    watch_user(&vm, &hub)?;
    hub.start(if arguments.wait {
        Start::Held
    } else {
        Start::Running
    });
    trapline_kvm::wake_promptly();
    let end = server.run()?;
    let status = vm.end_events().end().and_then(|end| end.status);
    drop(pool);
    drop(vm);
    Ok(exit_code(end, status))
}

fn vm_config(arguments: &RunArguments) -> VmConfig {
    let mut config = VmConfig::new(Image::File(arguments.kernel.clone()));
    config.format = arguments
        .flat
        .map_or(KernelFormat::Detect, KernelFormat::Flat);
    config.initrd.clone_from(&arguments.initrd);
    config.cmdline.clone_from(&arguments.cmdline);
    config.vcpu_count = arguments.cpus;
    config.memory_bytes = arguments.memory;
    config.disks.clone_from(&arguments.disk);
    config.console.clone_from(&arguments.console);
    config
}

/// Makes a thread for each vCPU. Their stops go to the hub, which does not exist yet; none can
/// come before it has set a vCPU going.
fn start_pool(
    vm: &mut Vm,
    report: KvmReport,
    hub: &Arc<OnceLock<Arc<Hub>>>,
) -> anyhow::Result<(VcpuPool, FeatureSet)> {
    let memory = Arc::new(GuestRam::new(Arc::new(vm.memory().clone())));
    let fd = Arc::clone(vm.vm_fd());
    let mut vcpus = Vec::new();
    for (number, vcpu) in (0..).map(VcpuId).zip(vm.take_vcpus()) {
        vcpus.push(KvmVcpu::new(&fd, vcpu, number, memory.clone(), &report)?);
    }
    let features = vcpus.first().map_or(FeatureSet::empty(), KvmVcpu::features);
    let hub = Arc::clone(hub);
    let listener = move |vcpu: VcpuId, reason: StopReason| {
        if let Some(hub) = hub.get() {
            hub.vcpu_stopped(vcpu, reason);
        }
    };
    let config = PoolConfig {
        report,
        memory,
        bus: Arc::new(Bus::new(vm)),
        listener: Arc::new(listener),
        kick_signal: DEFAULT_KICK_SIGNAL,
    };
    Ok((VcpuPool::start(vcpus, config)?, features))
}

fn make_hub(
    arguments: &RunArguments,
    vm: &Vm,
    pool: &Arc<VcpuPool>,
    features: FeatureSet,
) -> anyhow::Result<Arc<Hub>> {
    let machine = pool.machine();
    let layout = arguments.layout.unwrap_or(match vm.image_kind() {
        ImageKind::Multiboot => LayoutKind::I386,
        ImageKind::Flat if begins_in_real_mode(arguments) => LayoutKind::I386,
        _ => ARCHITECTURE.native_layout(),
    });
    let config = GuestConfig {
        architecture: ARCHITECTURE,
        vcpu_count: arguments.cpus,
        features,
        layout,
        capabilities: *trapline_engine::Machine::capabilities(&machine),
    };
    let engine = Engine::new(config, Some(guest_os()));
    let pool = Arc::clone(pool);
    let execute = move |command: Command| match command {
        Command::Run(vcpu, request) => pool.run_here(vcpu, request),
        Command::Stop(vcpu) => {
            pool.stop(vcpu);
            None
        }
        Command::End(_) => None,
    };
    Hub::new(engine, Box::new(machine), execute).context("cannot start the debug server")
}

/// What the guest's memory is searched for.
fn guest_os() -> Box<dyn GuestOs> {
    let linux = Box::new(LinuxGuest::new(ARCHITECTURE));
    match ARCHITECTURE {
        Architecture::X86_64 => linux,
        Architecture::Aarch64 => Box::new(Systems::new(vec![Box::new(DarwinGuest::new()), linux])),
    }
}

/// Returns whether a flat image begins in the real mode of x86.
fn begins_in_real_mode(arguments: &RunArguments) -> bool {
    let is_low = arguments.flat.is_some_and(|start| start < REAL_MODE_END);
    is_low && ARCHITECTURE == Architecture::X86_64
}

/// Listens where the user said, or at a Unix socket of this process's, and says how to connect.
fn listen(arguments: &RunArguments, server: &mut Server) -> anyhow::Result<()> {
    let exposure = if arguments.allow_remote {
        Exposure::Anyone
    } else {
        Exposure::Loopback
    };
    let mut addresses = arguments.listen.clone();
    if addresses.is_empty() {
        addresses.push(ListenAddress::Unix(default_socket()?));
    }
    for address in &addresses {
        let bound = server
            .listen(address, Access::Full, exposure)
            .map_err(anyhow::Error::from)?;
        announce(&bound);
    }
    for address in &arguments.listen_read_only {
        let bound = server.listen(address, Access::ReadOnly, exposure)?;
        eprintln!("trapline: read-only clients at {bound}");
    }
    Ok(())
}

fn announce(address: &ListenAddress) {
    let target = match address {
        ListenAddress::Unix(path) => path.display().to_string(),
        ListenAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        ListenAddress::Tcp { host, port } => format!("{host}:{port}"),
        ListenAddress::Serial { .. } => {
            eprintln!("trapline: debuggers at {address}");
            return;
        }
    };
    eprintln!("trapline: debuggers at {address}   (gdb -ex 'target remote {target}')");
}

/// Returns the path of this process's own socket, in a folder that only this user can enter.
fn default_socket() -> anyhow::Result<PathBuf> {
    let folder = crate::runtime_folder();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("{}: cannot make the folder for sockets", folder.display()))?;
    let metadata = std::fs::symlink_metadata(&folder)?;
    let is_own = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_own || metadata.mode() & 0o077 != 0 {
        bail!(
            "{}: others can get at that folder, so no socket is made in it; choose a place with \
             --listen unix:PATH",
            folder.display()
        );
    }
    Ok(folder.join(format!("{}.sock", std::process::id())))
}

/// Has the guest torn down when its user says so at the console or by a signal.
fn watch_user(vm: &Vm, hub: &Arc<Hub>) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let by_signal = Arc::clone(hub);
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if signals.forever().next().is_some() {
                by_signal.end(GuestEnd::PowerOff);
            }
        })?;
    let (event, by_console) = (vm.end_events().clone(), Arc::clone(hub));
    std::thread::Builder::new()
        .name("console end".into())
        .spawn(move || {
            if event.wait().by == EndedBy::Console {
                by_console.end(GuestEnd::PowerOff);
            }
        })?;
    Ok(())
}

/// What the program's exit status says of the guest's end: the guest's own status if it gave one,
/// else 0 for an orderly end.
fn exit_code(end: GuestEnd, status: Option<u8>) -> ExitCode {
    if let Some(status) = status {
        return ExitCode::from(status);
    }
    match end {
        GuestEnd::PowerOff | GuestEnd::Reset => ExitCode::SUCCESS,
        GuestEnd::Killed => {
            eprintln!("trapline: {end}");
            ExitCode::SUCCESS
        }
        GuestEnd::TripleFault => {
            eprintln!("trapline: the guest ended in a triple fault");
            ExitCode::FAILURE
        }
        GuestEnd::EntryFailed(reason) => {
            eprintln!("trapline: KVM could not enter the guest (hardware reason {reason:#x})");
            ExitCode::FAILURE
        }
        GuestEnd::InternalError(code) => {
            eprintln!("trapline: KVM could not go on with the guest (error {code:#x})");
            ExitCode::FAILURE
        }
        _ => ExitCode::FAILURE,
    }
}

fn parse_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("'{text}' is no address, such as 0x7c00"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let message = || format!("'{text}' is no size, such as 512M or 2G");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (text.get(..text.len() - 1), 10),
        Some(b'M' | b'm') => (text.get(..text.len() - 1), 20),
        Some(b'G' | b'g') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    let number: u64 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(message)?;
    number.checked_mul(1 << shift).ok_or_else(message)
}

fn parse_console(text: &str) -> Result<Console, String> {
    match text {
        "stdio" => Ok(Console::Stdio),
        "pty" => Ok(Console::Pty),
        "none" => Ok(Console::None),
        _ => match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Console::File(path.into())),
            _ => Err(format!(
                "'{text}' is no console; write stdio, pty, file:PATH or none"
            )),
        },
    }
}

fn parse_layout(text: &str) -> Result<LayoutKind, String> {
    match text {
        "x86-64" => Ok(LayoutKind::X86_64),
        "i386" => Ok(LayoutKind::I386),
        "aarch64" => Ok(LayoutKind::Aarch64),
        _ => Err(format!(
            "'{text}' is no register layout; write x86-64, i386 or aarch64"
        )),
    }
}
