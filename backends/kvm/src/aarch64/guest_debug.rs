//! `KVM_SET_GUEST_DEBUG`: what a run traps.
//!
//! While guest debugging is on KVM routes every debug exception to us, the guest's own included,
//! and while the debugger uses slots it carries the guest's accesses to its debug registers out on a
//! copy. The guest's own single-step (`MDSCR_EL1.SS`) does not work meanwhile, so guest debugging is
//! on only where it is needed.

use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW, KVM_GUESTDBG_USE_SW_BP,
    kvm_guest_debug, kvm_guest_debug_arch,
};
use trapline_arch::RegisterGroup;
use trapline_arch::aarch64::debug::DebugRegisters;
use trapline_engine::Entry;
use vmm_sys_util::errno;

use super::vcpu::KvmVcpu;

/// What one run traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) steps: bool,
    has_patches: bool,
    /// The debugger's debug registers, with the guest's own among them; `None` if the guest's own
    /// are in force.
    hardware: Option<DebugRegisters>,
}

impl Mode {
    /// Returns whether it has to be looked from time to time what the guest's own debug registers
    /// are: the debugger's are in force, and KVM does not tell of the guest's accesses.
    pub(super) fn must_look(&self) -> bool {
        !self.steps && self.hardware.is_some()
    }

    fn to_kvm(self) -> kvm_guest_debug {
        let mut debug = kvm_guest_debug::default();
        if !self.steps && !self.has_patches && self.hardware.is_none() {
            return debug;
        }
        debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
        if self.steps {
            debug.control |= KVM_GUESTDBG_SINGLESTEP;
        }
        if let Some(registers) = &self.hardware {
            debug.control |= KVM_GUESTDBG_USE_HW;
            debug.arch = to_arch(registers);
        }
        debug
    }
}

/// Returns whether [`Mode::must_look`] is true of an entry.
pub(super) fn must_look(entry: &Entry) -> bool {
    !entry.step && !entry.hardware.is_empty()
}

/// Returns the registers as KVM takes them.
fn to_arch(debug: &DebugRegisters) -> kvm_guest_debug_arch {
    kvm_guest_debug_arch {
        dbg_bcr: debug.breakpoints.map(|slot| slot.control.into_bits()),
        dbg_bvr: debug.breakpoints.map(|slot| slot.value),
        dbg_wcr: debug.watchpoints.map(|slot| slot.control.into_bits()),
        dbg_wvr: debug.watchpoints.map(|slot| slot.value),
    }
}

/// The debug state that KVM was told, and what goes with it.
#[derive(Debug, Default)]
pub(super) struct GuestDebug {
    told: Option<kvm_guest_debug>,
    /// The guest's own debug registers at the last entry with the debugger's.
    pub(super) seen: Option<DebugRegisters>,
}

impl KvmVcpu {
    /// Returns what a run traps that `entry` asks for.
    pub(super) fn mode(&mut self, entry: &Entry) -> Result<Mode, errno::Error> {
        let mut mode = Mode {
            steps: entry.step,
            has_patches: entry.has_patches,
            hardware: None,
        };
        if !entry.hardware.is_empty() {
            let own = DebugRegisters::read(self.known(RegisterGroup::Debug)?);
            self.debug.seen = Some(own);
            let both = entry.hardware.beside(&own, &self.capabilities);
            mode.hardware = Some(both.registers);
        }
        Ok(mode)
    }

    /// Makes the next `KVM_RUN` trap what `mode` says.
    pub(super) fn arm(&mut self, mode: &Mode) -> Result<(), errno::Error> {
        self.tell(mode.to_kvm())
    }

    /// Switches all traps off. KVM then also forgets a step that has ended and was not reported.
    pub(super) fn disarm(&mut self) -> Result<(), errno::Error> {
        self.tell(kvm_guest_debug::default())
    }

    fn tell(&mut self, wanted: kvm_guest_debug) -> Result<(), errno::Error> {
        if self.debug.told != Some(wanted) {
            self.debug.told = None;
            self.fd.set_guest_debug(&wanted)?;
            self.debug.told = Some(wanted);
        }
        Ok(())
    }
}
