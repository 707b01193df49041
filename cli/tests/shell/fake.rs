//! A server in this process, whose guest is 64 KiB of memory and two vCPUs that execute nothing but
//! one-byte instructions, in real mode.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;
use trapline_arch::x86_64::registers::RIP;
use trapline_arch::{
    Architecture, FeatureSet, Gpa, Gva, LayoutKind, PhysicalMemory, RegisterFile, RegisterGroup,
};
use trapline_engine::{
    Access, AccessError, Capabilities, Command, Engine, FindProgress, GuestConfig, GuestEnd,
    GuestMemory, GuestOs, Machine, MemoryKind, MemoryRegion, PowerState, ResumeAction, Start,
    StepMethod, StopReason, SymbolAt, VcpuId, VirtualView,
};
use trapline_server::{Exposure, Hub, ListenAddress, Server};

use crate::elf;

/// How long the guest may take to do what is expected of it.
const PATIENCE: Duration = Duration::from_secs(20);

const MEMORY_BYTES: usize = 0x1_0000;
const VCPU_COUNT: u32 = 2;

/// What the memory is full of.
const NOP: u8 = 0x90;

/// Where the guest's two functions are.
pub(crate) const SYMBOLS: [(&str, u64); 2] = [("kernel_main", 0x1000), ("kernel_idle", 0x1100)];

/// What the guest's kernel is called.
pub(crate) const SYSTEM: &str = "Fakix 1.0";

/// A server with its guest. It ends with the test.
pub(crate) struct Fake {
    hub: Arc<Hub>,
    stops: Sender<(VcpuId, StopReason)>,
    state: Arc<Mutex<State>>,
    memory: Arc<FakeMemory>,
    is_found: Arc<AtomicBool>,
    folder: TempDir,
}

/// What is known of the guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Known,
    Unknown,
    /// It is looked for until [`Fake::let_kernel_be_found`].
    Late,
}

struct State {
    vcpus: Vec<RegisterFile>,
    running: Vec<VcpuId>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::with(Kernel::Known, Access::Full)
    }

    pub(crate) fn with(kernel: Kernel, access: Access) -> Self {
        Self::serve(kernel, access, None)
    }

    /// Serves a serial line too.
    pub(crate) fn on_line(device: PathBuf) -> Self {
        let line = ListenAddress::Serial {
            path: device,
            baud: 115_200,
        };
        Self::serve(Kernel::Known, Access::Full, Some(&line))
    }

    fn serve(kernel: Kernel, access: Access, line: Option<&ListenAddress>) -> Self {
        let architecture = Architecture::X86_64;
        let mut file = architecture.new_register_file();
        file.set_u64(RIP, 0x1000);
        let state = Arc::new(Mutex::new(State {
            vcpus: vec![file; VCPU_COUNT as usize],
            running: Vec::new(),
        }));
        let machine = FakeMachine::new(&state);
        let memory = Arc::clone(&machine.memory);
        let config = GuestConfig {
            architecture,
            vcpu_count: VCPU_COUNT,
            features: FeatureSet::empty(),
            layout: LayoutKind::I386,
            capabilities: machine.capabilities,
        };
        let is_found = Arc::new(AtomicBool::new(kernel == Kernel::Known));
        let os = FakeOs {
            kernel,
            is_found: Arc::clone(&is_found),
        };
        let engine = Engine::new(config, Some(Box::new(os)));
        let (stops, answers) = channel();
        let (by_engine, executing) = (stops.clone(), Arc::clone(&state));
        let execute = move |command| executing.lock().unwrap().execute(command, &by_engine);
        let hub = Hub::new(engine, Box::new(machine), execute).unwrap();
        let vcpus = Arc::clone(&hub);
        thread::spawn(move || {
            for (vcpu, reason) in answers {
                vcpus.vcpu_stopped(vcpu, reason);
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::new(Arc::clone(&hub));
        let address = ListenAddress::Unix(folder.path().join("vm.sock"));
        for address in [Some(&address), line].into_iter().flatten() {
            server.listen(address, access, Exposure::Loopback).unwrap();
        }
        hub.start(Start::Running);
        thread::spawn(move || drop(server.run()));
        Self {
            hub,
            stops,
            state,
            memory,
            is_found,
            folder,
        }
    }

    /// Ends the search for a kernel that is found late.
    pub(crate) fn let_kernel_be_found(&self) {
        self.is_found.store(true, Ordering::Relaxed);
    }

    /// Returns the path of the server's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("vm.sock")
    }

    /// Returns a folder for files of the test.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.state.lock().unwrap().running.is_empty()
    }

    /// Waits until vCPU 0 has stepped away from `address`.
    pub(crate) fn expect_away_from(&self, address: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.state.lock().unwrap().vcpus[0].u64(RIP) == address {
            assert!(Instant::now() < deadline, "there is no step");
            thread::yield_now();
        }
    }

    /// Waits until the guest runs, as it does some time after the last client has gone.
    pub(crate) fn expect_running(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_running() {
            assert!(Instant::now() < deadline, "the guest stays stopped");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a breakpoint stands in the memory of a guest that runs.
    pub(crate) fn expect_breakpoint(&self, address: u64) {
        let is_planted = || {
            let mut byte = [NOP];
            self.memory.read_physical(Gpa(address), &mut byte);
            byte != [NOP] && self.is_running()
        };
        let deadline = Instant::now() + PATIENCE;
        while !is_planted() {
            assert!(Instant::now() < deadline, "there is no breakpoint");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has a running vCPU come to a software breakpoint.
    pub(crate) fn hit(&self, vcpu: VcpuId, address: u64) {
        let mut state = self.state.lock().unwrap();
        state.running.retain(|running| *running != vcpu);
        state.vcpus[vcpu.index()].set_u64(RIP, address);
        let reason = StopReason::SoftwareBreakpoint {
            address: Gva(address),
            gpa: Some(Gpa(address)),
        };
        self.stops.send((vcpu, reason)).unwrap();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.hub.end(GuestEnd::PowerOff);
    }
}

/// What stands between a client and a server so that the connection can be cut.
pub(crate) struct Line {
    socket: PathBuf,
    ends: Arc<Mutex<Vec<UnixStream>>>,
}

impl Line {
    pub(crate) fn to(fake: &Fake) -> Self {
        let socket = fake.folder().join("line.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let ends = Arc::new(Mutex::new(Vec::new()));
        let (server, kept) = (fake.socket(), Arc::clone(&ends));
        thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), UnixStream::connect(&server).unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
                kept.lock().unwrap().extend([near, far]);
            }
        });
        Self { socket, ends }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub(crate) fn cut(&self) {
        for end in self.ends.lock().unwrap().iter() {
            end.shutdown(Shutdown::Both).unwrap();
        }
    }
}

impl State {
    fn execute(
        &mut self,
        command: Command,
        stops: &Sender<(VcpuId, StopReason)>,
    ) -> Option<StopReason> {
        match command {
            Command::Run(vcpu, request) => {
                if request.action == ResumeAction::Continue {
                    self.running.push(vcpu);
                    return None;
                }
                let file = &mut self.vcpus[vcpu.index()];
                file.set_u64(RIP, file.u64(RIP) + 1);
                Some(StopReason::Step)
            }
            Command::Stop(vcpu) => {
                let is_running = self.running.contains(&vcpu);
                self.running.retain(|running| *running != vcpu);
                if is_running {
                    stops.send((vcpu, StopReason::Paused)).unwrap();
                }
                None
            }
            Command::End(_) => None,
        }
    }
}

struct FakeMachine {
    state: Arc<Mutex<State>>,
    memory: Arc<FakeMemory>,
    capabilities: Capabilities,
}

impl FakeMachine {
    fn new(state: &Arc<Mutex<State>>) -> Self {
        Self {
            state: Arc::clone(state),
            memory: Arc::new(FakeMemory(Mutex::new(vec![NOP; MEMORY_BYTES]))),
            capabilities: Capabilities {
                host: "a test",
                step: StepMethod::TrapFlag,
                software_breakpoints: true,
                ..Capabilities::NONE
            },
        }
    }
}

impl Machine for FakeMachine {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn memory(&self) -> &dyn GuestMemory {
        &*self.memory
    }

    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        let state = self.state.lock().unwrap();
        file.copy_groups(&state.vcpus[vcpu.index()], group.into());
        Ok(())
    }

    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        let mut state = self.state.lock().unwrap();
        state.vcpus[vcpu.index()].copy_groups(file, group.into());
        Ok(())
    }

    fn power_state(&mut self, _: VcpuId) -> PowerState {
        PowerState::On
    }
}

struct FakeMemory(Mutex<Vec<u8>>);

impl PhysicalMemory for FakeMemory {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let memory = self.0.lock().unwrap();
        let start = usize::try_from(address.0).unwrap().min(memory.len());
        let len = buffer.len().min(memory.len() - start);
        buffer[..len].copy_from_slice(&memory[start..start + len]);
        len
    }
}

impl GuestMemory for FakeMemory {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let mut memory = self.0.lock().unwrap();
        let start = usize::try_from(address.0).unwrap().min(memory.len());
        let len = bytes.len().min(memory.len() - start);
        memory[start..start + len].copy_from_slice(&bytes[..len]);
        len
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        vec![MemoryRegion {
            start: Gpa(0),
            len_bytes: MEMORY_BYTES as u64,
            kind: MemoryKind::Ram,
        }]
    }
}

struct FakeOs {
    kernel: Kernel,
    is_found: Arc<AtomicBool>,
}

/// The guest's symbol file, the same for every test.
pub(crate) fn symbol_file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| elf::file_of(&SYMBOLS))
}

impl FakeOs {
    fn is_known(&self) -> bool {
        self.is_found.load(Ordering::Relaxed)
    }
}

impl GuestOs for FakeOs {
    fn refresh(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> bool {
        self.is_known()
    }

    fn find(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> FindProgress {
        if self.kernel == Kernel::Late && !self.is_known() {
            FindProgress::More
        } else {
            FindProgress::Done
        }
    }

    fn forget(&mut self) {}

    fn description(&self) -> Option<String> {
        self.is_known().then(|| SYSTEM.into())
    }

    fn symbol_at(&self, address: Gva) -> Option<SymbolAt> {
        let (name, start) = SYMBOLS
            .into_iter()
            .rfind(|(_, start)| self.is_known() && *start <= address.0)?;
        Some(SymbolAt {
            name: name.into(),
            offset_bytes: address.0 - start,
        })
    }

    fn address_of(&self, name: &str) -> Option<Gva> {
        let found = SYMBOLS.into_iter().find(|(symbol, _)| *symbol == name);
        found.map(|(_, address)| Gva(address))
    }

    fn complete(&self, prefix: &str, limit: usize) -> Vec<String> {
        let names = SYMBOLS.into_iter().map(|(name, _)| name);
        let found = names.filter(|name| name.starts_with(prefix));
        found.take(limit).map(String::from).collect()
    }

    fn text_placement(&self) -> Option<(Gva, u64)> {
        None
    }

    fn symbol_file_len(&self) -> Option<u64> {
        self.is_known().then(|| symbol_file().len() as u64)
    }

    fn read_symbol_file(
        &self,
        _: &dyn GuestMemory,
        _: &dyn VirtualView,
        offset_bytes: u64,
        buffer: &mut [u8],
    ) -> usize {
        let file = symbol_file();
        let start = usize::try_from(offset_bytes).unwrap().min(file.len());
        let len = buffer.len().min(file.len() - start);
        buffer[..len].copy_from_slice(&file[start..start + len]);
        len
    }
}
