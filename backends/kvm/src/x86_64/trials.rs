//! What has to be tried out, because no capability number tells: a guest of a few bytes is debugged
//! in a VM that is thrown away.

use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use kvm_bindings::{kvm_msi, kvm_regs};
use kvm_ioctls::{Kvm, VmFd};
use trapline_arch::{Gpa, Gva};
use trapline_engine::contract::{GuestMemory, Vcpu};
use trapline_engine::{
    Entry, GuestEnd, HardwarePoint, HardwarePoints, PointAccess, VcpuId, VmExit,
};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::errno;

use super::long_mode::LongMode;
use super::vcpu::{KvmVcpu, VcpuTraits};
use crate::bus::{AfterExit, DeviceBus};
use crate::control::VcpuControl;
use crate::gate::Gate;
use crate::memory::GuestRam;
use crate::probe::{Trial, or_error};
use crate::run::{Entered, Surroundings};
use crate::sys::{KickSignal, ScratchMemory};

const TABLES: u64 = 0x1_0000;
const HANDLERS: u64 = 0x2_0000;
const CODE: u64 = 0x1000;
const DATA: u64 = 0x3000;
const STACK: u64 = 0x8000;
/// An address that is mapped and has no memory.
const MMIO: u64 = 0x1000_0000;

/// The port at which a trial ends.
const END_PORT: u16 = 0xf4;
/// `out 0xf4, al`
const END: [u8; 2] = [0xe6, 0xf4];
/// RFLAGS with nothing but the bit that reads 1.
const RFLAGS_CLEAR: u64 = 2;
const RFLAGS_INTERRUPTS: u64 = 0x202;
const INTERRUPT_VECTOR: u8 = 0x50;

/// How a vCPU that waits instead of ending a trial is noticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// What came of all trials.
#[derive(Clone, Debug)]
pub(crate) struct Trials {
    pub(crate) single_step: Trial,
    pub(crate) step_over_cpuid: Trial,
    pub(crate) step_over_in: Trial,
    pub(crate) step_over_out: Trial,
    pub(crate) step_over_mmio: Trial,
    pub(crate) execution: Trial,
    pub(crate) resume_flag: Trial,
    /// The guest's access to a debug register comes out.
    pub(crate) guard: Trial,
    pub(crate) watch: Trial,
    pub(crate) breakpoint: Trial,
    /// The guest's own breakpoint instruction, handed back: the address that was pushed.
    pub(crate) returned_breakpoint: Trial,
    /// The address that was pushed is past the instruction without our help.
    pub(crate) breakpoint_skips: bool,
    pub(crate) held_interrupt: Trial,
    /// What it costs to run the vCPU on another thread than before.
    pub(crate) thread_change: Option<Duration>,
}

struct TrialBus;

impl DeviceBus for TrialBus {
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

/// A VM with one vCPU and a few pages.
pub(crate) struct TrialGuest {
    vcpu: KvmVcpu,
    gate: Gate,
    has_interrupts: bool,
    vm: VmFd,
    memory: Arc<GuestRam<Arc<GuestMemoryMmap>>>,
}

impl TrialGuest {
    pub(crate) fn new(
        kvm: &Kvm,
        traits: VcpuTraits,
        signal: KickSignal,
        scratch: &ScratchMemory,
    ) -> Result<Self, errno::Error> {
        let out_of_memory = || errno::Error::new(libc::ENOMEM);
        let vm = kvm.create_vm()?;
        scratch.add_to(&vm)?;
        let memory = Arc::new(GuestRam::new(scratch.map()));
        let has_interrupts = vm.create_irq_chip().is_ok();
        let fd = vm.create_vcpu(0)?;
        let tables = LongMode::write(&*memory, Gpa(TABLES), HANDLERS).ok_or_else(out_of_memory)?;
        for vector in 0..256 {
            memory.write_physical(Gpa(HANDLERS + vector * LongMode::HANDLER_BYTES), &END);
        }
        let mut sregs = fd.get_sregs()?;
        tables.apply(&mut sregs);
        fd.set_sregs(&sregs)?;
        let control = VcpuControl::new(&fd, signal).map_err(|_| errno::Error::new(libc::ENOMEM))?;
        let vcpu = KvmVcpu::with_traits(&vm, fd, VcpuId(0), memory.clone(), traits)
            .map_err(|_| errno::Error::new(libc::EINVAL))?;
        let gate = Gate::new(vec![control]);
        Ok(Self {
            vcpu,
            gate,
            has_interrupts,
            vm,
            memory,
        })
    }

    pub(crate) fn run_all(&mut self) -> Trials {
        let (returned_breakpoint, breakpoint_skips) = self.try_returned_breakpoint();
        Trials {
            single_step: self.try_step(&[0x90, 0x90], 1),
            step_over_cpuid: self.try_step(&[0x0f, 0xa2, 0x90], 2),
            step_over_in: self.try_step(&[0xe4, 0x80, 0x90], 2),
            step_over_out: self.try_step(&[0xe6, 0x80, 0x90], 2),
            step_over_mmio: self.try_step(&[0x88, 0x03, 0x90], 2),
            execution: self.try_point(PointAccess::Execute, CODE + 1, &[0x90, 0x90], 1),
            resume_flag: self.try_resume_flag(),
            guard: self.try_guard(),
            watch: self.try_point(PointAccess::Write, DATA, &[0x90, 0x88, 0x01, 0x90], 3),
            breakpoint: self.try_breakpoint(),
            returned_breakpoint,
            breakpoint_skips,
            held_interrupt: self.try_held_interrupt(),
            thread_change: self.time_thread_change(),
        }
    }

    /// Puts `code` and a fresh set of registers in place: rcx points to memory, rbx to a device.
    fn prepare(&mut self, code: &[u8], rflags: u64) -> Result<(), errno::Error> {
        self.memory.write_physical(Gpa(CODE), code);
        self.memory
            .write_physical(Gpa(CODE + code.len() as u64), &END);
        self.vcpu.revive();
        self.vcpu.debug.injection = None;
        self.vcpu.disarm()?;
        self.vcpu.rewrite_registers(&kvm_regs {
            rip: CODE,
            rsp: STACK,
            rbx: MMIO,
            rcx: DATA,
            rflags,
            ..Default::default()
        })
    }

    fn enter(&mut self, entry: &Entry) -> Option<VmExit> {
        let deadline = Some(Instant::now() + PATIENCE);
        self.gate.control(VcpuId(0))?.adopt();
        let around = Surroundings {
            gate: &self.gate,
            bus: &TrialBus,
            deadline,
        };
        match self.vcpu.enter(entry, &around) {
            Entered::Exit(exit) => Some(exit),
            Entered::Expired => None,
        }
    }

    /// Runs `code` and checks the exit and how far the pc has come.
    fn check(
        &mut self,
        code: &[u8],
        entry: &Entry,
        expected: VmExit,
        offset: u64,
    ) -> Result<Trial, errno::Error> {
        self.prepare(code, RFLAGS_CLEAR)?;
        let exit = self.enter(entry);
        self.judge(exit, expected, offset)
    }

    fn judge(
        &mut self,
        exit: Option<VmExit>,
        expected: VmExit,
        offset: u64,
    ) -> Result<Trial, errno::Error> {
        let moved = self.vcpu.registers()?.rip.wrapping_sub(CODE);
        Ok(if exit == Some(expected) && moved == offset {
            Trial::Passed
        } else {
            Trial::Failed(format!(
                "{exit:?} after {moved} bytes, not {expected:?} after {offset}"
            ))
        })
    }

    fn try_step(&mut self, code: &[u8], len: u64) -> Trial {
        let entry = Entry {
            step: true,
            ..Entry::default()
        };
        let stepped = VmExit::Debug {
            step: true,
            slots: 0,
            data_address: None,
        };
        or_error(self.check(code, &entry, stepped, len))
    }

    fn try_point(&mut self, access: PointAccess, address: u64, code: &[u8], offset: u64) -> Trial {
        let entry = Entry {
            hardware: only(access, address),
            ..Entry::default()
        };
        or_error(self.check(code, &entry, SLOT_0, offset))
    }

    /// Tries whether RFLAGS.RF makes a breakpoint pass, by one that is met again afterwards.
    fn try_resume_flag(&mut self) -> Trial {
        let hardware = only(PointAccess::Execute, CODE);
        // `nop; jmp` back to the start: the second time it has to hit.
        let result = self
            .prepare(&[0x90, 0xeb, 0xfd], RFLAGS_CLEAR | 1 << 16)
            .and_then(|()| {
                let counted = self.vcpu.registers()?;
                let exit = self.enter(&Entry {
                    hardware,
                    ..Entry::default()
                });
                let registers = self.vcpu.registers()?;
                let passed = exit == Some(SLOT_0) && registers.rflags != counted.rflags;
                Ok(if passed {
                    Trial::Passed
                } else {
                    Trial::Failed(format!("{exit:?} at once"))
                })
            });
        or_error(result)
    }

    /// Tries whether the guest's access to a debug register comes out, before it is made, while a
    /// slot is in use.
    fn try_guard(&mut self) -> Trial {
        self.vcpu.traits.guards_debug_registers = true;
        let entry = Entry {
            hardware: only(PointAccess::Write, DATA),
            ..Entry::default()
        };
        // mov dr0, rax
        let code = [0x90, 0x0f, 0x23, 0xc0];
        let trial = or_error(self.check(&code, &entry, VmExit::DebugRegisterAccess, 1));
        self.vcpu.traits.guards_debug_registers = trial.passed();
        trial
    }

    fn try_breakpoint(&mut self) -> Trial {
        let code = [0x90, 0xcc, 0x90];
        or_error(self.check(&code, &Entry::default(), VmExit::BreakpointInstruction, 1))
    }

    /// Hands the guest its own `int3` back and looks at the return address.
    fn try_returned_breakpoint(&mut self) -> (Trial, bool) {
        let mut pushed = [0; 8];
        let result = self
            .prepare(&[0x90, 0xcc, 0x90], RFLAGS_CLEAR)
            .and_then(|()| {
                self.vcpu.traits.breakpoint_skips = true;
                let first = self.enter(&Entry::default());
                if first != Some(VmExit::BreakpointInstruction) {
                    return Ok(Trial::NotTried(
                        "a breakpoint instruction does not come back",
                    ));
                }
                let queued = self.vcpu.inject_breakpoint();
                let exit = self.enter(&Entry::default());
                let rsp = self.vcpu.registers()?.rsp;
                self.vcpu.memory().read_physical(Gpa(rsp), &mut pushed);
                let handled = exit == Some(VmExit::Ended(GuestEnd::PowerOff));
                Ok(if queued.is_ok() && handled {
                    Trial::Passed
                } else {
                    Trial::Failed(format!("{exit:?} instead of the guest's handler"))
                })
            });
        let pushed = u64::from_le_bytes(pushed).wrapping_sub(CODE);
        match or_error(result) {
            Trial::Passed if pushed != 1 && pushed != 2 => (
                Trial::Failed(format!("the return address is {pushed} bytes on, not 2")),
                true,
            ),
            trial => (trial, pushed == 2),
        }
    }

    /// Makes an interrupt pend and steps with it held off, then without.
    fn try_held_interrupt(&mut self) -> Trial {
        if !self.vcpu.traits.blocks_interrupts {
            return Trial::NotTried("KVM does not offer it");
        }
        if !self.has_interrupts {
            return Trial::NotTried("this KVM has no interrupt controller");
        }
        let entry = Entry {
            step: true,
            hold_interrupts: true,
            ..Entry::default()
        };
        let result = self
            .prepare(&[0x90, 0x90], RFLAGS_INTERRUPTS)
            .and_then(|()| {
                self.raise_interrupt()?;
                let exit = self.enter(&entry);
                let stepped = VmExit::Debug {
                    step: true,
                    slots: 0,
                    data_address: None,
                };
                let held = self.judge(exit, stepped, 1)?;
                // The interrupt was there, and comes now.
                let exit = self.enter(&Entry::default());
                let in_handler = self.vcpu.registers()?.rip >= HANDLERS;
                Ok(match held {
                    Trial::Passed if !in_handler => {
                        Trial::Failed(format!("the interrupt is lost: {exit:?}"))
                    }
                    held => held,
                })
            });
        or_error(result)
    }

    fn raise_interrupt(&mut self) -> Result<(), errno::Error> {
        let mut lapic = self.vcpu.fd.get_lapic()?;
        // Spurious-interrupt vector register, "APIC software enable".
        if let Some(byte) = lapic.regs.get_mut(0xf1) {
            *byte |= 1;
        }
        self.vcpu.fd.set_lapic(&lapic)?;
        let msi = kvm_msi {
            address_lo: 0xfee0_0000,
            data: INTERRUPT_VECTOR.into(),
            ..Default::default()
        };
        self.vm.signal_msi(msi).map(|_| ())
    }

    /// Runs the vCPU on this thread, on another and on this again. Kernels before Linux 6.12 wait
    /// for a grace period of RCU each time.
    fn time_thread_change(&mut self) -> Option<Duration> {
        const ROUNDS: u32 = 3;
        let entry = Entry {
            step: true,
            ..Entry::default()
        };
        self.prepare(&[0x90; 16], RFLAGS_CLEAR).ok()?;
        self.enter(&entry)?;
        let mut worst = Duration::ZERO;
        for _ in 0..ROUNDS {
            let guest = &mut *self;
            let elsewhere = thread::scope(|scope| {
                let other = scope.spawn(move || {
                    let start = Instant::now();
                    guest.enter(&entry).map(|_| start.elapsed())
                });
                other.join().ok().flatten()
            });
            let start = Instant::now();
            self.enter(&entry)?;
            worst = worst.max(elsewhere?).max(start.elapsed());
        }
        Some(worst)
    }
}

/// A hit of slot 0.
const SLOT_0: VmExit = VmExit::Debug {
    step: false,
    slots: 1,
    data_address: None,
};

fn only(access: PointAccess, address: u64) -> HardwarePoints {
    let mut points = HardwarePoints::default();
    points.set(
        0,
        Some(HardwarePoint {
            address: Gva(address),
            len_bytes: 1,
            access,
        }),
    );
    points
}
