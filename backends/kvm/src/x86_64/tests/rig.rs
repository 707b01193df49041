//! A guest for tests.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_msi, kvm_regs};
use kvm_ioctls::{Kvm, VmFd};
use trapline_arch::{Gpa, Gva, PhysicalMemory};
use trapline_engine::contract::GuestMemory;
use trapline_engine::{
    Entry, GuestEnd, HardwarePoint, HardwarePoints, PointAccess, VcpuId, VmExit,
};
use trapline_test_machine::this_did_not_run;
use vm_memory::GuestMemoryMmap;

use crate::bus::{AfterExit, DeviceBus};
use crate::control::VcpuControl;
use crate::gate::Gate;
use crate::memory::GuestRam;
use crate::run::{Entered, Surroundings};
use crate::sys::{KickSignal, ScratchMemory};
use crate::x86_64::KvmVcpu;
use crate::x86_64::long_mode::LongMode;
use crate::{DEFAULT_KICK_SIGNAL, KvmReport, Probe};

pub(super) const CODE: u64 = 0x1000;
pub(super) const DATA: u64 = 0x3000;
pub(super) const STACK: u64 = 0x8000;
/// Memory-mapped device, inside the mapped gibibyte.
pub(super) const MMIO: u64 = 0x1000_0000;
const TABLES: u64 = 0x1_0000;
pub(super) const HANDLERS: u64 = 0x2_0000;
/// A write to it ends the guest.
const END_PORT: u16 = 0xf4;

/// `out 0xf4, al`
pub(super) const END: [u8; 2] = [0xe6, 0xf4];

pub(super) const STEPPED: VmExit = VmExit::Debug {
    step: true,
    slots: 0,
    data_address: None,
};
pub(super) const POWER_OFF: VmExit = VmExit::Ended(GuestEnd::PowerOff);

pub(super) fn hit(slots: u32) -> VmExit {
    VmExit::Debug {
        step: false,
        slots,
        data_address: None,
    }
}

/// The probe's report, or `None`, which is recorded, if KVM cannot be used at all.
pub(super) fn report() -> Option<&'static KvmReport> {
    static REPORT: OnceLock<KvmReport> = OnceLock::new();
    let report = REPORT.get_or_init(Probe::run);
    if let Some(problem) = report.problem() {
        this_did_not_run(&problem.to_string());
        return None;
    }
    Some(report)
}

/// Whether this machine itself is emulated by QEMU, whose SVM has gaps.
pub(super) fn runs_on_tcg() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG"))
}

/// Whether registers are taken from the shared page or by system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegisterPath {
    Shared,
    Calls,
}

/// Runs a test on both paths to the registers.
pub(super) fn on_both_paths(test: impl Fn(&mut Rig)) {
    let Some(report) = report() else { return };
    for path in [RegisterPath::Shared, RegisterPath::Calls] {
        if path == RegisterPath::Shared && !report.traits().shares_registers {
            this_did_not_run(
                "this KVM lacks KVM_CAP_SYNC_REGS, so only the path without it is tested",
            );
            continue;
        }
        println!("registers: {path:?}");
        test(&mut Rig::new(report, path, Interrupts::None, 1));
    }
}

/// Whether KVM has the interrupt controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupts {
    None,
    InKernel,
}

/// What devices have seen.
#[derive(Debug, Default)]
pub(super) struct TestBus {
    pub(super) written: Mutex<Vec<(u64, Vec<u8>)>>,
    /// How many accesses there were.
    pub(super) accesses: AtomicUsize,
}

impl TestBus {
    fn accessed(&self) {
        self.accesses.fetch_add(1, Ordering::SeqCst);
    }

    fn write(&self, address: u64, data: &[u8]) -> AfterExit {
        self.accessed();
        self.written.lock().unwrap().push((address, data.to_vec()));
        AfterExit::Resume
    }
}

impl DeviceBus for TestBus {
    fn pio_read(&self, _: VcpuId, port: u16, data: &mut [u8]) {
        self.accessed();
        data.fill(port.to_le_bytes()[0]);
    }

    fn pio_write(&self, _: VcpuId, port: u16, data: &[u8]) -> AfterExit {
        if port == END_PORT {
            return AfterExit::End(GuestEnd::PowerOff);
        }
        self.write(port.into(), data)
    }

    fn mmio_read(&self, _: VcpuId, _: Gpa, data: &mut [u8]) {
        self.accessed();
        data.fill(0x5a);
    }

    fn mmio_write(&self, _: VcpuId, address: Gpa, data: &[u8]) -> AfterExit {
        self.write(address.0, data)
    }
}

/// A guest in 64-bit mode: rsp to its stack, rcx to data, rbx to a device. Every exception and
/// interrupt handler ends the guest.
pub(super) struct Rig {
    pub(super) vcpus: Vec<KvmVcpu>,
    pub(super) gate: Gate,
    pub(super) bus: TestBus,
    pub(super) vm: VmFd,
    pub(super) memory: Arc<GuestRam<Arc<GuestMemoryMmap>>>,
}

impl Rig {
    pub(super) fn new(
        report: &KvmReport,
        path: RegisterPath,
        interrupts: Interrupts,
        vcpu_count: u32,
    ) -> Self {
        let kvm = Kvm::new().unwrap();
        let vm = kvm.create_vm().unwrap();
        let scratch = ScratchMemory::for_a_test();
        scratch.add_to(&vm).unwrap();
        let memory = Arc::new(GuestRam::new(scratch.map()));
        if interrupts == Interrupts::InKernel {
            vm.create_irq_chip().unwrap();
        }
        let tables = LongMode::write(&*memory, Gpa(TABLES), HANDLERS).unwrap();
        for vector in 0..256 {
            memory.write_physical(Gpa(HANDLERS + vector * LongMode::HANDLER_BYTES), &END);
        }
        let signal = KickSignal::install(DEFAULT_KICK_SIGNAL).unwrap();
        let mut traits = report.traits();
        traits.shares_registers = path == RegisterPath::Shared;
        let mut vcpus = Vec::new();
        let mut controls = Vec::new();
        for number in 0..vcpu_count {
            let fd = vm.create_vcpu(number.into()).unwrap();
            fd.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap())
                .unwrap();
            let mut sregs = fd.get_sregs().unwrap();
            tables.apply(&mut sregs);
            fd.set_sregs(&sregs).unwrap();
            controls.push(VcpuControl::new(&fd, signal).unwrap());
            let id = VcpuId(number);
            let mut vcpu = KvmVcpu::with_traits(&vm, fd, id, memory.clone(), traits).unwrap();
            let registers = kvm_regs {
                rip: CODE,
                rsp: STACK - 0x400 * u64::from(number),
                rbx: MMIO,
                rcx: DATA + 8 * u64::from(number),
                rflags: 2,
                ..Default::default()
            };
            vcpu.set_registers(&registers).unwrap();
            vcpus.push(vcpu);
        }
        Self {
            vcpus,
            gate: Gate::new(controls),
            bus: TestBus::default(),
            vm,
            memory,
        }
    }

    /// Puts `code` at [`CODE`], and the end of the guest behind it.
    pub(super) fn load(&self, code: &[u8]) {
        self.memory.write_physical(Gpa(CODE), code);
        self.memory
            .write_physical(Gpa(CODE + code.len() as u64), &END);
    }

    pub(super) fn control(&self) -> &VcpuControl {
        self.gate.control(VcpuId(0)).unwrap()
    }

    pub(super) fn vcpu(&mut self) -> &mut KvmVcpu {
        &mut self.vcpus[0]
    }

    pub(super) fn registers(&mut self) -> kvm_regs {
        self.vcpu().registers().unwrap()
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut kvm_regs)) {
        let mut registers = self.registers();
        change(&mut registers);
        self.vcpu().set_registers(&registers).unwrap();
    }

    /// Returns how far the pc is from [`CODE`].
    pub(super) fn offset(&mut self) -> u64 {
        self.registers().rip.wrapping_sub(CODE)
    }

    pub(super) fn enter(&mut self, entry: Entry) -> VmExit {
        enter(&mut self.vcpus[0], &self.gate, &self.bus, entry)
    }

    /// Steps once and checks that the pc is `offset` bytes from [`CODE`] then.
    #[track_caller]
    pub(super) fn step_to(&mut self, offset: u64) {
        let exit = self.enter(step());
        assert_eq!(exit, STEPPED);
        assert_eq!(self.offset(), offset);
    }

    pub(super) fn read_u64(&self, address: u64) -> u64 {
        PhysicalMemory::read_u64(&*self.memory, Gpa(address)).unwrap()
    }

    /// Sends a message-signalled interrupt with `data` to a vCPU.
    pub(super) fn send_message(&self, vcpu: u32, data: u32) {
        let msi = kvm_msi {
            address_lo: 0xfee0_0000 | vcpu << 12,
            data,
            ..Default::default()
        };
        assert!(
            self.vm.signal_msi(msi).unwrap() > 0,
            "nobody takes the message"
        );
    }

    /// Switches the vCPU's local interrupt controller on.
    pub(super) fn enable_interrupts(&mut self) {
        let fd = self.vcpu().fd().unwrap();
        let mut lapic = fd.get_lapic().unwrap();
        lapic.regs[0xf1] |= 1;
        fd.set_lapic(&lapic).unwrap();
    }
}

/// Enters as `entry` says on the calling thread.
pub(super) fn enter(vcpu: &mut KvmVcpu, gate: &Gate, bus: &TestBus, entry: Entry) -> VmExit {
    gate.control(vcpu.id()).unwrap().adopt();
    match vcpu.enter(
        &entry,
        &Surroundings {
            gate,
            bus,
            deadline: None,
        },
    ) {
        Entered::Exit(exit) => exit,
        Entered::Expired => panic!("there was no deadline"),
    }
}

pub(super) fn step() -> Entry {
    Entry {
        step: true,
        hold_interrupts: true,
        ..Entry::default()
    }
}

pub(super) fn point(access: PointAccess, address: u64, len_bytes: u64) -> HardwarePoint {
    HardwarePoint {
        address: Gva(address),
        len_bytes,
        access,
    }
}

/// Returns slots that hold `points` from 0 on.
pub(super) fn slots(points: &[HardwarePoint]) -> HardwarePoints {
    let mut slots = HardwarePoints::default();
    for (number, point) in points.iter().enumerate() {
        slots.set(number, Some(*point));
    }
    slots
}

/// Waits until `condition` holds.
#[track_caller]
pub(super) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain: {what}"
        );
        std::thread::yield_now();
    }
}
