//! `KVM_SET_GUEST_DEBUG`: what a run traps, and what KVM forgets meanwhile.
//!
//! Switching single-step on or off makes KVM drop the guest's own RFLAGS.TF, so it is kept here for
//! as long as single-step is on, and given back afterwards (rule R8).

use kvm_bindings::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
    kvm_guest_debug_arch, kvm_regs,
};
use trapline_arch::Gva;
use trapline_arch::x86_64::debug::{
    DebugRegisters, Dr7, HardwareSlot, SLOT_COUNT, SlotKind, SlotLength,
};
use trapline_engine::{Entry, HardwarePoint, HardwarePoints, PointAccess};
use vmm_sys_util::errno;

use super::inject::{Exception, Injection};
use super::vcpu::{KvmVcpu, VcpuTraits, trap_flag};

/// Exact data breakpoints (DR7.LE and DR7.GE), which manuals recommend to set.
const EXACT: Dr7 = Dr7::new().with_le(true).with_ge(true);

/// The longest instruction (SDM vol. 2A, "Instruction Format").
const MAX_INSTRUCTION_BYTES: u64 = 15;

/// What one run traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    pub(super) steps: bool,
    holds_interrupts: bool,
    hardware: HardwarePoints,
    /// The guest's accesses to debug registers are to come out while slots are in use.
    guards_registers: bool,
}

impl Mode {
    pub(super) fn of(entry: &Entry, traits: &VcpuTraits) -> Self {
        Self {
            steps: entry.step,
            holds_interrupts: entry.hold_interrupts && traits.blocks_interrupts,
            hardware: entry.hardware,
            guards_registers: traits.guards_debug_registers && !entry.step,
        }
    }

    /// Returns this mode as one undisturbed step.
    pub(super) fn as_step(self, traits: &VcpuTraits) -> Self {
        Self {
            steps: true,
            holds_interrupts: traits.blocks_interrupts,
            guards_registers: false,
            ..self
        }
    }

    /// Returns this mode without execution breakpoints at `address`.
    pub(super) fn without_execution_at(mut self, address: Gva) -> Self {
        for number in 0..SLOT_COUNT {
            if self
                .hardware
                .slot(number)
                .is_some_and(|point| executes_at(point, address))
            {
                self.hardware.set(number, None);
            }
        }
        self
    }

    /// Returns whether an execution breakpoint at `address` is set.
    pub(super) fn executes_at(&self, address: Gva) -> bool {
        self.hardware
            .iter()
            .any(|(_, point)| executes_at(point, address))
    }

    /// Returns whether an execution breakpoint is set where an instruction behind the one at
    /// `address` can start.
    pub(super) fn executes_behind(&self, address: Gva) -> bool {
        let behind = |point: HardwarePoint| {
            let distance = point.address.0.wrapping_sub(address.0);
            point.access == PointAccess::Execute && (1..=MAX_INSTRUCTION_BYTES).contains(&distance)
        };
        self.hardware.iter().any(|(_, point)| behind(point))
    }

    /// Returns the bits of the slots in use, or `None` if the guest's own are in force.
    pub(super) fn slots(&self) -> Option<u32> {
        let used = self
            .hardware
            .iter()
            .filter(|(number, _)| *number < SLOT_COUNT);
        let bits = used.fold(0, |bits, (number, _)| bits | 1 << number);
        (bits != 0).then_some(bits)
    }

    /// Returns whether accesses to debug registers come out.
    pub(super) fn guards_registers(&self) -> bool {
        self.guards_registers && self.slots().is_some()
    }

    /// Returns whether it has to be looked from time to time what the guest's own debug registers
    /// are: the debugger's are in force, and no access to them comes out.
    pub(super) fn must_look(&self) -> bool {
        !self.steps && !self.guards_registers && self.slots().is_some()
    }

    fn to_kvm(self) -> kvm_guest_debug {
        let mut control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
        if self.steps {
            control |= KVM_GUESTDBG_SINGLESTEP;
        }
        if self.holds_interrupts {
            control |= KVM_GUESTDBG_BLOCKIRQ;
        }
        let mut arch = kvm_guest_debug_arch::default();
        if self.slots().is_some() {
            control |= KVM_GUESTDBG_USE_HW_BP;
            arch.debugreg = debug_registers(&self.hardware, self.guards_registers);
        }
        kvm_guest_debug {
            control,
            pad: 0,
            arch,
        }
    }
}

fn executes_at(point: HardwarePoint, address: Gva) -> bool {
    point.access == PointAccess::Execute && point.address == address
}

/// Returns DR0 to DR7 that trap `points`, and accesses to debug registers if `guards` is set.
fn debug_registers(points: &HardwarePoints, guards: bool) -> [u64; 8] {
    let mut debug = DebugRegisters {
        dr7: EXACT.with_gd(guards),
        ..Default::default()
    };
    for number in 0..SLOT_COUNT {
        debug.set_slot(number, points.slot(number).map(slot_of));
    }
    let [dr0, dr1, dr2, dr3] = debug.addresses.map(|address| address.0);
    [dr0, dr1, dr2, dr3, 0, 0, 0, debug.dr7.into_bits()]
}

fn slot_of(point: HardwarePoint) -> HardwareSlot {
    HardwareSlot {
        address: point.address,
        kind: match point.access {
            PointAccess::Execute => SlotKind::Execute,
            PointAccess::Write => SlotKind::Write,
            PointAccess::Read | PointAccess::ReadWrite => SlotKind::ReadWrite,
        },
        length: match point.len_bytes {
            2 => SlotLength::Two,
            4 => SlotLength::Four,
            8 => SlotLength::Eight,
            _ => SlotLength::One,
        },
    }
}

/// The debug state that KVM was told, and what goes with it.
#[derive(Debug, Default)]
pub(super) struct GuestDebug {
    told: Option<kvm_guest_debug>,
    /// The guest's own RFLAGS.TF while KVM single-steps.
    guest_trap_flag: bool,
    pub(super) injection: Option<Injection>,
    /// The guest's own debug registers as the engine saw them last: DR0 to DR3 and DR7.
    pub(super) seen: Option<OwnRegisters>,
}

/// DR0 to DR3, and DR7.
pub(super) type OwnRegisters = ([u64; SLOT_COUNT], u64);

impl GuestDebug {
    /// Returns whether KVM single-steps and so hides RFLAGS.TF.
    pub(super) fn is_stepping(&self) -> bool {
        self.told.is_some_and(|told| steps(&told))
    }

    pub(super) fn guest_trap_flag(&self) -> bool {
        self.guest_trap_flag
    }

    pub(super) fn set_guest_trap_flag(&mut self, on: bool) {
        self.guest_trap_flag = on;
    }

    /// Takes note that KVM was given `registers`, at which it forgets an exception that it was
    /// asked to deliver. If the pc has been moved away, the guest's breakpoint instruction is no
    /// longer what comes next.
    pub(super) fn registers_written(&mut self, registers: &kvm_regs) {
        self.injection = self
            .injection
            .take()
            .and_then(|injection| injection.requeue(registers));
    }
}

fn steps(debug: &kvm_guest_debug) -> bool {
    debug.control & KVM_GUESTDBG_SINGLESTEP != 0
}

/// Whether a step still has to be armed when `KVM_RUN` is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arming {
    /// There is nothing to arm, or it is done.
    Done,
    /// The trap flag is to be set through the shared page.
    InPage,
}

impl KvmVcpu {
    /// Makes the next `KVM_RUN` trap what `mode` says, with as few calls as that takes.
    pub(super) fn arm(&mut self, mode: &Mode) -> Result<Arming, errno::Error> {
        let wanted = mode.to_kvm();
        let mut arming = Arming::Done;
        if self.debug.told == Some(wanted) {
            self.flush()?;
            if mode.steps && !self.injection_is_pending() {
                // KVM drops the trap flag over an instruction that it emulates, and does not tell.
                if self.shares_registers() {
                    arming = Arming::InPage;
                } else {
                    self.fd.set_guest_debug(&wanted)?;
                }
            }
        } else {
            self.change(wanted)?;
        }
        if let Some(exception) = self.prepare_injection()? {
            arming = Arming::Done;
            self.submit(wanted, exception)?;
        }
        Ok(arming)
    }

    /// Switches all traps off.
    pub(super) fn disarm(&mut self) -> Result<(), errno::Error> {
        self.change(kvm_guest_debug::default())
    }

    fn change(&mut self, wanted: kvm_guest_debug) -> Result<(), errno::Error> {
        let registers = self.registers()?;
        self.flush()?;
        let stepped = self.debug.is_stepping();
        self.fd.set_guest_debug(&wanted)?;
        self.debug.told = Some(wanted);
        match (stepped, steps(&wanted)) {
            (false, true) => self.debug.guest_trap_flag = trap_flag(registers.rflags),
            (true, false) if trap_flag(registers.rflags) => {
                self.rewrite_registers(&registers)?;
            }
            (true, true | false) | (false, false) => {}
        }
        Ok(())
    }

    fn submit(
        &mut self,
        mut wanted: kvm_guest_debug,
        exception: Exception,
    ) -> Result<(), errno::Error> {
        wanted.control |= match exception {
            Exception::Breakpoint => KVM_GUESTDBG_INJECT_BP,
            Exception::Debug => KVM_GUESTDBG_INJECT_DB,
        };
        match self.fd.set_guest_debug(&wanted) {
            Ok(()) => {
                self.injection_submitted();
                Ok(())
            }
            // Another exception is about to be delivered; this one waits for the next entry.
            Err(error) if error.errno() == libc::EBUSY => Ok(()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(address: u64, len_bytes: u64, access: PointAccess) -> HardwarePoint {
        HardwarePoint {
            address: Gva(address),
            len_bytes,
            access,
        }
    }

    fn entry(points: &[(usize, HardwarePoint)]) -> Entry {
        let mut hardware = HardwarePoints::default();
        for (number, point) in points {
            hardware.set(*number, Some(*point));
        }
        Entry {
            hardware,
            ..Entry::default()
        }
    }

    fn traits() -> VcpuTraits {
        VcpuTraits {
            blocks_interrupts: true,
            ..VcpuTraits::default()
        }
    }

    #[test]
    fn slots_keep_their_numbers_kinds_and_lengths() {
        let entry = entry(&[
            (0, point(0x1000, 1, PointAccess::Execute)),
            (2, point(0x2000, 8, PointAccess::Write)),
            (3, point(0x3000, 4, PointAccess::ReadWrite)),
        ]);
        let debug = Mode::of(&entry, &traits()).to_kvm();
        assert_eq!(
            debug.control & KVM_GUESTDBG_USE_HW_BP,
            KVM_GUESTDBG_USE_HW_BP
        );
        let [dr0, dr1, dr2, dr3, _, _, _, dr7] = debug.arch.debugreg;
        assert_eq!([dr0, dr1, dr2, dr3], [0x1000, 0, 0x2000, 0x3000]);
        let dr7 = Dr7::from_bits(dr7);
        assert_eq!(dr7.slot(0), Some((SlotKind::Execute, SlotLength::One)));
        assert_eq!(dr7.slot(1), None);
        assert_eq!(dr7.slot(2), Some((SlotKind::Write, SlotLength::Eight)));
        assert_eq!(dr7.slot(3), Some((SlotKind::ReadWrite, SlotLength::Four)));
    }

    #[test]
    fn without_slots_the_guests_own_registers_stay_in_force() {
        let mode = Mode::of(&entry(&[]), &traits());
        assert_eq!(mode.slots(), None);
        assert_eq!(mode.to_kvm().control & KVM_GUESTDBG_USE_HW_BP, 0);
    }

    #[test]
    fn only_execution_at_the_address_is_taken_out() {
        let entry = entry(&[
            (0, point(0x1000, 1, PointAccess::Execute)),
            (1, point(0x1000, 1, PointAccess::Write)),
            (2, point(0x1001, 1, PointAccess::Execute)),
        ]);
        let mode = Mode::of(&entry, &traits());
        assert!(mode.executes_at(Gva(0x1000)));
        let masked = mode.without_execution_at(Gva(0x1000));
        assert_eq!(masked.slots(), Some(0b110));
    }

    #[test]
    fn registers_are_guarded_where_that_can_be_done_and_slots_are_in_use() {
        let traits = VcpuTraits {
            guards_debug_registers: true,
            ..traits()
        };
        let used = entry(&[(1, point(0x1000, 4, PointAccess::Write))]);
        let guards = |mode: Mode| {
            let dr7 = Dr7::from_bits(mode.to_kvm().arch.debugreg[7]);
            assert_eq!(dr7.gd(), mode.guards_registers());
            (mode.guards_registers(), mode.must_look())
        };
        assert_eq!(guards(Mode::of(&used, &traits)), (true, false));
        assert_eq!(guards(Mode::of(&entry(&[]), &traits)), (false, false));
        let step = Entry { step: true, ..used };
        assert_eq!(guards(Mode::of(&step, &traits)), (false, false));
        let passing = Mode::of(&used, &traits).as_step(&traits);
        assert_eq!(guards(passing), (false, false));
        let traits = VcpuTraits::default();
        assert_eq!(guards(Mode::of(&used, &traits)), (false, true));
        assert_eq!(guards(Mode::of(&step, &traits)), (false, false));
        assert_eq!(guards(Mode::of(&entry(&[]), &traits)), (false, false));
    }

    #[test]
    fn interrupts_are_held_only_where_that_can_be_done() {
        let entry = Entry {
            step: true,
            hold_interrupts: true,
            ..Entry::default()
        };
        let control = |traits| Mode::of(&entry, &traits).to_kvm().control;
        assert_ne!(control(traits()) & KVM_GUESTDBG_BLOCKIRQ, 0);
        assert_eq!(control(VcpuTraits::default()) & KVM_GUESTDBG_BLOCKIRQ, 0);
    }
}
