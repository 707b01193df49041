//! Where guests run.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use trapline_test_machine::{Environment, HostKvm, Machine, MachineOptions};

/// Where `trapline` is in a machine.
pub(crate) const PROGRAM_IN_MACHINE: &str = "/trapline/trapline";

/// What a scenario needs of KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing special: a KVM that interprets guests will do.
    AnyKvm,
    /// VMX or SVM: watchpoints, and processor features that an interpreting KVM lacks.
    Hardware,
}

/// A KVM that guests can run on.
#[derive(Clone, Debug)]
pub enum Place {
    /// This computer's.
    Host,
    /// That of an emulated machine.
    Machine(Arc<Machine>),
}

/// The process's machine: its boot takes seconds, so whatever needs one shares it.
static MACHINE: Mutex<Option<Arc<Machine>>> = Mutex::new(None);

impl Place {
    /// Whether this computer's KVM has what is needed.
    #[must_use]
    pub fn host_has(needs: Needs) -> bool {
        let kvm = HostKvm::probe();
        match needs {
            Needs::AnyKvm => kvm.runs_tiny_guest(),
            Needs::Hardware => kvm.runs_stock_kernel(),
        }
    }

    /// Returns this process's machine; boots it at the first call.
    ///
    /// # Errors
    /// When it cannot be booted here.
    pub fn machine(environment: &Environment) -> Result<Self> {
        let mut slot = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let machine = match slot.as_ref() {
            Some(machine) => Arc::clone(machine),
            None => {
                let options = MachineOptions::default().file(PROGRAM_IN_MACHINE, program()?);
                let machine = Arc::new(Machine::boot(environment, &options)?);
                Arc::clone(slot.insert(machine))
            }
        };
        Ok(Self::Machine(machine))
    }

    /// Ends this process's machine.
    pub(crate) fn end_machine() {
        let machine = MACHINE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(machine);
    }
}

/// The program under test.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(Environment::program("trapline")?)
}
