//! Events that the next entry delivers (rules R5, R8).

use kvm_bindings::kvm_vcpu_events;
use trapline_engine::contract::Vcpu;
use trapline_engine::{Entry, VmExit};

use super::rig::{HANDLERS, POWER_OFF, Rig, STACK, on_both_paths};

fn events(rig: &mut Rig) -> kvm_vcpu_events {
    rig.vcpu().fd().unwrap().get_vcpu_events().unwrap()
}

#[test]
fn an_exception_that_kvm_owes_the_guest_is_told() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        assert_eq!(rig.vcpu().pending_vector(), Ok(None));
        let mut owed = events(rig);
        owed.exception.injected = 1;
        owed.exception.nr = 13;
        owed.exception.has_error_code = 1;
        rig.vcpu().fd().unwrap().set_vcpu_events(&owed).unwrap();
        // A stop and a look do not lose it.
        rig.control().request_stop();
        assert_eq!(rig.enter(Entry::default()), VmExit::Interrupted);
        rig.control().clear_stop();
        assert_eq!(rig.vcpu().pending_vector(), Ok(Some(13)));
        assert_eq!(rig.vcpu().pending_vector(), Ok(Some(13)));
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        let registers = rig.registers();
        assert_eq!(registers.rip, HANDLERS + 13 * 16 + 2);
        assert!(registers.rsp < STACK, "the frame is there");
        assert_eq!(rig.vcpu().pending_vector(), Ok(None), "it is delivered");
    });
}

#[test]
fn an_exception_of_the_debuggers_is_told_until_it_is_delivered() {
    on_both_paths(|rig| {
        rig.load(&[0x90; 4]);
        rig.vcpu().inject_debug(1).unwrap();
        assert_eq!(rig.vcpu().pending_vector(), Ok(Some(1)));
        rig.control().request_stop();
        assert_eq!(rig.enter(Entry::default()), VmExit::Interrupted);
        rig.control().clear_stop();
        assert_eq!(rig.vcpu().pending_vector(), Ok(Some(1)));
        assert_eq!(rig.enter(Entry::default()), POWER_OFF);
        assert_eq!(rig.registers().rip, HANDLERS + 16 + 2);
        assert_eq!(rig.vcpu().pending_vector(), Ok(None));
    });
}
