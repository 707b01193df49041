//! Every group of registers is read and written.

use kvm_bindings::{Msrs, kvm_msr_entry};
use trapline_arch::x86_64::registers as ids;
use trapline_arch::{Gpa, PhysicalMemory, RegisterFile, RegisterGroup, RegisterId};
use trapline_engine::contract::Vcpu;
use trapline_engine::{AccessError, Entry};
use trapline_test_machine::this_did_not_run;

use super::rig::{POWER_OFF, Rig, on_both_paths, step};

fn load(rig: &mut Rig, group: RegisterGroup) -> RegisterFile {
    let mut file = ids::file();
    rig.vcpu().load(group, &mut file).unwrap();
    file
}

/// Writes `values` into one group and checks that they, and the rest, read back.
fn change(rig: &mut Rig, group: RegisterGroup, values: &[(RegisterId, u64)]) {
    let mut file = load(rig, group);
    for (id, value) in values {
        file.set_u64(*id, *value);
    }
    rig.vcpu().store(group, &file).unwrap();
    let again = load(rig, group);
    for (index, register) in file.table().iter().enumerate() {
        let id = RegisterId(u16::try_from(index).unwrap());
        if register.group == group && id != ids::TSC {
            assert_eq!(again.bytes(id), file.bytes(id), "{}", register.name);
        }
    }
}

#[test]
fn general_registers_reach_the_guest() {
    on_both_paths(|rig| {
        let all = [
            ids::RAX,
            ids::RBX,
            ids::RDX,
            ids::RSI,
            ids::RDI,
            ids::RBP,
            ids::R8,
            ids::R9,
            ids::R10,
            ids::R11,
            ids::R12,
            ids::R13,
            ids::R14,
            ids::R15,
        ];
        let values: Vec<_> = (0x1000_0000_0001..)
            .zip(all)
            .map(|(value, id)| (id, value))
            .collect();
        // mov [rcx], r15
        rig.load(&[0x4c, 0x89, 0x39]);
        change(rig, RegisterGroup::General, &values);
        assert_eq!(rig.enter(step()), super::rig::STEPPED);
        assert_eq!(rig.read_u64(super::rig::DATA), 0x1000_0000_000e);
        let file = load(rig, RegisterGroup::General);
        assert_eq!(file.u64(ids::RIP), super::rig::CODE + 3);
        assert!(values.iter().all(|(id, value)| file.u64(*id) == *value));
    });
}

#[test]
fn system_registers_are_written_and_a_bad_value_is_refused() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        change(
            rig,
            RegisterGroup::System,
            &[
                (ids::FS_BASE, 0x1234_5678),
                (ids::CR2, 0xdead),
                (ids::GDTR_LIMIT, 0x27),
            ],
        );
        rig.step_to(1);
        assert_eq!(
            load(rig, RegisterGroup::System).u64(ids::FS_BASE),
            0x1234_5678
        );
        let mut file = load(rig, RegisterGroup::System);
        file.set_u64(ids::CR4, u64::MAX);
        let refused = rig.vcpu().store(RegisterGroup::System, &file);
        assert!(
            matches!(refused, Err(AccessError::Refused(_))),
            "{refused:?}"
        );
        rig.step_to(2);
    });
}

#[test]
fn vector_registers_reach_the_guest_and_come_back() {
    on_both_paths(|rig| {
        // movups [rcx], xmm3; movups xmm5, [rcx]
        rig.load(&[0x0f, 0x11, 0x19, 0x0f, 0x10, 0x29]);
        let mut file = load(rig, RegisterGroup::Fpu);
        assert_eq!(file.u64(ids::MXCSR), 0x1f80);
        assert_eq!(file.u64(ids::FCTRL), 0x37f);
        assert_ne!(file.u64(ids::XCR0) & 1, 0);
        let pattern: Vec<u8> = (1..=16).collect();
        file.bytes_mut(ids::XMM3).copy_from_slice(&pattern);
        rig.vcpu().store(RegisterGroup::Fpu, &file).unwrap();
        assert_eq!(load(rig, RegisterGroup::Fpu).bytes(ids::XMM3), pattern);
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        let mut stored = [0; 16];
        rig.memory.read_physical(Gpa(super::rig::DATA), &mut stored);
        assert_eq!(stored, pattern[..]);
        assert_eq!(load(rig, RegisterGroup::Fpu).bytes(ids::XMM5), pattern);
    });
}

#[test]
fn model_specific_registers_are_written_without_turning_the_clock_back() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        let before = load(rig, RegisterGroup::Msr).u64(ids::TSC);
        change(
            rig,
            RegisterGroup::Msr,
            &[
                (ids::LSTAR, 0xffff_8000_0000_1000),
                (ids::KERNEL_GS_BASE, 0x77),
            ],
        );
        assert!(load(rig, RegisterGroup::Msr).u64(ids::TSC) > before);
    });
}

#[test]
fn the_guests_debug_registers_are_written() {
    on_both_paths(|rig| {
        change(
            rig,
            RegisterGroup::Debug,
            &[(ids::DR0, 0x1111), (ids::DR3, 0x4444), (ids::DR7, 0x402)],
        );
    });
}

/// Bit of `pvclock_vcpu_time_info.flags`: the guest was stopped by its host.
const GUEST_STOPPED: u8 = 1 << 1;
const FLAGS_OFFSET: u64 = 29;
const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;

#[test]
fn the_guests_clock_is_told_of_a_pause() {
    on_both_paths(|rig| {
        if !super::rig::report().unwrap().capabilities().hides_pauses {
            this_did_not_run("this KVM cannot tell the guest's clock");
            return;
        }
        rig.load(&[0x90; 4]);
        let clock = super::rig::DATA + 0x100;
        let entry = kvm_msr_entry {
            index: MSR_SYSTEM_TIME,
            data: clock | 1,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).unwrap();
        let flags = |rig: &Rig| {
            let mut byte = [0];
            rig.memory
                .read_physical(Gpa(clock + FLAGS_OFFSET), &mut byte);
            byte[0] & GUEST_STOPPED
        };
        assert_eq!(rig.vcpu().fd().unwrap().set_msrs(&msrs).unwrap(), 1);
        rig.step_to(1);
        assert_eq!(flags(rig), 0);
        rig.vcpu().tell_clock();
        rig.step_to(2);
        assert_eq!(flags(rig), GUEST_STOPPED);
    });
}
