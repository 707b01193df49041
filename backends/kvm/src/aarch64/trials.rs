//! What has to be tried out, because no capability number tells: a guest of a few instructions is
//! debugged in a VM that is thrown away.

use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use kvm_bindings::{KVM_ARM_VCPU_PSCI_0_2, kvm_vcpu_init};
use kvm_ioctls::{Kvm, VmFd};
use trapline_arch::aarch64::registers as ids;
use trapline_arch::{Gpa, Gva, RegisterGroup};
use trapline_engine::contract::GuestMemory;
use trapline_engine::{
    Capabilities, Entry, GuestEnd, HardwarePoint, HardwarePoints, PointAccess, VcpuId, VmExit,
};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::errno;

use super::one_reg;
use super::vcpu::KvmVcpu;
use crate::bus::{AfterExit, DeviceBus};
use crate::control::VcpuControl;
use crate::gate::Gate;
use crate::memory::GuestRam;
use crate::probe::{Trial, or_error};
use crate::run::{Entered, Surroundings};
use crate::sys::{KickSignal, ScratchMemory};

const CODE: u64 = 0x1000;
const DATA: u64 = 0x3000;
/// An address without memory.
const MMIO: u64 = 0x1000_0000;
/// A write to it ends a trial.
const END: u64 = 0x1000_1000;

const NOP: u32 = 0xd503_201f;
/// `brk #0x123`, with an immediate that no debugger uses.
const BRK: u32 = 0xd420_2460;
/// `str w0, [x1]`, where x1 points to [`DATA`].
const STORE_DATA: u32 = 0xb900_0020;
/// `str w0, [x2]`, where x2 points to [`MMIO`].
const STORE_MMIO: u32 = 0xb900_0040;
/// `ldr w0, [x2]`
const LOAD_MMIO: u32 = 0xb940_0040;
/// `str w0, [x3]`, where x3 points to [`END`].
const STORE_END: u32 = 0xb900_0060;
/// `mrs x4, id_aa64mmfr0_el1`, which KVM emulates.
const READ_ID: u32 = 0xd538_0704;
/// EL1 with its own stack pointer and all exceptions masked; debug exceptions are ours and come
/// all the same.
const PSTATE: u64 = 0x3c5;

/// PSTATE.I
const MASK_I: u64 = 1 << 7;
/// PSTATE.SS, which the engine hides.
const SS: u64 = 1 << 21;
/// `svc #0`
const SVC: u32 = 0xd400_0001;

/// How a vCPU that waits instead of ending a trial is noticed.
const PATIENCE: Duration = Duration::from_millis(50);

const STEPPED: VmExit = VmExit::Debug {
    step: true,
    slots: 0,
    data_address: None,
};

/// What came of all trials.
#[derive(Clone, Debug)]
pub(crate) struct Trials {
    pub(crate) single_step: Trial,
    pub(crate) step_over_emulated: Trial,
    pub(crate) step_over_load: Trial,
    pub(crate) step_over_store: Trial,
    pub(crate) execution: Trial,
    pub(crate) watch: Trial,
    pub(crate) breakpoint: Trial,
    /// What masks interrupts for a step does not show after it.
    pub(crate) held_mask: Trial,
    /// What it costs to run the vCPU on another thread than before.
    pub(crate) thread_change: Option<Duration>,
}

struct TrialBus;

impl DeviceBus for TrialBus {
    fn pio_read(&self, _: VcpuId, _: u16, _: &mut [u8]) {}

    fn pio_write(&self, _: VcpuId, _: u16, _: &[u8]) -> AfterExit {
        AfterExit::Resume
    }

    fn mmio_read(&self, _: VcpuId, _: Gpa, data: &mut [u8]) {
        data.fill(0x5a);
    }

    fn mmio_write(&self, _: VcpuId, address: Gpa, _: &[u8]) -> AfterExit {
        if address == Gpa(END) {
            AfterExit::End(GuestEnd::PowerOff)
        } else {
            AfterExit::Resume
        }
    }
}

/// A VM with one vCPU and a few pages.
pub(crate) struct TrialGuest {
    vcpu: KvmVcpu,
    gate: Gate,
    /// Where the next trial's code goes. No code is written over another: QEMU, in which KVM may run,
    /// may go on with the old one while it steps.
    next_code: u64,
    /// Where this trial's code is.
    code: u64,
    memory: Arc<GuestRam<Arc<GuestMemoryMmap>>>,
    /// Before what refers to it.
    _vm: VmFd,
}

impl TrialGuest {
    pub(crate) fn new(
        kvm: &Kvm,
        capabilities: Capabilities,
        signal: KickSignal,
        scratch: &ScratchMemory,
    ) -> Result<Self, errno::Error> {
        let vm = kvm.create_vm()?;
        scratch.add_to(&vm)?;
        let memory = Arc::new(GuestRam::new(scratch.map()));
        let fd = vm.create_vcpu(0)?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)?;
        if let Some(features) = init.features.first_mut() {
            *features |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        }
        fd.vcpu_init(&init)?;
        let control = VcpuControl::new(&fd, signal).map_err(|_| errno::Error::new(libc::ENOMEM))?;
        let vcpu = KvmVcpu::with_capabilities(fd, VcpuId(0), memory.clone(), capabilities)
            .map_err(|_| errno::Error::new(libc::EINVAL))?;
        Ok(Self {
            vcpu,
            gate: Gate::new(vec![control]),
            next_code: CODE,
            code: CODE,
            memory,
            _vm: vm,
        })
    }

    pub(crate) fn run_all(&mut self) -> Trials {
        Trials {
            single_step: self.try_step(NOP),
            step_over_emulated: self.try_step(READ_ID),
            step_over_load: self.try_step(LOAD_MMIO),
            step_over_store: self.try_step(STORE_MMIO),
            execution: self.try_execution(),
            watch: self.try_watch(),
            breakpoint: self.try_breakpoint(),
            held_mask: self.try_held_mask(),
            thread_change: self.time_thread_change(),
        }
    }

    /// Puts `code` and a fresh set of registers in place.
    fn prepare(&mut self, code: &[u32]) -> Result<(), errno::Error> {
        let words = code.iter().chain([&STORE_END]);
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        self.code = self.next_code;
        self.next_code += bytes.len() as u64;
        self.memory.write_physical(Gpa(self.code), &bytes);
        self.vcpu.revive();
        self.vcpu.disarm()?;
        for (register, value) in [
            (one_reg::PC, self.code),
            (one_reg::PSTATE, PSTATE),
            (one_reg::x(1), DATA),
            (one_reg::x(2), MMIO),
            (one_reg::x(3), END),
        ] {
            one_reg::write(&self.vcpu.fd, register, value)?;
        }
        Ok(())
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
        code: &[u32],
        entry: &Entry,
        expected: VmExit,
        offset: u64,
    ) -> Result<Trial, errno::Error> {
        self.check_by(code, entry, |exit| exit == expected, offset)
    }

    fn check_by(
        &mut self,
        code: &[u32],
        entry: &Entry,
        is_expected: impl Fn(VmExit) -> bool,
        offset: u64,
    ) -> Result<Trial, errno::Error> {
        self.prepare(code)?;
        let exit = self.enter(entry);
        let moved = one_reg::read(&self.vcpu.fd, one_reg::PC)?.wrapping_sub(self.code);
        Ok(if exit.is_some_and(is_expected) && moved == offset {
            Trial::Passed
        } else {
            Trial::Failed(format!("{exit:?} after {moved} bytes, not after {offset}"))
        })
    }

    /// Steps `instruction` and, to see that the step after it is one too, what follows.
    fn try_step(&mut self, instruction: u32) -> Trial {
        let entry = Entry {
            step: true,
            ..Entry::default()
        };
        let first = or_error(self.check(&[instruction, NOP, NOP], &entry, STEPPED, 4));
        if !first.passed() {
            return first;
        }
        let exit = self.enter(&entry);
        match one_reg::read(&self.vcpu.fd, one_reg::PC) {
            Ok(pc) if pc == self.code + 8 && exit == Some(STEPPED) => Trial::Passed,
            pc => Trial::Failed(format!("the step behind it ends with {exit:?} at {pc:x?}")),
        }
    }

    fn try_execution(&mut self) -> Trial {
        let entry = Entry {
            hardware: only(PointAccess::Execute, self.next_code + 4),
            ..Entry::default()
        };
        or_error(self.check(&[NOP, NOP], &entry, VmExit::HardwareBreakpoint, 4))
    }

    fn try_watch(&mut self) -> Trial {
        let entry = Entry {
            hardware: only(PointAccess::Write, DATA),
            ..Entry::default()
        };
        let is_it = |exit| {
            matches!(
                exit,
                VmExit::Watchpoint {
                    address: Gva(DATA),
                    ..
                }
            )
        };
        or_error(self.check_by(&[NOP, STORE_DATA], &entry, is_it, 4))
    }

    fn try_breakpoint(&mut self) -> Trial {
        let entry = Entry {
            has_patches: true,
            ..Entry::default()
        };
        or_error(self.check(&[NOP, BRK], &entry, VmExit::BreakpointInstruction, 4))
    }

    /// Steps with interrupts held off, over an instruction that goes on and over one that faults, and
    /// looks whether the guest could see it.
    fn try_held_mask(&mut self) -> Trial {
        let entry = Entry {
            step: true,
            hold_interrupts: true,
            ..Entry::default()
        };
        let result = self.prepare(&[NOP, SVC]).and_then(|()| {
            let unmasked = PSTATE & !MASK_I;
            one_reg::write(&self.vcpu.fd, one_reg::PSTATE, unmasked)?;
            let exits = (self.enter(&entry), self.enter(&entry));
            let file = self.vcpu.known(RegisterGroup::System)?;
            let saved = file.u64(ids::SPSR_EL1);
            let is_stepped = exits == (Some(STEPPED), Some(STEPPED));
            Ok(if is_stepped && saved & !SS == unmasked {
                Trial::Passed
            } else {
                Trial::Failed(format!("{exits:?}, and the guest sees {saved:#x}"))
            })
        });
        or_error(result)
    }

    /// Runs the vCPU on this thread, on another and on this again. Kernels before Linux 6.12 wait
    /// for a grace period of RCU each time.
    fn time_thread_change(&mut self) -> Option<Duration> {
        const ROUNDS: u32 = 3;
        let entry = Entry {
            step: true,
            ..Entry::default()
        };
        self.prepare(&[NOP; 16]).ok()?;
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

fn only(access: PointAccess, address: u64) -> HardwarePoints {
    let mut points = HardwarePoints::default();
    points.set(
        0,
        Some(HardwarePoint {
            address: Gva(address),
            len_bytes: 4,
            access,
        }),
    );
    points
}
