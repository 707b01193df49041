//! Stop requests are never lost and never leave an instruction half done (rule R3), and one vCPU
//! can have the guest for itself.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use trapline_engine::{Entry, Held, VcpuId, VmExit};

use super::rig::{
    DATA, Interrupts, RegisterPath, Rig, STEPPED, TestBus, enter, eventually, on_both_paths,
    report, step,
};
use crate::gate::Gate;
use crate::x86_64::KvmVcpu;

/// `inc qword [rcx]; jmp` back
const COUNT: [u8; 5] = [0x48, 0xff, 0x01, 0xeb, 0xfb];

#[test]
fn a_stop_before_the_entry_executes_nothing() {
    on_both_paths(|rig| {
        rig.load(&[0x90]);
        rig.control().request_stop();
        assert_eq!(rig.enter(Entry::default()), VmExit::Interrupted);
        assert_eq!(rig.enter(step()), VmExit::Interrupted);
        assert_eq!(rig.offset(), 0);
        rig.control().clear_stop();
        rig.step_to(1);
    });
}

#[test]
fn a_stop_at_a_device_waits_for_the_end_of_the_instruction() {
    on_both_paths(|rig| {
        // in al, 0x80; mov eax, [rbx]; mov [rbx], al
        for (code, offset, rax) in [
            ([0xe4, 0x80], 2, 0x80),
            ([0x8b, 0x03], 2, 0x5a5a_5a5a),
            ([0x88, 0x03], 2, 0),
        ] {
            rig.load(&[code, [0x90, 0x90], [0xeb, 0xfe]].concat());
            rig.change(|registers| {
                registers.rip = super::rig::CODE;
                registers.rax = 0;
            });
            let exit = thread::scope(|scope| {
                let Rig {
                    vcpus, gate, bus, ..
                } = &mut *rig;
                let (gate, bus, vcpu) = (&*gate, &*bus, &mut vcpus[0]);
                let run = scope.spawn(move || enter(vcpu, gate, bus, Entry::default()));
                eventually("the device is accessed", || {
                    bus.accesses.swap(0, Ordering::SeqCst) != 0
                });
                gate.request_stop(VcpuId(0));
                run.join().unwrap()
            });
            rig.control().clear_stop();
            assert_eq!(exit, VmExit::Interrupted);
            let registers = rig.registers();
            assert!(
                registers.rip >= super::rig::CODE + offset,
                "the instruction is complete"
            );
            assert_eq!(registers.rax, rax);
        }
    });
}

/// Asks for stops from inside the device, so that they come at the very exit.
struct StoppingBus<'a>(&'a Gate);

impl crate::DeviceBus for StoppingBus<'_> {
    fn pio_read(&self, vcpu: VcpuId, _: u16, data: &mut [u8]) {
        self.0.request_stop(vcpu);
        data.fill(0x42);
    }
    fn pio_write(&self, vcpu: VcpuId, _: u16, _: &[u8]) -> crate::AfterExit {
        self.0.request_stop(vcpu);
        crate::AfterExit::Resume
    }
    fn mmio_read(&self, vcpu: VcpuId, _: trapline_arch::Gpa, data: &mut [u8]) {
        self.0.request_stop(vcpu);
        data.fill(0x42);
    }
    fn mmio_write(&self, vcpu: VcpuId, _: trapline_arch::Gpa, _: &[u8]) -> crate::AfterExit {
        self.0.request_stop(vcpu);
        crate::AfterExit::Resume
    }
}

#[test]
fn a_stop_from_within_the_device_stops_right_behind_the_instruction() {
    use crate::run::{Entered, Surroundings};
    on_both_paths(|rig| {
        for code in [[0xe4, 0x80], [0xe6, 0x80], [0x8a, 0x03], [0x88, 0x03]] {
            rig.load(&[code, [0x90, 0x90]].concat());
            rig.change(|registers| {
                registers.rip = super::rig::CODE;
                registers.rax = 0;
            });
            let bus = StoppingBus(&rig.gate);
            let around = Surroundings {
                gate: &rig.gate,
                bus: &bus,
                deadline: None,
            };
            let exit = rig.vcpus[0].enter(&Entry::default(), &around);
            assert_eq!(exit, Entered::Exit(VmExit::Interrupted));
            assert_eq!(rig.offset(), 2, "{code:x?}");
            let reads = matches!(code, [0xe4, _] | [0x8a, _]);
            assert_eq!(rig.registers().rax, if reads { 0x42 } else { 0 });
            rig.control().clear_stop();
        }
    });
}

/// Runs a vCPU over and over and stops it at all kinds of moments.
fn stop_at_random_moments(rig: &mut Rig, which: usize, rounds: u32) {
    let id = VcpuId(u32::try_from(which).unwrap());
    let Rig {
        vcpus, gate, bus, ..
    } = rig;
    let (vcpu, gate, bus): (&mut KvmVcpu, &Gate, &TestBus) = (&mut vcpus[which], gate, bus);
    let control = gate.control(id).unwrap();
    let stops = AtomicUsize::new(0);
    let begun = AtomicUsize::new(0);
    let entered = AtomicUsize::new(0);
    let rounds = rounds as usize;
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                eventually("the next round", || begun.load(Ordering::SeqCst) > round);
                entered.store(round + 1, Ordering::SeqCst);
                let exit = enter(vcpu, gate, bus, Entry::default());
                assert_eq!(exit, VmExit::Interrupted);
                stops.store(round + 1, Ordering::SeqCst);
            }
        });
        for round in 0..rounds {
            control.clear_stop();
            begun.store(round + 1, Ordering::SeqCst);
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Every other time it is on its way into the guest; else it may not even have woken.
            if round % 2 == 0 {
                eventually("it is about to enter", || {
                    entered.load(Ordering::SeqCst) > round
                });
            }
            let delay = Duration::from_nanos((random >> 33) % 40_000);
            let start = Instant::now();
            while start.elapsed() < delay {
                core::hint::spin_loop();
            }
            gate.request_stop(id);
            eventually("a stop request is not lost", || {
                stops.load(Ordering::SeqCst) == round + 1
            });
        }
    });
}

#[test]
fn ten_thousand_stop_requests_of_a_running_vcpu_are_not_lost() {
    on_both_paths(|rig| {
        rig.load(&COUNT);
        stop_at_random_moments(rig, 0, 10_000);
    });
}

#[test]
fn stop_requests_reach_a_vcpu_that_is_halted_in_kvm() {
    let Some(report) = report() else { return };
    let mut rig = Rig::new(report, RegisterPath::Shared, Interrupts::InKernel, 1);
    // hlt with interrupts off: nothing else ever wakes it
    rig.load(&[0xf4]);
    stop_at_random_moments(&mut rig, 0, 2_000);
    assert_eq!(rig.offset(), 1);
}

#[test]
fn stop_requests_reach_a_vcpu_that_is_halted_outside_of_kvm() {
    on_both_paths(|rig| {
        rig.load(&[0xf4]);
        stop_at_random_moments(rig, 0, 1_000);
        assert_eq!(rig.offset(), 1);
        // A wake-up lets it go on behind the HLT.
        rig.gate.wake(VcpuId(0));
        rig.control().clear_stop();
        assert_eq!(rig.enter(Entry::default()), super::rig::POWER_OFF);
    });
}

#[test]
fn stop_requests_reach_a_vcpu_that_waits_for_sipi() {
    let Some(report) = report() else { return };
    let mut rig = Rig::new(report, RegisterPath::Shared, Interrupts::InKernel, 2);
    stop_at_random_moments(&mut rig, 1, 2_000);
}

#[test]
fn an_endless_sequence_of_steps_is_stopped() {
    on_both_paths(|rig| {
        rig.load(&COUNT);
        thread::scope(|scope| {
            let Rig {
                vcpus, gate, bus, ..
            } = &mut *rig;
            let (gate, bus, vcpu) = (&*gate, &*bus, &mut vcpus[0]);
            let run = scope.spawn(move || {
                loop {
                    let exit = enter(vcpu, gate, bus, step());
                    if exit != STEPPED {
                        return exit;
                    }
                }
            });
            thread::sleep(Duration::from_millis(5));
            gate.request_stop(VcpuId(0));
            assert_eq!(run.join().unwrap(), VmExit::Interrupted);
        });
        rig.control().clear_stop();
    });
}

#[test]
fn one_vcpu_of_four_has_the_guest_for_itself_and_all_take_turns() {
    const VCPUS: u32 = 4;
    const TURNS: usize = 200;
    let Some(report) = report() else { return };
    let mut rig = Rig::new(report, RegisterPath::Shared, Interrupts::None, VCPUS);
    rig.load(&COUNT);
    let Rig {
        vcpus,
        gate,
        bus,
        memory,
        ..
    } = &mut rig;
    let (gate, bus, memory) = (&*gate, &*bus, &*memory);
    let counter = |vcpu: u32| {
        trapline_arch::PhysicalMemory::read_u64(
            &**memory,
            trapline_arch::Gpa(DATA + 8 * u64::from(vcpu)),
        )
        .unwrap()
    };
    let over = AtomicUsize::new(0);
    thread::scope(|scope| {
        for vcpu in vcpus.iter_mut() {
            let over = &over;
            scope.spawn(move || {
                let id = vcpu.id();
                for _ in 0..TURNS {
                    assert_eq!(gate.hold(id), Held::Held);
                    let others = || (0..VCPUS).filter(|other| *other != id.0).map(counter);
                    let before: Vec<_> = others().collect();
                    for _ in 0..2 {
                        let entry = Entry {
                            alone: true,
                            ..step()
                        };
                        assert_eq!(enter(vcpu, gate, bus, entry), STEPPED);
                    }
                    assert!(others().eq(before), "another vCPU has executed meanwhile");
                    gate.release(id);
                    assert_eq!(enter(vcpu, gate, bus, step()), STEPPED);
                }
                // From now on it runs freely, and the others still bring it out.
                over.fetch_add(1, Ordering::SeqCst);
                assert_eq!(
                    enter(vcpu, gate, bus, Entry::default()),
                    VmExit::Interrupted
                );
            });
        }
        eventually("all have had their turns", || {
            over.load(Ordering::SeqCst) == VCPUS as usize
        });
        (0..VCPUS).for_each(|vcpu| gate.request_stop(VcpuId(vcpu)));
    });
    assert!((0..VCPUS).all(|vcpu| counter(vcpu) >= TURNS as u64));
}

#[test]
fn a_vcpu_that_holds_the_others_can_be_stopped_as_can_those_that_it_holds() {
    let Some(report) = report() else { return };
    let mut rig = Rig::new(report, RegisterPath::Shared, Interrupts::InKernel, 2);
    rig.load(&[0xf4]);
    let Rig {
        vcpus, gate, bus, ..
    } = &mut rig;
    let (gate, bus) = (&*gate, &*bus);
    let (first, second) = vcpus.split_at_mut(1);
    let (first, second) = (&mut first[0], &mut second[0]);
    assert_eq!(gate.hold(first.id()), Held::Held);
    thread::scope(|scope| {
        // HLT with interrupts off, alone: it never ends by itself.
        let alone = scope.spawn(move || {
            let exit = enter(
                first,
                gate,
                bus,
                Entry {
                    alone: true,
                    ..Entry::default()
                },
            );
            gate.release(first.id());
            exit
        });
        let held = scope.spawn(move || enter(second, gate, bus, Entry::default()));
        thread::sleep(Duration::from_millis(5));
        assert!(!held.is_finished() && !alone.is_finished());
        gate.request_stop(VcpuId(1));
        assert_eq!(
            held.join().unwrap(),
            VmExit::Interrupted,
            "one that is held out"
        );
        gate.request_stop(VcpuId(0));
        assert_eq!(
            alone.join().unwrap(),
            VmExit::Interrupted,
            "the one that is in"
        );
    });
}

#[test]
fn a_vcpu_that_waits_to_hold_the_others_can_be_stopped() {
    let Some(report) = report() else { return };
    let rig = Rig::new(report, RegisterPath::Shared, Interrupts::None, 2);
    assert_eq!(rig.gate.hold(VcpuId(0)), Held::Held);
    thread::scope(|scope| {
        let waits = scope.spawn(|| rig.gate.hold(VcpuId(1)));
        thread::sleep(Duration::from_millis(2));
        assert!(!waits.is_finished());
        rig.gate.request_stop(VcpuId(1));
        assert_eq!(waits.join().unwrap(), Held::Interrupted);
    });
    rig.gate.control(VcpuId(1)).unwrap().clear_stop();
    rig.gate.release(VcpuId(0));
    assert_eq!(
        rig.gate.hold(VcpuId(1)),
        Held::Held,
        "nothing is left behind"
    );
}
