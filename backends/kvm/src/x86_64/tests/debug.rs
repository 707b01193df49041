//! Breakpoints, watchpoints, and exceptions that are the guest's own.

use std::thread;

use trapline_arch::Gpa;
use trapline_arch::x86_64::debug::{Dr6, Dr7};
use trapline_engine::contract::{GuestMemory, Vcpu};
use trapline_engine::{Entry, GuestEnd, PointAccess, PowerState, VmExit};
use trapline_test_machine::this_did_not_run;

use super::rig::{
    CODE, DATA, HANDLERS, Interrupts, POWER_OFF, RegisterPath, Rig, STACK, STEPPED, enter,
    eventually, hit, on_both_paths, point, report, runs_on_tcg, slots, step,
};

/// Whether a breakpoint instruction leaves the guest; if not, says so.
fn breakpoints_come_back() -> bool {
    let Some(report) = report() else { return false };
    let come = report.capabilities().software_breakpoints;
    if !come {
        assert!(runs_on_tcg(), "{report}");
        this_did_not_run("QEMU's emulated SVM never intercepts int3");
    }
    come
}

fn execute(address: u64) -> Entry {
    Entry {
        hardware: slots(&[point(PointAccess::Execute, address, 1)]),
        ..Entry::default()
    }
}

#[test]
fn an_execution_breakpoint_stops_before_its_instruction() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        assert_eq!(rig.enter(execute(CODE + 2)), hit(1));
        assert_eq!(rig.offset(), 2);
        assert_eq!(
            rig.enter(execute(CODE + 2)),
            hit(1),
            "it is not passed by itself"
        );
    });
}

#[test]
fn each_slot_reports_its_own_bit() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 6]);
        let points: Vec<_> = (0..4)
            .map(|n| point(PointAccess::Execute, CODE + 1 + n, 1))
            .collect();
        for number in 0..4 {
            let entry = Entry {
                hardware: slots(&points),
                pass_first: true,
                ..Entry::default()
            };
            assert_eq!(rig.enter(entry), hit(1 << number));
            assert_eq!(rig.offset(), 1 + number);
        }
    });
}

#[test]
fn pass_first_passes_once_and_hits_the_next_time() {
    on_both_paths(|rig| {
        // nop; jmp to the start
        rig.load(&[0x90, 0xeb, 0xfd]);
        for _ in 0..3 {
            let exit = rig.enter(Entry {
                pass_first: true,
                ..execute(CODE)
            });
            assert_eq!((exit, rig.offset()), (hit(1), 0));
            assert_eq!(
                rig.registers().rflags & 0x1_0000,
                0,
                "RFLAGS.RF does not show"
            );
        }
    });
}

#[test]
fn pass_first_passes_an_instruction_that_is_emulated() {
    on_both_paths(|rig| {
        // in al, 0x80; cpuid; mov [rbx], al; each with a breakpoint on it
        rig.load(&[0xe4, 0x80, 0x0f, 0xa2, 0x90, 0x90]);
        let hardware = slots(&[
            point(PointAccess::Execute, CODE, 1),
            point(PointAccess::Execute, CODE + 2, 1),
            point(PointAccess::Execute, CODE + 4, 1),
        ]);
        let entry = Entry {
            hardware,
            pass_first: true,
            ..Entry::default()
        };
        assert_eq!((rig.enter(entry), rig.offset()), (hit(0b010), 2));
        assert_eq!((rig.enter(entry), rig.offset()), (hit(0b100), 4));
    });
}

#[test]
fn a_step_with_pass_first_executes_the_instruction_under_the_breakpoint() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        let hardware = execute(CODE).hardware;
        let exit = rig.enter(Entry {
            hardware,
            pass_first: true,
            ..step()
        });
        assert_eq!((exit, rig.offset()), (STEPPED, 1));
        rig.change(|registers| registers.rip = CODE);
        let exit = rig.enter(Entry { hardware, ..step() });
        assert_eq!(
            (exit, rig.offset()),
            (hit(1), 0),
            "without it the breakpoint hits"
        );
    });
}

#[test]
fn watchpoints_report_writes_and_reads_by_slot() {
    let Some(report) = report() else { return };
    if report.capabilities().watchpoints == 0 {
        let host = report.kind().description();
        this_did_not_run(&format!("watchpoints do not hit on {host}"));
        return;
    }
    on_both_paths(|rig| {
        // mov al, [rcx]; mov [rcx], al; nop
        rig.load(&[0x8a, 0x01, 0x88, 0x01, 0x90]);
        let watch = |access| slots(&[point(access, 0x2000, 8), point(access, DATA, 1)]);
        let entry = |access| Entry {
            hardware: watch(access),
            ..Entry::default()
        };
        assert_eq!(rig.enter(entry(PointAccess::Write)), hit(0b10));
        assert_eq!(
            rig.offset(),
            4,
            "after the write, which the read before is not"
        );
        rig.change(|registers| registers.rip = CODE);
        assert_eq!(rig.enter(entry(PointAccess::ReadWrite)), hit(0b10));
        assert_eq!(rig.offset(), 2);
        // A watched write that is stepped is both.
        let exit = rig.enter(Entry {
            hardware: watch(PointAccess::Write),
            ..step()
        });
        assert_eq!(
            exit,
            VmExit::Debug {
                step: true,
                slots: 0b10,
                data_address: None
            }
        );
    });
}

#[test]
fn a_breakpoint_instruction_comes_back_with_the_pc_on_it() {
    if !breakpoints_come_back() {
        return;
    }
    on_both_paths(|rig| {
        rig.load(&[0x90, 0xcc, 0x90]);
        assert_eq!(rig.enter(Entry::default()), VmExit::BreakpointInstruction);
        assert_eq!(rig.offset(), 1);
        rig.change(|registers| registers.rip = CODE);
        rig.step_to(1);
        assert_eq!(
            rig.enter(step()),
            VmExit::BreakpointInstruction,
            "also when stepped on"
        );
        assert_eq!(rig.offset(), 1);
    });
}

#[test]
fn the_guests_own_breakpoint_returns_past_the_instruction() {
    if !breakpoints_come_back() {
        return;
    }
    on_both_paths(|rig| {
        // nop; int3; nop, with a handler that returns
        rig.load(&[0x90, 0xcc, 0x90]);
        rig.memory
            .write_physical(Gpa(HANDLERS + 3 * 16), &[0x48, 0xcf]);
        rig.change(|registers| registers.rflags |= 1);
        assert_eq!(rig.enter(Entry::default()), VmExit::BreakpointInstruction);
        rig.vcpu().inject_breakpoint().unwrap();
        assert_eq!(rig.enter(execute(HANDLERS + 3 * 16)), hit(1));
        let rsp = rig.registers().rsp;
        assert_eq!(rig.read_u64(rsp), CODE + 2, "the return address");
        assert_eq!(rig.read_u64(rsp + 8), 8, "the code segment");
        assert_eq!(
            rig.read_u64(rsp + 16) & 0x1_0101,
            1,
            "the flags, without TF and RF"
        );
        assert_eq!(rig.read_u64(rsp + 24), STACK, "the stack pointer");
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        assert_eq!(rig.offset(), 5, "the guest went on behind it");
    });
}

#[test]
fn an_exception_that_waits_for_delivery_survives_a_stop_and_a_look() {
    if !breakpoints_come_back() {
        return;
    }
    on_both_paths(|rig| {
        rig.load(&[0xcc]);
        assert_eq!(rig.enter(Entry::default()), VmExit::BreakpointInstruction);
        rig.vcpu().inject_breakpoint().unwrap();
        for _ in 0..2 {
            rig.control().request_stop();
            assert_eq!(rig.enter(Entry::default()), VmExit::Interrupted);
            rig.control().clear_stop();
            rig.change(|registers| registers.rax += 1);
        }
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        let registers = rig.registers();
        assert_eq!(registers.rip, HANDLERS + 3 * 16 + 2);
        assert_eq!(rig.read_u64(registers.rsp), CODE + 1);
    });
}

#[test]
fn a_debug_exception_of_the_guests_own_finds_its_cause_in_dr6() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 2]);
        rig.vcpu().inject_debug(1 << 14 | 0b10).unwrap();
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        let registers = rig.registers();
        assert_eq!(registers.rip, HANDLERS + 16 + 2);
        assert_eq!(
            rig.read_u64(registers.rsp),
            CODE,
            "nothing was executed before"
        );
        let dr6 = Dr6::from_bits(rig.vcpu().fd().unwrap().get_debug_regs().unwrap().dr6);
        assert_eq!((dr6.b(), dr6.bs()), (0b10, true));
    });
}

#[test]
fn the_guests_debug_registers_are_in_force_without_the_debuggers() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        let fd = rig.vcpu().fd().unwrap();
        let mut debug = fd.get_debug_regs().unwrap();
        debug.db[2] = CODE + 2;
        debug.dr7 = Dr7::new().with_g2(true).into_bits();
        fd.set_debug_regs(&debug).unwrap();
        let exit = rig.enter(Entry::default());
        if exit == hit(0b100) {
            assert_eq!(rig.offset(), 2, "reported, to be handed back");
        } else {
            assert_eq!(exit, POWER_OFF, "the guest's handler ran");
            let registers = rig.registers();
            assert_eq!(registers.rip, HANDLERS + 16 + 2);
            assert_eq!(rig.read_u64(registers.rsp), CODE + 2);
        }
    });
}

#[test]
fn the_guests_debug_registers_are_left_alone_by_the_debuggers() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        let fd = rig.vcpu().fd().unwrap();
        let mut debug = fd.get_debug_regs().unwrap();
        debug.db[0] = 0x1234;
        fd.set_debug_regs(&debug).unwrap();
        assert_eq!(rig.enter(execute(CODE + 2)), hit(1));
        assert_eq!(
            rig.vcpu().fd().unwrap().get_debug_regs().unwrap().db[0],
            0x1234
        );
    });
}

#[test]
fn a_triple_fault_ends_the_guest_and_leaves_registers_to_read() {
    on_both_paths(|rig| {
        // ud2, and no handlers
        rig.load(&[0x0f, 0x0b]);
        rig.change(|registers| registers.rax = 0x77);
        let fd = rig.vcpu().fd().unwrap();
        let mut sregs = fd.get_sregs().unwrap();
        sregs.idt.limit = 0;
        fd.set_sregs(&sregs).unwrap();
        let ended = VmExit::Ended(GuestEnd::TripleFault);
        assert_eq!(rig.enter(Entry::default()), ended);
        let registers = rig.registers();
        if rig.registers().rip == CODE {
            assert_eq!(registers.rax, 0x77);
        } else {
            println!("KVM has reset the vCPU: rip is {:#x}", registers.rip);
            assert_eq!(report().unwrap().kind(), crate::HostKind::AmdSvm);
        }
        assert_eq!(rig.enter(step()), ended, "it is not entered again");
    });
}

#[test]
fn a_vcpu_that_waits_for_sipi_is_not_started_and_keeps_its_breakpoints() {
    let Some(report) = report() else { return };
    for path in [RegisterPath::Shared, RegisterPath::Calls] {
        let mut rig = Rig::new(report, path, Interrupts::InKernel, 2);
        // nop; nop; hlt in real mode, at the vector's page
        rig.memory.write_physical(Gpa(0x5000), &[0x90, 0x90, 0xf4]);
        // The first vCPU sends INIT and SIPI to all others:
        // mov ebx, 0xfee00300; mov dword [rbx], 0xc4500; mov dword [rbx], 0xc4605
        rig.load(&[
            0xbb, 0x00, 0x03, 0xe0, 0xfe, 0xc7, 0x03, 0x00, 0x45, 0x0c, 0x00, 0xc7, 0x03, 0x05,
            0x46, 0x0c, 0x00,
        ]);
        rig.enable_interrupts();
        let Rig {
            vcpus, gate, bus, ..
        } = &mut rig;
        let (gate, bus) = (&*gate, &*bus);
        let (first, second) = vcpus.split_at_mut(1);
        let (first, second) = (&mut first[0], &mut second[0]);
        assert_eq!(second.power_state(), PowerState::WaitingForStart);
        let control = gate.control(second.id()).unwrap();
        let exit = thread::scope(|scope| {
            let run = scope.spawn(|| enter(second, gate, bus, execute(0x5001)));
            eventually("the vCPU waits in KVM", || control.is_in_guest());
            control.request_stop();
            run.join().unwrap()
        });
        assert_eq!(exit, VmExit::Interrupted, "a stop request reaches it");
        assert_eq!(second.power_state(), PowerState::WaitingForStart);
        control.clear_stop();
        // An execution breakpoint that hits in real mode ends QEMU's whole emulated machine.
        let (entry, stops) = if runs_on_tcg() {
            (step(), STEPPED)
        } else {
            (execute(0x5001), hit(1))
        };
        let exit = thread::scope(|scope| {
            let run = scope.spawn(|| enter(second, gate, bus, entry));
            eventually("the vCPU waits in KVM", || control.is_in_guest());
            assert_eq!(enter(first, gate, bus, Entry::default()), POWER_OFF);
            run.join().unwrap()
        });
        assert_eq!(exit, stops, "what was asked for holds from the start");
        assert_eq!(second.linear_pc().unwrap().0, 0x5001);
        assert_eq!(second.power_state(), PowerState::On);
        assert_eq!(enter(second, gate, bus, step()), STEPPED);
        assert_eq!(second.linear_pc().unwrap().0, 0x5002);
    }
}
