//! Where guests run.

use core::fmt;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use trapline_test_machine::{Architecture, Environment, HostKvm, Machine, MachineOptions};

/// Where `trapline` is in a machine.
pub(crate) const PROGRAM_IN_MACHINE: &str = "/trapline/trapline";

/// On what a scenario is played, with what it needs of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// KVM on x86-64, nothing special: one that interprets guests will do.
    AnyKvm,
    /// KVM on x86-64 with VMX or SVM: watchpoints, and processor features that an interpreting KVM lacks.
    Hardware,
    /// KVM on arm64.
    KvmArm64,
    /// The hypervisor at EL2.
    El2,
}

impl fmt::Display for Needs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AnyKvm | Self::Hardware => "kvm",
            Self::KvmArm64 => "kvm-arm64",
            Self::El2 => "el2",
        })
    }
}

/// What guests can run on.
#[derive(Clone, Debug)]
pub enum Place {
    /// This computer's KVM.
    Host,
    /// The KVM of an emulated machine.
    Machine(Arc<Machine>),
    /// An emulated Arm board for each guest, with the hypervisor for EL2 on it.
    Board,
}

/// The process's machines, at most one of an architecture: a boot takes seconds, so whatever needs one shares it.
static MACHINES: Mutex<Vec<Arc<Machine>>> = Mutex::new(Vec::new());

impl Place {
    /// Whether this computer's KVM has what is needed.
    #[must_use]
    pub fn host_has(needs: Needs) -> bool {
        let kvm = HostKvm::probe();
        match needs {
            Needs::AnyKvm => kvm.runs_tiny_guest(),
            Needs::Hardware => kvm.runs_stock_kernel(),
            Needs::KvmArm64 | Needs::El2 => false,
        }
    }

    /// Returns this process's machine of an architecture; boots it at the first call.
    ///
    /// # Errors
    /// When it cannot be booted here.
    pub fn machine(environment: &Environment, architecture: Architecture) -> Result<Self> {
        let mut machines = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = machines.iter();
        if let Some(machine) = known.find(|machine| machine.architecture() == architecture) {
            return Ok(Self::Machine(Arc::clone(machine)));
        }
        let options = MachineOptions::of(architecture).file(
            PROGRAM_IN_MACHINE,
            Environment::program_for(architecture, "trapline")?,
        );
        let machine = Arc::new(Machine::boot(environment, &options)?);
        machines.push(Arc::clone(&machine));
        Ok(Self::Machine(machine))
    }

    /// The emulated machine in which guests run and files for them lie, if they do not on this computer.
    #[must_use]
    pub fn remote(&self) -> Option<&Machine> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Host | Self::Board => None,
        }
    }

    /// The architecture of the guests here.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::Host => Architecture::X86_64,
            Self::Machine(machine) => machine.architecture(),
            Self::Board => Architecture::Arm64,
        }
    }

    /// Whether interrupts are held off while a vCPU is stepped. KVM on arm64 has no means for that.
    #[must_use]
    pub fn holds_interrupts(&self) -> bool {
        match self {
            Self::Host | Self::Board => true,
            Self::Machine(machine) => machine.architecture() != Architecture::Arm64,
        }
    }

    /// Whether a guest's clock stands while it is stopped. On Arm it goes on yet.
    #[must_use]
    pub fn holds_time(&self) -> bool {
        self.architecture() == Architecture::X86_64
    }

    /// Whether the guest's own breakpoints, watchpoints and steps work at once while the debugger uses slots. KVM does not
    /// tell when a guest writes its debug registers, and on arm64 it keeps a guest from stepping itself.
    #[must_use]
    pub fn shares_slots_at_once(&self) -> bool {
        matches!(self, Self::Board)
    }

    /// What a Linux guest calls the serial port whose output [`crate::RunningGuest::output`] is.
    #[must_use]
    pub fn console(&self) -> &'static str {
        match self {
            Self::Host | Self::Machine(_) => "ttyS0",
            Self::Board => "ttyAMA0",
        }
    }

    /// Ends this process's machines.
    pub(crate) fn end_machines() {
        MACHINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// The program under test.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(Environment::program("trapline")?)
}
