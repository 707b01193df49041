//! A virtual machine monitor with a debug server in it, and nothing else.
//!
//! This is the embedding guide: what a monitor built on `kvm-ioctls` and `vm-memory` does to let
//! GDB, LLDB and `trapline shell` debug its guest. The numbered parts are the whole of it; the rest
//! is a guest of a few bytes that prints dots on a serial port for ever.
//!
//! ```text
//! cargo run -p trapline-kvm --example embed -- unix:/tmp/embed.sock
//! gdb -ex 'target remote /tmp/embed.sock' -ex 'x/6i $pc'
//! ```

use core::error::Error;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use trapline_arch::{Architecture, Gpa};
use trapline_engine::{
    Access, Command, Engine, GuestConfig, GuestEnd, GuestMemory as _, Machine as _, Start,
    StopReason, VcpuId,
};
use trapline_kvm::x86_64::features;
use trapline_kvm::x86_64::long_mode::LongMode;
use trapline_kvm::{
    AfterExit, DEFAULT_KICK_SIGNAL, DeviceBus, GuestRam, KvmVcpu, PoolConfig, Probe, VcpuPool,
};
use trapline_server::{Exposure, Hub, Server};
use vm_memory::{GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _};

const MEMORY_BYTES: usize = 4 << 20;
const CODE: u64 = 0x10_0000;
const TABLES: u64 = 0x20_0000;
const SERIAL_PORT: u16 = 0x3f8;

/// `mov dx, 3f8h; mov al, '.'; out dx, al; mov ecx, 200000; loop: dec ecx; jnz loop; jmp start`
const GUEST: [u8; 18] = [
    0x66, 0xba, 0xf8, 0x03, 0xb0, b'.', 0xee, 0xb9, 0x40, 0x0d, 0x03, 0x00, 0xff, 0xc9, 0x75, 0xfc,
    0xeb, 0xee,
];

/// The monitor's devices: a serial port that prints what the guest writes to it.
struct Devices;

impl DeviceBus for Devices {
    fn pio_read(&self, _: VcpuId, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn pio_write(&self, _: VcpuId, port: u16, data: &[u8]) -> AfterExit {
        let mut out = std::io::stdout();
        if port == SERIAL_PORT && out.write_all(data).and_then(|()| out.flush()).is_err() {
            return AfterExit::End(GuestEnd::PowerOff);
        }
        AfterExit::Resume
    }

    fn mmio_read(&self, _: VcpuId, _: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&self, _: VcpuId, _: Gpa, _: &[u8]) -> AfterExit {
        AfterExit::Resume
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "tcp:localhost:1234".to_owned());

    // What any monitor does: a VM, memory, vCPUs.
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])?;
    map(&vm, &memory)?;
    let fd = vm.create_vcpu(0)?;
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    fd.set_cpuid2(&cpuid)?;

    // 1. Find out what this machine's KVM can do for a debugger.
    let report = Probe::run();

    // 2. Lend the guest's memory and its vCPUs to the backend.
    let ram = Arc::new(GuestRam::new(Arc::new(memory)));
    enter_at_code(&fd, &ram)?;
    let vcpu = KvmVcpu::new(&vm, fd, VcpuId(0), ram.clone(), &report)?;

    // 3. Start a thread for each vCPU. Their stops go to the hub, which is made next; no vCPU runs
    //    before the hub says so.
    let slot: Arc<OnceLock<Arc<Hub>>> = Arc::default();
    let hub_of_listener = Arc::clone(&slot);
    let listener = move |vcpu: VcpuId, reason: StopReason| {
        if let Some(hub) = hub_of_listener.get() {
            hub.vcpu_stopped(vcpu, reason);
        }
    };
    let config = PoolConfig {
        report,
        memory: ram,
        bus: Arc::new(Devices),
        listener: Arc::new(listener),
        kick_signal: DEFAULT_KICK_SIGNAL,
    };
    let pool = Arc::new(VcpuPool::start(vec![vcpu], config)?);

    // 4. Make the engine and put it together with the machine. The engine's commands go to the pool.
    let machine = pool.machine();
    let guest = GuestConfig {
        architecture: Architecture::X86_64,
        vcpu_count: 1,
        features: features(&cpuid),
        layout: Architecture::X86_64.native_layout(),
        capabilities: *machine.capabilities(),
    };
    let engine = Engine::new(guest, None);
    let commanded = Arc::clone(&pool);
    let execute = move |command| match command {
        Command::Run(vcpu, request) => commanded.run_here(vcpu, request),
        Command::Stop(vcpu) => {
            commanded.stop(vcpu);
            None
        }
        Command::End(_) => None,
    };
    let hub = Hub::new(engine, Box::new(machine), execute)?;
    if slot.set(Arc::clone(&hub)).is_err() {
        return Err("the hub was set before".into());
    }

    // 5. Listen, let the guest begin, and serve until it ends.
    let mut server = Server::new(Arc::clone(&hub));
    let bound = server.listen(&address.parse()?, Access::Full, Exposure::Loopback)?;
    eprintln!("embed: debuggers at {bound}");
    hub.start(Start::Running);
    trapline_kvm::wake_promptly();
    let end = server.run()?;
    eprintln!("\nembed: the guest has ended: {end:?}");
    Ok(())
}

/// Gives the VM its memory.
#[expect(unsafe_code, reason = "KVM is handed memory of this process")]
fn map(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), Box<dyn Error>> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let area = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: memory.get_host_address(region.start_addr())? as u64,
        };
        // SAFETY: the memory stays mapped as long as `memory`, or a clone of it, which the machine
        // holds for as long as vCPUs run; nobody in this process holds references into it.
        unsafe { vm.set_user_memory_region(area) }?;
    }
    Ok(())
}

/// Puts the guest's code into memory and the vCPU at its start, in 64-bit mode.
fn enter_at_code(fd: &VcpuFd, ram: &GuestRam<Arc<GuestMemoryMmap>>) -> Result<(), Box<dyn Error>> {
    if ram.write_physical(Gpa(CODE), &GUEST) != GUEST.len() {
        return Err("the guest does not fit its memory".into());
    }
    let long_mode = LongMode::write(ram, Gpa(TABLES), 0).ok_or("no room for page tables")?;
    let mut sregs = fd.get_sregs()?;
    long_mode.apply(&mut sregs);
    fd.set_sregs(&sregs)?;
    let mut registers = fd.get_regs()?;
    registers.rip = CODE;
    registers.rflags = 2;
    fd.set_regs(&registers)?;
    Ok(())
}
