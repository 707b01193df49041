//! A step executes exactly one instruction (rule R5).

use trapline_arch::Gpa;
use trapline_engine::contract::GuestMemory;
use trapline_engine::{Entry, PowerState, VmExit};
use trapline_test_machine::this_did_not_run;

use crate::HostKind;

use super::rig::{
    Interrupts, MMIO, POWER_OFF, RegisterPath, Rig, STEPPED, on_both_paths, report, step,
};

#[test]
fn each_step_is_one_instruction_whoever_executes_it() {
    on_both_paths(|rig| {
        // nop; cpuid; in al, 0x80; out 0x80, al; mov eax, [rbx]; mov [rbx], eax; mov ecx, 0x174;
        // rdmsr; wrmsr; nop; nop
        let code = [
            &[0x90][..],
            &[0x0f, 0xa2],
            &[0xe4, 0x80],
            &[0xe6, 0x80],
            &[0x8b, 0x06],
            &[0x89, 0x06],
            &[0xb9, 0x74, 0x01, 0x00, 0x00],
            &[0x0f, 0x32],
            &[0x0f, 0x30],
            &[0x90],
            &[0x90],
        ];
        rig.load(&code.concat());
        rig.change(|registers| registers.rsi = MMIO);
        let mut offset = 0;
        for instruction in code {
            offset += instruction.len() as u64;
            rig.step_to(offset);
        }
        let written = rig.bus.written.lock().unwrap().clone();
        assert_eq!(written, [(0x80, vec![0x80]), (MMIO, vec![0x5a; 4])]);
    });
}

#[test]
fn each_way_to_reach_a_device_steps_alike_twice_in_a_row() {
    on_both_paths(|rig| {
        for access in [[0x8a, 0x03], [0x88, 0x03], [0xe4, 0x80], [0xe6, 0x80]] {
            let code = [access, access, access].concat();
            rig.load(&code);
            rig.change(|registers| registers.rip = super::rig::CODE);
            for offset in [2, 4, 6] {
                rig.step_to(offset);
            }
        }
    });
}

#[test]
fn register_changes_between_steps_take_effect_and_keep_the_step() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 8]);
        rig.step_to(1);
        rig.change(|registers| {
            registers.rip += 2;
            registers.rax = 7;
        });
        rig.step_to(4);
        assert_eq!(rig.registers().rax, 7);
        rig.step_to(5);
    });
}

#[test]
fn a_jump_to_itself_is_a_step_that_stays() {
    on_both_paths(|rig| {
        rig.load(&[0xeb, 0xfe]);
        for _ in 0..3 {
            rig.step_to(0);
        }
    });
}

#[test]
fn a_repeated_string_instruction_is_stepped_by_iterations() {
    on_both_paths(|rig| {
        // rep stosb
        rig.load(&[0xf3, 0xaa]);
        rig.change(|registers| {
            registers.rcx = 3;
            registers.rdi = super::rig::DATA;
        });
        let mut steps = 0;
        while rig.offset() == 0 {
            assert_eq!(rig.enter(step()), STEPPED);
            steps += 1;
            assert!(steps <= 4, "the instruction does not end");
        }
        assert_eq!((rig.offset(), rig.registers().rcx), (2, 0));
    });
}

#[test]
fn a_string_of_port_writes_loses_and_repeats_nothing_when_stepped() {
    on_both_paths(|rig| {
        // rep outsb
        rig.load(&[0xf3, 0x6e]);
        rig.memory.write_physical(Gpa(super::rig::DATA), b"abcde");
        rig.change(|registers| {
            registers.rcx = 5;
            registers.rsi = super::rig::DATA;
            registers.rdx = 0x80;
        });
        for _ in 0..6 {
            if rig.offset() == 0 {
                assert_eq!(rig.enter(step()), STEPPED);
            }
        }
        assert_eq!((rig.offset(), rig.registers().rcx), (2, 0));
        let written = rig.bus.written.lock().unwrap();
        let expected: Vec<_> = b"abcde".iter().map(|byte| (0x80, vec![*byte])).collect();
        assert_eq!(*written, expected);
    });
}

#[test]
fn a_step_over_hlt_ends_behind_it_and_the_vcpu_is_halted() {
    on_both_paths(|rig| {
        // Without KVM's interrupt controller a KVM may keep the halt to itself when it steps.
        rig.load(&[0xf4]);
        rig.step_to(1);
    });
    let Some(report) = report() else { return };
    let mut rig = Rig::new(report, RegisterPath::Shared, Interrupts::InKernel, 1);
    rig.load(&[0xf4]);
    rig.step_to(1);
    if report.kind() == HostKind::Interpreted {
        this_did_not_run("kvm_pvm does not halt in a step; all but the halt was checked");
    } else {
        assert_eq!(rig.vcpu().power_state(), PowerState::Halted);
    }
}

#[test]
fn interrupts_wait_until_the_steps_are_done() {
    let Some(report) = report() else { return };
    if !report.capabilities().holds_interrupts {
        this_did_not_run("this KVM does not hold interrupts off");
        return;
    }
    for path in [RegisterPath::Shared, RegisterPath::Calls] {
        let mut rig = Rig::new(report, path, Interrupts::InKernel, 1);
        // nop; cpuid; in al, 0x80; nop
        rig.load(&[0x90, 0x0f, 0xa2, 0xe4, 0x80, 0x90]);
        rig.enable_interrupts();
        rig.change(|registers| registers.rflags |= 0x200);
        rig.send_message(0, 0x50);
        for offset in [1, 3, 5] {
            rig.step_to(offset);
        }
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        let handler = super::rig::HANDLERS + 0x50 * 16;
        assert_eq!(
            rig.registers().rip,
            handler + 2,
            "the interrupt came after all"
        );
        let pushed = rig.registers().rsp;
        assert_eq!(rig.read_u64(pushed), super::rig::CODE + 5);
        assert_eq!(
            rig.read_u64(pushed + 16) & 0x100,
            0,
            "the pushed trap flag is the guest's"
        );
    }
}

#[test]
fn the_guests_trap_flag_is_neither_shown_nor_lost() {
    on_both_paths(|rig| {
        // nop; nop; nop, with the guest's own trap flag set.
        rig.load(&[0x90; 4]);
        rig.step_to(1);
        assert_eq!(rig.registers().rflags & 0x100, 0, "ours does not show");
        rig.change(|registers| registers.rflags |= 0x100);
        rig.step_to(2);
        assert_eq!(rig.registers().rflags & 0x100, 0x100, "the guest's stays");
        // Let go, the guest traps into its own handler after one instruction.
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        let registers = rig.registers();
        assert_eq!(
            registers.rip,
            super::rig::HANDLERS + 16 + 2,
            "#DB is vector 1"
        );
        assert_eq!(rig.read_u64(registers.rsp), super::rig::CODE + 3);
        assert_eq!(rig.read_u64(registers.rsp + 16) & 0x100, 0x100);
    });
}

#[test]
fn without_a_trap_flag_of_its_own_the_guest_runs_on_after_steps() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        rig.step_to(1);
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        assert_eq!(rig.offset(), 6);
    });
}

#[test]
fn release_leaves_neither_steps_nor_breakpoints_behind() {
    use kvm_ioctls::VcpuExit;
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        rig.step_to(1);
        let vcpu = rig.vcpus.remove(0);
        let mut fd = vcpu.release().unwrap();
        match fd.run().unwrap() {
            VcpuExit::IoOut(0xf4, _) => {}
            exit => panic!("the guest should have run to its end: {exit:?}"),
        }
    });
}

#[test]
fn an_ended_guest_is_not_stepped() {
    on_both_paths(|rig| {
        rig.load(&[]);
        assert_eq!(rig.enter(step()), POWER_OFF);
        assert_eq!(rig.offset(), 2, "the last instruction is complete");
        assert!(matches!(rig.enter(step()), VmExit::Ended(_)));
    });
}
