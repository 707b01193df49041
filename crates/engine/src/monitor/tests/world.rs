//! A guest of two vCPUs in 64-bit mode, small enough to know by heart, and a client of its engine.
//!
//! ```text
//! virtual                physical
//! ffffffff81000000  ───▶  10000   16 pages: code, read-only
//! ffffffff81010000  ───▶  20000   16 pages: data, not executable
//! ```

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use trapline_arch::x86_64::registers as x86;
use trapline_arch::x86_64::{Segment, SegmentAttributes, SegmentRegister};
use trapline_arch::{
    Architecture, FeatureSet, Gpa, Gva, LayoutKind, PhysicalMemory, RegisterFile, RegisterGroup,
};

use crate::contract::{
    AccessError, Capabilities, Command, GuestMemory, GuestOs, Machine, MemoryKind, MemoryRegion,
    PowerState, ResumeAction, StepMethod, StopReason, SymbolAt, Time, VcpuId, VirtualView,
};
use crate::core::GuestConfig;
use crate::engine::Engine;
use crate::session::{Access, SessionId};

pub(super) const CODE: u64 = 0xffff_ffff_8100_0000;
pub(super) const DATA: u64 = 0xffff_ffff_8101_0000;
pub(super) const CODE_GPA: u64 = 0x1_0000;
pub(super) const DATA_GPA: u64 = 0x2_0000;
const RAM_BYTES: usize = 0x4_0000;

/// The symbols of the guest's "kernel".
const SYMBOLS: &[(&str, u64)] = &[
    ("start_kernel", CODE),
    ("do_sys_open", CODE + 0x100),
    ("do_sys_openat2", CODE + 0x140),
    ("schedule", CODE + 0x200),
    ("linux_banner", DATA),
    ("init_task", DATA + 0x100),
];

pub(super) struct Ram {
    bytes: Vec<AtomicU8>,
}

impl PhysicalMemory for Ram {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = from.load(Ordering::Relaxed);
        }
        rest.len().min(buffer.len())
    }
}

impl GuestMemory for Ram {
    fn write_physical(&self, address: Gpa, bytes: &[u8]) -> usize {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let rest = self.bytes.get(start..).unwrap_or_default();
        for (to, from) in rest.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        rest.len().min(bytes.len())
    }

    fn regions(&self) -> Vec<MemoryRegion> {
        vec![MemoryRegion {
            start: Gpa(0),
            len_bytes: RAM_BYTES as u64,
            kind: MemoryKind::Ram,
        }]
    }
}

impl Ram {
    fn new() -> Self {
        let ram = Self {
            bytes: (0..RAM_BYTES).map(|_| AtomicU8::new(0)).collect(),
        };
        let table = |level: u64| level * 0x1000;
        let present = 0x23;
        ram.put(table(1) + 511 * 8, &(table(2) | present).to_le_bytes());
        ram.put(table(2) + 510 * 8, &(table(3) | present).to_le_bytes());
        ram.put(table(3) + 8 * 8, &(table(4) | present).to_le_bytes());
        for page in 0..16 {
            let code = (CODE_GPA + page * 0x1000) | 0x121;
            let data = (DATA_GPA + page * 0x1000) | 0x8000_0000_0000_0163;
            ram.put(table(4) + page * 8, &code.to_le_bytes());
            ram.put(table(4) + (16 + page) * 8, &data.to_le_bytes());
        }
        // push %rbp; mov %rsp,%rbp; call do_sys_open; mov linux_banner(%rip),%rax; pop; ret
        ram.put(CODE_GPA, &[0x55, 0x48, 0x89, 0xe5, 0xe8, 0xf7, 0, 0, 0]);
        ram.put(
            CODE_GPA + 9,
            &[0x48, 0x8b, 0x05, 0xf0, 0xff, 0, 0, 0x5d, 0xc3],
        );
        ram.put(DATA_GPA, b"Linux version 6.1.0-trapline\n\0");
        ram.put(DATA_GPA + 0x100, &(CODE + 0x208).to_le_bytes());
        ram.put(DATA_GPA + 0x108, &0xffff_ffff_ffff_fff0_u64.to_le_bytes());
        ram
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.write_physical(Gpa(address), bytes);
    }

    pub(super) fn byte(&self, address: u64) -> u8 {
        let mut byte = [0];
        self.read_physical(Gpa(address), &mut byte);
        byte[0]
    }
}

pub(super) struct Vm {
    pub(super) capabilities: Capabilities,
    pub(super) ram: Ram,
    pub(super) files: Vec<RegisterFile>,
    pub(super) power: Vec<PowerState>,
    /// What each vCPU does, if it runs.
    pub(super) running: Vec<Option<ResumeAction>>,
    pub(super) log: Option<String>,
}

impl Machine for Vm {
    fn log(&self) -> Option<String> {
        self.log.clone()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.ram
    }

    fn load_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &mut RegisterFile,
    ) -> Result<(), AccessError> {
        assert_eq!(self.running[vcpu.index()], None, "{vcpu} runs");
        if group == RegisterGroup::Msr {
            return Err(AccessError::Unsupported);
        }
        file.copy_groups(&self.files[vcpu.index()], group.into());
        Ok(())
    }

    fn store_registers(
        &mut self,
        vcpu: VcpuId,
        group: RegisterGroup,
        file: &RegisterFile,
    ) -> Result<(), AccessError> {
        assert_eq!(self.running[vcpu.index()], None, "{vcpu} runs");
        if group == RegisterGroup::System && file.u64(x86::CR0) == 0xbad {
            return Err(AccessError::Refused(22));
        }
        self.files[vcpu.index()].copy_groups(file, group.into());
        Ok(())
    }

    fn power_state(&mut self, vcpu: VcpuId) -> PowerState {
        self.power[vcpu.index()]
    }
}

/// Puts a vCPU into 64-bit mode at the start of the code.
pub(super) fn long_mode() -> RegisterFile {
    let mut file = x86::file();
    file.set_u64(x86::RIP, CODE);
    file.set_u64(x86::RSP, DATA + 0x108);
    file.set_u64(x86::RFLAGS, 0x246);
    file.set_u64(x86::CR0, 0x8005_0033);
    file.set_u64(x86::CR3, 0x1000);
    file.set_u64(x86::CR4, 0x20);
    file.set_u64(x86::EFER, 0xd01);
    let code = SegmentAttributes::new()
        .with_type(0xb)
        .with_s(true)
        .with_p(true)
        .with_l(true);
    let segment = Segment {
        selector: 0x10,
        attributes: code,
        ..Segment::default()
    };
    SegmentRegister::Cs.write(&mut file, segment);
    file.set_u64(x86::IDTR_BASE, DATA + 0x2000);
    file.set_u64(x86::GDTR_BASE, DATA + 0x3000);
    file
}

/// Puts a vCPU into real mode at the reset vector of a 256 KiB machine.
pub(super) fn real_mode() -> RegisterFile {
    let mut file = x86::file();
    let segment = Segment {
        selector: 0x1000,
        base: 0x1_0000,
        limit: 0xffff,
        ..Segment::default()
    };
    SegmentRegister::Cs.write(&mut file, segment);
    file.set_u64(x86::IDTR_LIMIT, 0x3ff);
    file
}

struct Kernel {
    is_known: bool,
}

impl GuestOs for Kernel {
    fn refresh(&mut self, _: &dyn GuestMemory, _: &dyn VirtualView) -> bool {
        self.is_known
    }
    fn forget(&mut self) {}
    fn description(&self) -> Option<String> {
        self.is_known.then(|| "Linux 6.1.0-trapline".into())
    }
    fn facts(&self) -> Vec<(&'static str, String)> {
        if self.is_known {
            vec![("build ID", "00ff".into()), ("symbols", "6".into())]
        } else {
            vec![("kernel", "not found in 256 KiB of memory".into())]
        }
    }
    fn symbol_at(&self, address: Gva) -> Option<SymbolAt> {
        let below = SYMBOLS.iter().rev().find(|(_, at)| *at <= address.0);
        below.filter(|_| self.is_known).map(|(name, at)| SymbolAt {
            name: (*name).into(),
            offset_bytes: address.0 - at,
        })
    }
    fn address_of(&self, name: &str) -> Option<Gva> {
        let found = SYMBOLS.iter().find(|(known, _)| *known == name);
        found.filter(|_| self.is_known).map(|(_, at)| Gva(*at))
    }
    fn complete(&self, prefix: &str, limit: usize) -> Vec<String> {
        let names = SYMBOLS.iter().map(|(name, _)| name.to_string());
        let found = names.filter(|name| self.is_known && name.starts_with(prefix));
        found.take(limit).collect()
    }
    fn text_placement(&self) -> Option<(Gva, u64)> {
        self.is_known.then_some((Gva(CODE), 0x100_0000))
    }
    fn symbol_file_len(&self) -> Option<u64> {
        self.is_known.then_some(1234)
    }
    fn read_symbol_file(
        &self,
        _: &dyn GuestMemory,
        _: &dyn VirtualView,
        _: u64,
        _: &mut [u8],
    ) -> usize {
        0
    }
}

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) vm: Vm,
    /// The client that commands are sent by.
    pub(super) id: SessionId,
}

pub(super) const CAPABILITIES: Capabilities = Capabilities {
    host: "a test",
    step: StepMethod::TrapFlag,
    holds_interrupts: true,
    software_breakpoints: true,
    hardware_breakpoints: 4,
    watchpoints: 4,
    slots_are_shared: true,
    hides_pauses: true,
};

impl World {
    pub(super) fn new() -> Self {
        Self::with(CAPABILITIES, true)
    }

    pub(super) fn with(capabilities: Capabilities, knows_kernel: bool) -> Self {
        let config = GuestConfig {
            architecture: Architecture::X86_64,
            vcpu_count: 2,
            features: FeatureSet::AVX,
            layout: LayoutKind::X86_64,
            capabilities,
        };
        let kernel = Kernel {
            is_known: knows_kernel,
        };
        Self::make(config, Box::new(kernel), long_mode())
    }

    /// A guest of another architecture, with the registers of `file` and without a known kernel.
    pub(super) fn of(architecture: Architecture, file: RegisterFile) -> Self {
        Self::with_os(architecture, file, Box::new(Kernel { is_known: false }))
    }

    /// The same with another layer that looks for the kernel.
    pub(super) fn with_os(
        architecture: Architecture,
        file: RegisterFile,
        os: Box<dyn GuestOs>,
    ) -> Self {
        let config = GuestConfig {
            architecture,
            vcpu_count: 2,
            features: FeatureSet::PAUTH,
            layout: architecture.native_layout(),
            capabilities: CAPABILITIES,
        };
        Self::make(config, os, file)
    }

    fn make(config: GuestConfig, os: Box<dyn GuestOs>, file: RegisterFile) -> Self {
        let capabilities = config.capabilities;
        let mut engine = Engine::new(config, Some(os));
        let vm = Vm {
            capabilities,
            ram: Ram::new(),
            files: vec![file; 2],
            power: vec![PowerState::On; 2],
            running: vec![None; 2],
            log: None,
        };
        let id = engine.open_session(Access::Full).unwrap();
        let mut world = Self { engine, vm, id };
        world.silence_acks(id);
        world
    }

    pub(super) fn connect(&mut self, access: Access) -> SessionId {
        let id = self.engine.open_session(access).unwrap();
        self.silence_acks(id);
        id
    }

    fn silence_acks(&mut self, id: SessionId) {
        self.send(id, b"$QStartNoAckMode#b0+");
        self.take_output(id);
    }

    /// Sends bytes and lets the vCPUs do what they are told.
    pub(super) fn send(&mut self, id: SessionId, bytes: &[u8]) {
        self.engine
            .handle_input(id, bytes, &mut self.vm, Time::default());
        self.pump();
    }

    pub(super) fn packet(&mut self, id: SessionId, body: &str) {
        let bytes = frame(body.as_bytes());
        self.send(id, &bytes);
    }

    /// Carries out commands of the engine. vCPUs that run go on doing so until they are stopped;
    /// a step ends at once, one byte further on.
    pub(super) fn pump(&mut self) {
        for _ in 0..100_000 {
            let Some(command) = self.engine.poll_command() else {
                if self.engine.work_due().is_none() {
                    return;
                }
                self.engine.work(&mut self.vm, Time::default());
                continue;
            };
            match command {
                Command::Run(vcpu, request) => {
                    self.vm.running[vcpu.index()] = Some(request.action);
                    if request.action == ResumeAction::Step {
                        let file = &mut self.vm.files[vcpu.index()];
                        file.set_u64(x86::RIP, file.u64(x86::RIP) + 1);
                        self.stop_one(vcpu, StopReason::Step);
                    }
                }
                Command::Stop(vcpu) if self.vm.running[vcpu.index()].is_some() => {
                    self.stop_one(vcpu, StopReason::Paused);
                }
                Command::Stop(_) | Command::End(_) => {}
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Lets a running vCPU stop.
    pub(super) fn stop(&mut self, vcpu: u32, reason: StopReason) {
        self.stop_one(VcpuId(vcpu), reason);
        self.pump();
    }

    fn stop_one(&mut self, vcpu: VcpuId, reason: StopReason) {
        self.vm.running[vcpu.index()] = None;
        self.engine
            .handle_stopped(vcpu, reason, &mut self.vm, Time::default());
    }

    pub(super) fn take_output(&mut self, id: SessionId) -> String {
        let bytes = self.engine.output(id).to_vec();
        self.engine
            .consume_output(id, bytes.len(), &mut self.vm, Time::default());
        String::from_utf8(bytes).unwrap()
    }

    /// Gives a command and returns what it has to say; nothing if that comes later.
    pub(super) fn monitor(&mut self, line: &str) -> String {
        self.monitor_of(self.id, line)
    }

    pub(super) fn monitor_of(&mut self, id: SessionId, line: &str) -> String {
        let mut body = b"qRcmd,".to_vec();
        trapline_rsp::hex::append(line.as_bytes(), &mut body);
        let bytes = frame(&body);
        self.send(id, &bytes);
        self.text(id)
    }

    /// Returns the text of all packets and notifications that came, each followed by nothing.
    pub(super) fn text(&mut self, id: SessionId) -> String {
        let output = self.take_output(id);
        let mut text = String::new();
        for part in output.split(['$', '%']).filter(|part| !part.is_empty()) {
            let body = part.split('#').next().unwrap();
            if let Some(event) = body.strip_prefix("Trapline:") {
                text.push_str("% ");
                text.push_str(&unhex(event));
                text.push('\n');
            } else if body == "OK" || body.starts_with('T') {
                text.push_str(body);
            } else {
                text.push_str(&unhex(body));
            }
        }
        text
    }
}

fn unhex(digits: &str) -> String {
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Vec<u8> = pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    String::from_utf8(bytes).unwrap()
}

fn frame(body: &[u8]) -> Vec<u8> {
    let sum = trapline_rsp::encoder::checksum(body);
    let mut bytes = vec![b'$'];
    bytes.extend_from_slice(body);
    bytes.extend_from_slice(alloc::format!("#{sum:02x}").as_bytes());
    bytes
}
