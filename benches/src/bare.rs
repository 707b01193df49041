//! The limit of every step: `KVM_RUN` in a loop, one instruction at a time, with nobody to tell.

use core::time::Duration;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use kvm_bindings::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, kvm_guest_debug};
use kvm_ioctls::{VcpuExit, VcpuFd};
use trapline_guests::Guest;
use trapline_vmm::{Image, Vm, VmConfig};

use crate::servers::GUEST_MIB;

/// The most instructions that the guest takes to come to its main loop.
const MAX_START_STEPS: usize = 1_000_000;

/// A guest that is stepped by the benchmark itself.
pub(crate) struct Bare {
    // Before the memory that it executes from.
    vcpu: VcpuFd,
    _vm: Vm,
    /// The number of instructions of one round of the guest's main loop.
    pub(crate) instructions_per_round: u32,
}

impl Bare {
    /// Makes the guest that the servers have, and steps to its label `main_loop`.
    pub(crate) fn new(guest: &Guest) -> Result<Self> {
        let mut config = VmConfig::new(Image::Bytes(guest.name, guest.elf));
        config.memory_bytes = GUEST_MIB << 20;
        "endless".clone_into(&mut config.cmdline);
        let mut vm = Vm::new(&config)?;
        let vcpu = vm.take_vcpus().pop().context("a VM without vCPUs")?;
        vcpu.set_guest_debug(&kvm_guest_debug {
            control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            ..Default::default()
        })?;
        let mut bare = Self {
            vcpu,
            _vm: vm,
            instructions_per_round: 0,
        };
        let main_loop = guest
            .symbol("main_loop")
            .context("the guest has no main loop")?;
        bare.steps_to(main_loop)?;
        bare.instructions_per_round = u32::try_from(bare.steps_to(main_loop)?)?;
        Ok(bare)
    }

    /// Steps at least once and until the pc is `address`; returns how many steps that were.
    fn steps_to(&mut self, address: u64) -> Result<usize> {
        for count in 1..=MAX_START_STEPS {
            self.step()?;
            if self.vcpu.get_regs()?.rip == address {
                return Ok(count);
            }
        }
        bail!("the guest does not come to its main loop");
    }

    /// Executes one instruction.
    pub(crate) fn step(&mut self) -> Result<()> {
        loop {
            match self.vcpu.run()? {
                VcpuExit::Debug(_) => return Ok(()),
                // The guest's greeting on the serial line.
                VcpuExit::IoOut(..) => {}
                other => bail!("a step ends in {other:?}"),
            }
        }
    }

    /// Steps for as long as `window` and returns the mean time of a step in microseconds.
    pub(crate) fn step_us(&mut self, window: Duration) -> Result<f64> {
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < window {
            for _ in 0..64 {
                self.step()?;
            }
            count += 64;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(count))
    }
}
