//! A guest on `trapline-kvm`'s vCPU threads, without a debugger.

use core::time::Duration;
use std::sync::{Arc, mpsc};

use trapline_arch::Gpa;
use trapline_engine::{
    GuestEnd, PassFirst, PointSet, ResumeAction, StopReason, VcpuId, contract::ResumeRequest,
};
use trapline_guests::{Guest, Needs};
use trapline_kvm::{
    AfterExit, DEFAULT_KICK_SIGNAL, DeviceBus, GuestRam, KvmVcpu, PoolConfig, Probe, VcpuPool,
};
use trapline_test_machine::{HostKvm, did_not_run};
use trapline_vmm::{Devices, Vm, VmConfig};

/// A stock kernel takes about ten seconds on emulated hardware that nobody else uses.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a guest ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The stop of the first vCPU that stopped.
    pub(crate) reason: StopReason,
    /// What the guest wrote to the debug-exit port.
    pub(crate) status: Option<u8>,
}

struct Bus(Arc<Devices>);

fn after(end: Option<GuestEnd>) -> AfterExit {
    end.map_or(AfterExit::Resume, AfterExit::End)
}

impl DeviceBus for Bus {
    fn pio_read(&self, _: VcpuId, port: u16, data: &mut [u8]) {
        self.0.pio_read(port, data);
    }

    fn pio_write(&self, _: VcpuId, port: u16, data: &[u8]) -> AfterExit {
        after(self.0.pio_write(port, data))
    }

    fn mmio_read(&self, _: VcpuId, address: Gpa, data: &mut [u8]) {
        self.0.mmio_read(address.0, data);
    }

    fn mmio_write(&self, _: VcpuId, address: Gpa, data: &[u8]) -> AfterExit {
        self.0.mmio_write(address.0, data);
        AfterExit::Resume
    }
}

/// What is recorded of a guest that cannot run here.
pub(crate) fn on_this_computer(guest: &Guest) -> String {
    format!("tiny guest {} on this computer's KVM", guest.name)
}

/// Returns whether a guest can run here, and notes why if it cannot.
pub(crate) fn can_run(guest: &Guest) -> bool {
    let what = on_this_computer(guest);
    let host = HostKvm::probe();
    let why = match guest.needs {
        _ if !host.runs_tiny_guest() => host.describe(),
        Needs::Hardware if host != HostKvm::Hardware => {
            "this KVM interprets guests and lacks what the guest is about"
        }
        Needs::Hardware | Needs::AnyKvm => return true,
    };
    did_not_run(&what, why);
    false
}

/// Runs a machine until one of its vCPUs stops.
pub(crate) fn run(config: &VmConfig) -> Outcome {
    let mut vm = Vm::new(config).expect("a good configuration");
    let report = Probe::run();
    let memory = Arc::new(GuestRam::new(Arc::new(vm.memory().clone())));
    let fd = Arc::clone(vm.vm_fd());
    let vcpus: Vec<_> = (0..)
        .map(VcpuId)
        .zip(vm.take_vcpus())
        .map(|(id, vcpu)| KvmVcpu::new(&fd, vcpu, id, memory.clone(), &report).expect("a vCPU"))
        .collect();
    let ids: Vec<_> = vcpus.iter().map(KvmVcpu::id).collect();
    let (sender, stops) = mpsc::channel();
    let listener = move |_: VcpuId, reason: StopReason| {
        // A second vCPU that stops finds nobody listening, and need not.
        let _ = sender.send(reason);
    };
    let pool_config = PoolConfig {
        report,
        memory,
        bus: Arc::new(Bus(Arc::clone(vm.devices()))),
        listener: Arc::new(listener),
        kick_signal: DEFAULT_KICK_SIGNAL,
    };
    let pool = VcpuPool::start(vcpus, pool_config).expect("threads");
    for id in &ids {
        let request = ResumeRequest {
            action: ResumeAction::Continue,
            pass_first: PassFirst::No,
            points: Arc::new(PointSet::default()),
        };
        pool.run(*id, request);
    }
    let reason = stops.recv_timeout(PATIENCE).expect("the guest ends");
    drop(pool);
    let status = vm.end_events().end().and_then(|end| end.status);
    Outcome { reason, status }
}
