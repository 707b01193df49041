//! A processor's life: it runs the guest as the engine says, and parks when it has stopped.

#![expect(
    unsafe_code,
    reason = "the guest is entered by assembly, and a processor that goes off ends a life"
)]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, Ordering};

use spin::Mutex;
use trapline_arch::aarch64::debug::Beside;
use trapline_arch::{Architecture, RegisterFile, RegisterGroup};
use trapline_engine::contract::AccessError;
use trapline_engine::{Entry, GuestEnd, GuestMemory, HardwarePoints, Vcpu, VcpuRun, VmExit};
use trapline_hypervisor::lanes::{Processor, drive};

use super::MAX_PROCESSORS;
use super::guest_memory::Ram;
use super::hub::{El2, hub, shared};
use super::registers::{self, Frame, PSTATE_SS};
use super::sysreg::{isb, mrs, msr, wfi};
use super::traps::{Context, Outcome, hcr, take_interrupts};

/// PSTATE.M's exception level.
const PSTATE_LEVEL: u64 = 0b1100;

unsafe extern "C" {
    /// Runs the guest until it comes out, and returns which vector it came by.
    fn enter_guest(frame: *mut Frame) -> u64;
}

/// Where each processor has what the guest had in it.
static CONTEXTS: [AtomicPtr<Context>; MAX_PROCESSORS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_PROCESSORS];

/// What the processor's debug registers hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Programmed {
    points: HardwarePoints,
    is_stepping: bool,
}

/// A processor between two entries.
struct Runner {
    context: Context,
    memory: Ram,
    programmed: Option<Programmed>,
}

/// What a processor has from its being turned on to its going off.
struct Life {
    runner: Runner,
    run: VcpuRun,
}

/// A processor that goes off does so in the middle of its run, and leaves here what it had: the next life gives that
/// back to the heap.
static LIVES: [Mutex<Option<Box<Life>>>; MAX_PROCESSORS] =
    [const { Mutex::new(None) }; MAX_PROCESSORS];

/// Runs the guest on this processor until it goes off.
pub(super) fn run(context: Context) -> ! {
    let index = context.index;
    let shared = shared();
    let place = &LIVES[index];
    // SAFETY: no other processor locks this, and the last life of this one is over.
    unsafe { place.force_unlock() }
    let mut life = place.lock();
    let runner = Runner {
        context,
        memory: hub().memory().clone(),
        programmed: None,
    };
    let run = VcpuRun::new(Architecture::Aarch64, &shared.capabilities);
    CONTEXTS[index].store(core::ptr::null_mut(), Ordering::Relaxed);
    let Life { runner, run } = &mut **life.insert(Box::new(Life { runner, run }));
    CONTEXTS[index].store(&raw mut runner.context, Ordering::Relaxed);
    {
        let mut hub = hub();
        hub.turned_on(index);
        msr!("SP_EL0", 0);
        msr!("SP_EL1", 0);
        if let Some(file) = hub.registers(index) {
            runner.context.take_over(RegisterGroup::General, file);
        }
    }
    loop {
        runner.wait_for_request(run);
        let reason = drive(index, run, runner, &shared.lanes, &El2);
        let mut hub = hub();
        hub.stopped(index, reason, |file| runner.context.show(file), &El2);
        super::hub::set_timer(hub.deadline());
    }
}

/// Fills a file with the registers that the guest had when this processor, on which the hypervisor has
/// failed, left it last.
pub(super) fn show_last(index: usize, file: &mut RegisterFile) {
    let place = CONTEXTS.get(index);
    let context = place.map_or(core::ptr::null_mut(), |place| place.load(Ordering::Relaxed));
    // SAFETY: it is null or what `run` has put there, which stays where it is until this processor's next life. What was
    // changing it on this processor is not gone on with, and it holds plain values only.
    if let Some(context) = unsafe { context.as_ref() } {
        context.show(file);
    }
}

impl Runner {
    /// Parks until the engine sets the processor going.
    fn wait_for_request(&mut self, run: &mut VcpuRun) {
        let index = self.context.index;
        if let Some(interface) = &self.context.interface {
            // What waits for the guest does not wake a processor that parks.
            interface.hold(true);
        }
        loop {
            if let Some(order) = hub().take_request(index) {
                for group in RegisterGroup::ALL {
                    if order.dirty.contains(group.into()) {
                        self.context.take_over(group, order.file);
                    }
                }
                run.begin(order.request);
                return;
            }
            while !shared().lanes.has_request(index) {
                wfi();
                take_interrupts(&mut self.context.interface);
            }
        }
    }

    /// Makes the processor's debug registers what the entry asks for.
    fn program(&mut self, entry: &Entry) {
        let wanted = Programmed {
            points: entry.hardware,
            is_stepping: entry.step,
        };
        if self.programmed == Some(wanted) && !self.context.is_debug_stale {
            return;
        }
        let capabilities = &shared().capabilities;
        let guest = self.context.guest_debug();
        let Beside {
            mut registers,
            left_out,
        } = entry.hardware.beside(&guest, capabilities);
        if left_out > 0 {
            let index = self.context.index;
            self.context.report(format_args!(
                "processor {index}: the guest uses debug registers, and {left_out} of the debugger's points find none"
            ));
        }
        let steps = entry.step || guest.mdscr.ss();
        registers.mdscr = registers.mdscr.with_ss(steps).with_mde(true);
        let (breakpoints, watchpoints) =
            (capabilities.hardware_breakpoints, capabilities.watchpoints);
        registers::store_debug(&registers, breakpoints, watchpoints);
        self.programmed = Some(wanted);
        self.context.is_debug_stale = false;
    }

    /// Takes a step exception of a run that does not step: the guest steps itself.
    ///
    /// While debug exceptions come to EL2, EL1 is stepped too, which the guest has not asked for; and
    /// ERET to EL0 does not take the guest's PSTATE.SS over.
    fn guest_step(&mut self, level_before: u64) -> Option<VmExit> {
        let frame = &mut self.context.frame;
        let level = frame.pstate & PSTATE_LEVEL;
        if level != 0 && !self.context.debug.mdscr.kde() {
            frame.pstate |= PSTATE_SS;
            return None;
        }
        if level == 0 && level_before != 0 {
            if mrs!("SPSR_EL1") & PSTATE_SS != 0 {
                frame.pstate |= PSTATE_SS;
                return None;
            }
            frame.pstate &= !PSTATE_SS;
        }
        Some(VmExit::Debug {
            step: true,
            slots: 0,
            data_address: None,
        })
    }
}

impl Processor for Runner {
    fn prepare(&mut self, entry: &Entry) {
        self.program(entry);
    }

    fn enter(&mut self, entry: &Entry) -> Option<VmExit> {
        // The guest may have written its own debug registers since. Whatever else there is to compare is long.
        if self.context.is_debug_stale {
            self.program(entry);
        }
        let own_step = self.context.frame.pstate & PSTATE_SS;
        let level_before = self.context.frame.pstate & PSTATE_LEVEL;
        if entry.step {
            self.context.frame.pstate |= PSTATE_SS;
        }
        if let Some(interface) = &mut self.context.interface {
            interface.take_sgis();
            interface.hold(entry.hold_interrupts);
        }
        msr!("HCR_EL2", hcr(entry.step));
        isb();
        // SAFETY: the frame is of this processor; stage 2 keeps the guest from the hypervisor's memory.
        let vector = unsafe { enter_guest(&raw mut self.context.frame) };
        let has_not_executed = self.context.frame.pstate & PSTATE_SS != 0;
        if entry.step {
            self.context.frame.pstate &= !PSTATE_SS;
            if has_not_executed {
                self.context.frame.pstate |= own_step;
            }
        }
        match vector {
            0 => match self.context.handle() {
                Outcome::Again => None,
                Outcome::Done => entry.step.then_some(VmExit::Debug {
                    step: true,
                    slots: 0,
                    data_address: None,
                }),
                Outcome::Exit(VmExit::Debug { .. }) if !entry.step => self.guest_step(level_before),
                Outcome::Exit(exit) => Some(exit),
            },
            1 | 2 => {
                take_interrupts(&mut self.context.interface);
                // An interrupt may come between the instruction and its step exception, in either order; another entry
                // would be another step.
                (entry.step && !has_not_executed).then_some(VmExit::Debug {
                    step: true,
                    slots: 0,
                    data_address: None,
                })
            }
            _ => Some(VmExit::Ended(GuestEnd::InternalError(mrs!("ESR_EL2")))),
        }
    }
}

impl Context {
    /// Fills a file with all registers.
    pub(super) fn show(&self, file: &mut RegisterFile) {
        for group in RegisterGroup::ALL {
            registers::load(group, &self.frame, &self.debug, self.optional, file);
        }
    }

    /// Takes a group over that was changed.
    fn take_over(&mut self, group: RegisterGroup, file: &RegisterFile) {
        let (frame, debug) = (&mut self.frame, &mut self.debug);
        registers::store(group, frame, debug, self.optional, file);
        self.is_debug_stale |= group == RegisterGroup::Debug;
    }
}

impl Vcpu for Runner {
    fn load(&mut self, group: RegisterGroup, file: &mut RegisterFile) -> Result<(), AccessError> {
        let context = &self.context;
        registers::load(
            group,
            &context.frame,
            &context.debug,
            context.optional,
            file,
        );
        Ok(())
    }

    fn store(&mut self, group: RegisterGroup, file: &RegisterFile) -> Result<(), AccessError> {
        self.context.take_over(group, file);
        Ok(())
    }

    fn memory(&self) -> &dyn GuestMemory {
        &self.memory
    }

    fn pending_vector(&mut self) -> Result<Option<u8>, AccessError> {
        Ok(None)
    }

    // The engine delivers to this architecture by registers.
    fn inject_breakpoint(&mut self) -> Result<(), AccessError> {
        Err(AccessError::Unsupported)
    }

    fn inject_debug(&mut self, _: u64) -> Result<(), AccessError> {
        Err(AccessError::Unsupported)
    }
}
