//! What the guest writes to its own debug registers while the debugger's are in force (rule R9).

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::thread;

use kvm_bindings::kvm_debug_exit_arch;
use trapline_arch::RegisterGroup;
use trapline_arch::x86_64::debug::{Dr6, Dr7};
use trapline_arch::x86_64::registers;
use trapline_engine::contract::Vcpu;
use trapline_engine::{Entry, PointAccess, VcpuId, VmExit};
use trapline_test_machine::this_did_not_run;

use super::rig::{CODE, DATA, Rig, STEPPED, enter, hit, on_both_paths, point, slots, step};
use crate::x86_64::guest_debug::Mode;

/// `mov dr0, rax; mov dr7, rdx; jmp` to itself
const WRITES: [u8; 8] = [0x0f, 0x23, 0xc0, 0x0f, 0x23, 0xfa, 0xeb, 0xfe];

/// An entry with a slot of the debugger's.
fn watching() -> Entry {
    Entry {
        hardware: slots(&[point(PointAccess::Write, DATA + 64, 8)]),
        ..Entry::default()
    }
}

/// Looks at the guest's debug registers, as the engine does before it plans an entry.
fn look(rig: &mut Rig) -> (u64, Dr7) {
    let mut file = registers::file();
    rig.vcpu().load(RegisterGroup::Debug, &mut file).unwrap();
    (file.u64(registers::DR0), Dr7::read(&file))
}

fn prepare(rig: &mut Rig) -> Dr7 {
    let own = Dr7::new().with_g0(true);
    rig.load(&WRITES);
    rig.change(|registers| {
        registers.rax = CODE + 7;
        registers.rdx = own.into_bits();
    });
    look(rig);
    own
}

/// Enters, with somebody who brings the vCPU out every other millisecond, as the pool has it.
fn enter_with_lookout(rig: &mut Rig) -> VmExit {
    let Rig {
        vcpus, gate, bus, ..
    } = rig;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for look in 1..=2_000 {
                thread::sleep(Duration::from_millis(2));
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                if look == 10 {
                    gate.request_stop(VcpuId(0));
                }
                gate.control(VcpuId(0)).unwrap().kick();
            }
        });
        let exit = enter(&mut vcpus[0], gate, bus, watching());
        is_over.store(true, Ordering::SeqCst);
        gate.control(VcpuId(0)).unwrap().clear_stop();
        exit
    })
}

#[test]
fn a_write_to_a_debug_register_is_seen_within_milliseconds() {
    on_both_paths(|rig| {
        let own = prepare(rig);
        rig.vcpu().traits.guards_debug_registers = false;
        assert!(rig.vcpu().must_look_out(&watching()));
        assert_eq!(enter_with_lookout(rig), VmExit::DebugRegistersChanged);
        assert_eq!(look(rig), (CODE + 7, own));
        // It is told once: what has been looked at is known.
        assert_eq!(enter_with_lookout(rig), VmExit::Interrupted);
    });
}

#[test]
fn an_access_to_a_debug_register_comes_out_where_kvm_tells_of_it() {
    on_both_paths(|rig| {
        if !rig.vcpu().traits.guards_debug_registers {
            this_did_not_run("this KVM does not tell of accesses to debug registers");
            return;
        }
        let own = prepare(rig);
        assert!(!rig.vcpu().must_look_out(&watching()));
        for (offset, after) in [(0, 3), (3, 6)] {
            assert_eq!(rig.enter(watching()), VmExit::DebugRegisterAccess);
            assert_eq!(rig.offset(), offset, "before the access");
            let stepped = Entry {
                hardware: watching().hardware,
                ..step()
            };
            assert_eq!(rig.enter(stepped), STEPPED);
            assert_eq!(rig.offset(), after);
        }
        assert_eq!(look(rig), (CODE + 7, own));
    });
}

/// As KVM on Intel processors reports it, whatever KVM is here.
#[test]
fn the_exit_of_an_access_to_a_debug_register_is_told_from_others() {
    on_both_paths(|rig| {
        rig.load(&WRITES);
        let report = |cause: Dr6| kvm_debug_exit_arch {
            exception: 1,
            pad: 0,
            pc: CODE,
            dr6: cause.into_bits(),
            dr7: 0,
        };
        let guarded = report(Dr6::new().with_bd(true));
        let mut traits = rig.vcpu().traits;
        traits.guards_debug_registers = true;
        let mode = Mode::of(&watching(), &traits);
        let told = rig.vcpu().debug_exit(&guarded, &mode).unwrap();
        assert_eq!(told, Some(VmExit::DebugRegisterAccess));
        // A hit beside it comes first.
        let beside = report(Dr6::new().with_bd(true).with_b(1));
        let told = rig.vcpu().debug_exit(&beside, &mode).unwrap();
        assert_eq!(told, Some(hit(1)));
        // Where the debugger has not guarded them the guest has.
        let mode = Mode::of(&Entry::default(), &traits);
        assert_eq!(rig.vcpu().debug_exit(&guarded, &mode).unwrap(), None);
        assert_eq!(rig.vcpu().pending_vector(), Ok(Some(1)));
    });
}
