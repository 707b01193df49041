//! A guest of a few bytes in a pool, as any monitor would build it.
#![expect(unsafe_code, reason = "KVM is told of memory by its address")]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure here fails the test"
)]

use core::time::Duration;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use trapline_arch::x86_64::registers as ids;
use trapline_arch::{Gpa, PhysicalMemory, RegisterFile, RegisterGroup, RegisterId};
use trapline_engine::contract::{GuestMemory, Machine, PassFirst};
use trapline_engine::{GuestEnd, ResumeAction, ResumeRequest, StopReason, VcpuId};
use trapline_kvm::x86_64::long_mode::LongMode;
use trapline_kvm::{
    AfterExit, DEFAULT_KICK_SIGNAL, DeviceBus, GuestRam, KvmMachine, KvmReport, KvmVcpu,
    PoolConfig, Probe, VcpuPool,
};
use trapline_test_machine::this_did_not_run;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

pub(crate) const CODE: u64 = 0x1000;
pub(crate) const DATA: u64 = 0x3000;
pub(crate) const STACK: u64 = 0x8000;
pub(crate) const HANDLERS: u64 = 0x2_0000;
const TABLES: u64 = 0x1_0000;
const MEMORY_BYTES: usize = 0x3_0000;
const END_PORT: u16 = 0xf4;
/// `out 0xf4, al`
pub(crate) const END: [u8; 2] = [0xe6, 0xf4];
/// `inc qword [rcx]; jmp` back
pub(crate) const COUNT: [u8; 5] = [0x48, 0xff, 0x01, 0xeb, 0xfb];

/// Whether KVM has the interrupt controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupts {
    None,
    InKernel,
}

struct TestBus;

impl DeviceBus for TestBus {
    fn pio_read(&self, _: VcpuId, _: u16, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn pio_write(&self, _: VcpuId, port: u16, _: &[u8]) -> AfterExit {
        if port == END_PORT {
            AfterExit::End(GuestEnd::PowerOff)
        } else {
            AfterExit::Resume
        }
    }
    fn mmio_read(&self, _: VcpuId, _: Gpa, data: &mut [u8]) {
        data.fill(0x5a);
    }
    fn mmio_write(&self, _: VcpuId, _: Gpa, _: &[u8]) -> AfterExit {
        AfterExit::Resume
    }
}

/// Whether this machine itself is emulated by QEMU, whose SVM has gaps.
pub(crate) fn runs_on_tcg() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG"))
}

/// The probe's report, or `None`, which is recorded, if KVM cannot be used at all.
pub(crate) fn report() -> Option<KvmReport> {
    let report = Probe::run();
    match report.problem() {
        Some(problem) => {
            this_did_not_run(&problem.to_string());
            None
        }
        None => Some(report),
    }
}

pub(crate) struct Guest {
    pub(crate) pool: VcpuPool,
    pub(crate) machine: KvmMachine,
    pub(crate) stops: Mutex<Receiver<(VcpuId, StopReason)>>,
    pub(crate) memory: Arc<GuestRam<Arc<GuestMemoryMmap>>>,
}

/// A VM with memory, and vCPUs in 64-bit mode about to execute `code`.
pub(crate) struct Machine64 {
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) vm: VmFd,
    pub(crate) memory: Arc<GuestRam<Arc<GuestMemoryMmap>>>,
}

impl Machine64 {
    pub(crate) fn new(code: &[u8], interrupts: Interrupts, vcpu_count: u32) -> Self {
        let kvm = Kvm::new().unwrap();
        let vm = kvm.create_vm().unwrap();
        let map: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let map = Arc::new(map);
        let region = map.iter().next().unwrap();
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: whoever has the vCPUs has the memory too, and it is never borrowed.
        unsafe { vm.set_user_memory_region(slot) }.unwrap();
        if interrupts == Interrupts::InKernel {
            vm.create_irq_chip().unwrap();
        }
        let memory = Arc::new(GuestRam::new(map));
        let tables = LongMode::write(&*memory, Gpa(TABLES), HANDLERS).unwrap();
        for vector in 0..256 {
            memory.write_physical(Gpa(HANDLERS + vector * LongMode::HANDLER_BYTES), &END);
        }
        memory.write_physical(Gpa(CODE), code);
        memory.write_physical(Gpa(CODE + code.len() as u64), &END);
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let vcpus = (0..vcpu_count).map(|number| {
            let fd = vm.create_vcpu(number.into()).unwrap();
            fd.set_cpuid2(&cpuid).unwrap();
            let mut sregs = fd.get_sregs().unwrap();
            tables.apply(&mut sregs);
            fd.set_sregs(&sregs).unwrap();
            let mut regs = fd.get_regs().unwrap();
            regs.rip = CODE;
            regs.rsp = STACK - 0x400 * u64::from(number);
            regs.rcx = DATA + 8 * u64::from(number);
            regs.rflags = 2;
            fd.set_regs(&regs).unwrap();
            fd
        });
        Self {
            vcpus: vcpus.collect(),
            vm,
            memory,
        }
    }
}

impl Guest {
    pub(crate) fn new(code: &[u8], interrupts: Interrupts, vcpu_count: u32) -> Option<Self> {
        let report = report()?;
        let Machine64 { vcpus, vm, memory } = Machine64::new(code, interrupts, vcpu_count);
        let vcpus = (0..).zip(vcpus).map(|(number, fd)| {
            KvmVcpu::new(&vm, fd, VcpuId(number), memory.clone(), &report).unwrap()
        });
        let vcpus = vcpus.collect();
        let (sender, stops) = channel();
        let sender = Mutex::new(sender);
        let listener = move |vcpu: VcpuId, reason: StopReason| {
            let _ = sender.lock().unwrap().send((vcpu, reason));
        };
        let config = PoolConfig {
            report,
            memory: memory.clone(),
            bus: Arc::new(TestBus),
            listener: Arc::new(listener),
            kick_signal: DEFAULT_KICK_SIGNAL,
        };
        let pool = VcpuPool::start(vcpus, config).unwrap();
        let machine = pool.machine();
        Some(Self {
            pool,
            machine,
            stops: Mutex::new(stops),
            memory,
        })
    }

    pub(crate) fn run(&self, vcpu: u32) {
        self.pool.run(VcpuId(vcpu), request(ResumeAction::Continue));
    }

    /// Waits for the next stop.
    #[track_caller]
    pub(crate) fn stopped(&self) -> (VcpuId, StopReason) {
        let stops = self.stops.lock().unwrap();
        stops
            .recv_timeout(Duration::from_secs(20))
            .expect("a stop request was lost")
    }

    pub(crate) fn register(&mut self, vcpu: u32, id: RegisterId) -> u64 {
        self.registers(vcpu, RegisterGroup::General).u64(id)
    }

    pub(crate) fn registers(&mut self, vcpu: u32, group: RegisterGroup) -> RegisterFile {
        let mut file = ids::file();
        self.machine
            .load_registers(VcpuId(vcpu), group, &mut file)
            .unwrap();
        file
    }

    pub(crate) fn set_register(&mut self, vcpu: u32, id: RegisterId, value: u64) {
        let mut file = self.registers(vcpu, RegisterGroup::General);
        file.set_u64(id, value);
        self.machine
            .store_registers(VcpuId(vcpu), RegisterGroup::General, &file)
            .unwrap();
    }

    pub(crate) fn read_u64(&self, address: u64) -> u64 {
        PhysicalMemory::read_u64(&*self.memory, Gpa(address)).unwrap()
    }
}

pub(crate) fn request(action: ResumeAction) -> ResumeRequest {
    ResumeRequest {
        action,
        pass_first: PassFirst::No,
        points: Arc::default(),
    }
}
