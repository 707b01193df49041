//! The hub by a client's packets, with processors that do what a test says; and with threads.

mod threads;
mod world;

use trapline_arch::aarch64::registers::{PC, X0};
use trapline_arch::{RegisterFile, RegisterGroup};
use trapline_engine::{PassFirst, PowerState, ResumeAction, Start, StopReason};

use world::{CODE, World};

/// The registers of a processor that has come to `pc`.
fn at(pc: u64) -> impl FnOnce(&mut RegisterFile) {
    move |file| file.set_u64(PC, pc)
}

#[test]
fn a_guest_begins_by_itself_or_when_a_client_says_so() {
    let mut world = World::new(3, 1, Start::Running);
    assert_eq!(world.to_take_up(), [0, 1, 2]);
    world.go([0]);

    let mut world = World::new(3, 1, Start::Held);
    assert_eq!(world.to_take_up(), []);
    world.connect();
    assert!(world.ask("?").starts_with('T'));
    assert_eq!(world.to_take_up(), []);
    world.say("vCont;c");
    assert_eq!(world.to_take_up(), [0, 1, 2]);
    // Those that are off have nothing to be woken from.
    assert_eq!(world.kicks(), [0]);
    assert_eq!(world.heard(), [""; 0]);
}

#[test]
fn a_client_stops_every_processor_exactly_once() {
    let mut world = World::running(3, 3);
    world.connect();
    assert_eq!(world.asked_to_stop(), []);
    world.kicks();
    for request in [b"$?#3f".as_slice(), b"\x03"] {
        world.receive(request);
        assert_eq!(world.asked_to_stop(), [0, 1, 2]);
        assert_eq!(world.kicks(), [0, 1, 2]);
        world.pause(1);
        world.hub.serve(&world.board);
        world.pause(0);
        assert_eq!(world.heard(), [""; 0], "not all are out");
        assert_eq!(world.kicks(), []);
        world.pause(2);
        let told = world.heard();
        assert!(
            matches!(told.as_slice(), [stop] if stop.starts_with('T')),
            "{told:?}"
        );
        assert_eq!(
            (world.asked_to_stop(), world.kicks()),
            ([].into(), [].into())
        );
        world.say("vCont;c");
        assert_eq!(world.to_take_up(), [0, 1, 2]);
        assert_eq!(world.kicks(), [0, 1, 2]);
        world.go(0..3);
    }
}

#[test]
fn a_processor_that_has_not_begun_yet_is_answered_for() {
    let mut world = World::stopped(2, 2);
    world.say("vCont;c");
    world.go([0]);
    world.receive(b"\x03");
    assert_eq!(world.asked_to_stop(), [0]);
    assert!(world.hub.take_request(1).is_none());
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
}

#[test]
fn a_hit_stops_the_others_and_is_told_once() {
    let mut world = World::stopped(3, 3);
    assert_eq!(world.ask(&alloc::format!("Z0,{CODE:x},4")), "OK");
    world.say("vCont;c");
    world.go(0..3);
    world.kicks();
    let reason = StopReason::SoftwareBreakpoint {
        address: trapline_arch::Gva(CODE),
        gpa: Some(trapline_arch::Gpa(CODE)),
    };
    world.hub.stopped(1, reason, at(CODE), &world.board);
    assert_eq!(
        (world.asked_to_stop(), world.kicks()),
        ([0, 2].into(), [0, 2].into())
    );
    // Another hit on the way out.
    world.hub.stopped(2, reason, at(CODE), &world.board);
    world.pause(0);
    let told = world.heard();
    assert!(
        matches!(told.as_slice(), [stop] if stop.starts_with("T05") && stop.contains("thread:2")),
        "{told:?}"
    );
    // The second one is told of at the next resume, with no processor having run.
    world.say("vCont;c");
    let told = world.heard();
    assert!(
        matches!(told.as_slice(), [stop] if stop.starts_with("T05") && stop.contains("thread:3")),
        "{told:?}"
    );
}

#[test]
fn a_processor_that_is_off_is_listed_stopped_and_set_going() {
    let mut world = World::running(3, 1);
    world.connect();
    world.kicks();
    world.say("?");
    assert_eq!(
        (world.asked_to_stop(), world.kicks()),
        ([0].into(), [0].into())
    );
    assert_eq!(world.heard(), [""; 0]);
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
    let threads = world.ask("qfThreadInfo");
    assert_eq!(threads, "m1,2,3");
    // What a client writes to a processor that is off does not outlive its being turned on.
    assert_eq!(world.ask("Hg2"), "OK");
    assert_eq!(world.ask("P0=1122334455667788"), "OK");
    world.say("vCont;c");
    assert_eq!(
        (world.to_take_up(), world.kicks()),
        ([0, 1, 2].into(), [0].into())
    );

    assert_eq!(world.hub.power(1), PowerState::WaitingForStart);
    world.hub.set_registers(1, |file| file.set_u64(PC, 0x800));
    world.hub.turned_on(1);
    assert_eq!(world.hub.power(1), PowerState::On);
    let order = world.hub.take_request(1).unwrap();
    assert_eq!(order.request.action, ResumeAction::Continue);
    assert_eq!(order.request.pass_first, PassFirst::No);
    assert_eq!(order.file.u64(PC), 0x800);
    assert!(order.dirty.is_empty());
}

#[test]
fn a_processor_goes_on_with_what_it_was_doing_when_it_is_on_again() {
    let mut world = World::running(2, 2);
    world.hub.turn_off(1, at(0x400), &world.board);
    assert_eq!(world.to_take_up(), [1]);
    assert_eq!(world.hub.registers(1).unwrap().u64(PC), 0x400);
    world.connect();
    world.say("?");
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
    world.say("vCont;c");
    world.go([0]);
    world.hub.turned_on(1);
    world.go([1]);
    world.receive(b"\x03");
    assert_eq!(world.asked_to_stop(), [0, 1]);
}

#[test]
fn cpu_off_in_a_step_is_the_step() {
    let mut world = World::stopped(2, 2);
    world.say("vCont;s:2");
    assert_eq!(world.to_take_up(), [1]);
    let order = world.hub.take_request(1).unwrap();
    assert_eq!(order.request.action, ResumeAction::Step);
    world.hub.turn_off(1, at(0x404), &world.board);
    let told = world.heard();
    assert!(
        matches!(told.as_slice(), [stop] if stop.starts_with("T05") && stop.contains("thread:2")),
        "{told:?}"
    );
    assert_eq!(
        (world.to_take_up(), world.asked_to_stop()),
        ([].into(), [].into())
    );
    assert_eq!(world.hub.registers(1).unwrap().u64(PC), 0x404);
    // It goes on like one that was off from the beginning.
    world.kicks();
    world.say("vCont;c");
    assert_eq!(
        (world.to_take_up(), world.kicks()),
        ([0, 1].into(), [0].into())
    );
}

#[test]
fn cpu_off_when_a_stop_is_asked_is_the_answer() {
    let mut world = World::running(2, 2);
    world.connect();
    world.say("?");
    world.hub.turn_off(1, at(0x404), &world.board);
    assert_eq!(world.asked_to_stop(), [0]);
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
    assert_eq!(world.ask("Hg2"), "OK");
    assert_eq!(world.ask("p20"), "0404000000000000");
    assert_eq!(world.to_take_up(), []);
}

#[test]
fn a_processor_that_firmware_keeps_on_goes_on() {
    let mut world = World::running(2, 2);
    world.hub.turn_off(1, at(0x404), &world.board);
    world.hub.stays_on(1);
    assert_eq!(world.hub.power(1), PowerState::On);
    // It comes out once, without an answer, and takes up what it was doing.
    assert_eq!(world.asked_to_stop(), [1]);
    world
        .hub
        .stopped(1, StopReason::Paused, at(0x404), &world.board);
    assert_eq!(world.asked_to_stop(), []);
    let order = world.hub.take_request(1).unwrap();
    assert_eq!(order.request.action, ResumeAction::Continue);
    assert!(order.dirty.is_empty());
    // From here on it is like any other.
    world.connect();
    world.say("?");
    world.pause(0);
    world.pause(1);
    assert!(world.heard().concat().starts_with('T'));
}

#[test]
fn what_a_client_writes_to_a_processor_that_firmware_keeps_on_is_kept() {
    let mut world = World::stopped(2, 2);
    world.say("vCont;s:2");
    world.go([1]);
    world.hub.turn_off(1, at(0x404), &world.board);
    assert!(world.heard().concat().starts_with("T05"));
    assert_eq!(world.ask("Hg2"), "OK");
    assert_eq!(world.ask("P0=1122334455667788"), "OK");
    world.hub.stays_on(1);
    let fill = |file: &mut RegisterFile| file.set_u64(X0, 0xdead);
    world.hub.stopped(1, StopReason::Step, fill, &world.board);
    assert_eq!(world.heard(), [""; 0], "the step was told of already");
    assert_eq!(
        (world.to_take_up(), world.asked_to_stop()),
        ([].into(), [].into())
    );
    world.say("vCont;c");
    let order = world.hub.take_request(1).unwrap();
    assert_eq!(order.file.u64(X0), 0x8877_6655_4433_2211);
    assert!(order.dirty.contains(RegisterGroup::General.into()));
}

#[test]
fn firmware_refuses_after_the_processor_was_stopped_and_set_going() {
    let mut world = World::running(2, 2);
    world.connect();
    world.say("?");
    world.hub.turn_off(1, at(0x404), &world.board);
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
    world.say("vCont;c");
    world.hub.stays_on(1);
    // A stop of what it has not taken up is answered for it; it still comes out.
    world.receive(b"\x03");
    world.go([]);
    assert_eq!(world.asked_to_stop().last(), Some(&1));
    world
        .hub
        .stopped(1, StopReason::Paused, at(0x404), &world.board);
    assert_eq!(world.hub.power(1), PowerState::On);
    assert!(!world.lanes.is_stop_asked(1));
    assert!(world.hub.take_request(1).is_none());
}

#[test]
fn the_end_of_a_session_sets_the_guest_going_with_the_last_reply() {
    let mut world = World::stopped(2, 2);
    assert_eq!(world.ask("D"), "OK");
    assert_eq!(
        (world.to_take_up(), world.kicks()),
        ([0, 1].into(), [0, 1].into())
    );
}

#[test]
fn a_client_that_acknowledges_lets_go_with_its_last_acknowledgement() {
    let mut world = World::running(1, 1);
    assert!(world.ask("qSupported").contains("PacketSize"));
    world.receive(b"+$?#3f");
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
    world.receive(b"+$D#44");
    assert_eq!(world.heard(), ["OK"]);
    assert_eq!(world.to_take_up(), []);
    world.receive(b"+");
    assert_eq!(world.to_take_up(), [0]);
}

#[test]
fn the_next_client_replaces_a_dead_one() {
    let mut world = World::stopped(2, 2);
    let own = world.ram.word(CODE);
    assert_eq!(world.ask(&alloc::format!("Z0,{CODE:x},4")), "OK");
    world.say("vCont;c");
    world.go(0..2);
    assert_ne!(world.ram.word(CODE), own, "the breakpoint stands");
    world.receive(b"\x03");
    world.pause(0);
    world.pause(1);
    assert!(world.heard().concat().starts_with('T'));

    // Nobody has hung up. What the dead client has left is gone, and the guest goes on.
    world.connect();
    assert_eq!(world.ram.word(CODE), own);
    assert_eq!(world.to_take_up(), [0, 1]);
    world.go(0..2);
    world.say("?");
    assert_eq!(world.asked_to_stop(), [0, 1]);
    world.pause(0);
    world.pause(1);
    assert!(world.heard().concat().starts_with('T'));
}

#[test]
fn the_next_client_replaces_one_that_died_with_the_guest_running() {
    let mut world = World::stopped(1, 1);
    let own = world.ram.word(CODE);
    assert_eq!(world.ask(&alloc::format!("Z0,{CODE:x},4")), "OK");
    world.say("vCont;c");
    world.go([0]);
    // The breakpoint is taken out in a pause.
    let features = world.ask("qSupported");
    assert!(features.contains("PacketSize"), "{features}");
    world.pause(0);
    assert_eq!(world.ram.word(CODE), own);
    world.go([0]);
}

#[test]
fn noise_stops_nobodys_guest() {
    let mut world = World::running(1, 1);
    world.receive(b"\x03\x03\xff+-\x00");
    assert_eq!(world.asked_to_stop(), []);
    assert_eq!(world.heard(), [""; 0]);
}

#[test]
fn a_failure_of_the_hypervisor_is_a_stop_of_that_processor() {
    let mut world = World::stopped(3, 3);
    world.say("vCont;c");
    world.go(0..3);
    world.kicks();
    world.hub.fail(1, at(0x404), &world.board);
    assert_eq!(
        (world.asked_to_stop(), world.kicks()),
        ([0, 2].into(), [0, 2].into())
    );
    assert!(world.hub.is_able(0) && !world.hub.is_able(1));
    world.pause(0);
    world.pause(2);
    let told = world.heard();
    assert!(told[0].starts_with('O'), "{told:?}");
    assert!(
        told[1].starts_with("T06") && told[1].contains("thread:2"),
        "{told:?}"
    );
    assert_eq!(world.ask("Hg2"), "OK");
    assert_eq!(world.ask("p20"), "0404000000000000");

    // It takes part in nothing any more, and nobody waits for it.
    world.say("vCont;c");
    world.go([0, 2]);
    assert_eq!(world.kicks(), [0, 2]);
    world.receive(b"\x03");
    assert_eq!(world.asked_to_stop(), [0, 2]);
    world.pause(0);
    world.pause(2);
    assert!(world.heard().concat().starts_with('T'));
    world.say("vCont;s:2");
    assert!(world.heard().iter().any(|told| told.starts_with("T06")));
}

#[test]
fn a_failure_that_nobody_sees_leaves_the_others_going() {
    let mut world = World::running(2, 2);
    world.hub.fail(1, at(0x404), &world.board);
    world.pause(0);
    assert!(world.to_take_up().contains(&0));
    world.go([0]);
    assert_eq!(world.asked_to_stop(), []);
    assert!(world.board.ended.lock().unwrap().is_empty());
    world.connect();
    world.say("?");
    world.pause(0);
    assert!(world.heard().concat().starts_with('T'));
}

#[test]
fn a_failure_of_one_that_parks_is_told_of_when_it_is_set_going() {
    let mut world = World::stopped(2, 2);
    world.hub.fail(1, at(0x404), &world.board);
    assert_eq!(world.heard(), [""; 0]);
    world.say("vCont;c");
    // The other one has not begun.
    assert!(world.heard().concat().contains("T06"));
    assert_eq!(world.to_take_up(), []);
}

#[test]
fn after_a_failure_within_the_engine_the_next_client_is_served() {
    let mut world = World::stopped(2, 2);
    let own = world.ram.word(CODE);
    assert_eq!(world.ask(&alloc::format!("Z0,{CODE:x},4")), "OK");
    world.say("vCont;c");
    world.go(0..2);
    world.receive(b"\x03");
    world.pause(0);
    world.pause(1);
    world.heard();
    world
        .ram
        .fails
        .store(true, core::sync::atomic::Ordering::SeqCst);
    let call = core::panic::AssertUnwindSafe(|| world.say("m100,4"));
    assert!(std::panic::catch_unwind(call).is_err());
    // The processor was in the guest, as far as the engine knows it had stopped.
    world.hub.abandoned(&world.board);
    world.hub.fail(0, |_| (), &world.board);
    assert_eq!(world.ram.word(CODE), own);
    world.heard();
    world.connect();
    world.say("?");
    if world.asked_to_stop() == [1] {
        world.pause(1);
    }
    let told = world.heard().concat();
    assert!(told.contains("T0"), "{told}");
    assert_eq!(world.ask("m100,4").len(), 8);
}

#[test]
fn what_the_hypervisor_has_said_is_told_while_the_guest_runs() {
    let mut world = World::running(1, 1);
    world.connect();
    // monitor log
    let digits = "the guest begins\n".bytes();
    let text = digits.map(|byte| alloc::format!("{byte:02x}"));
    assert_eq!(
        world.ask("qRcmd,6c6f67"),
        text.collect::<alloc::string::String>()
    );
    assert_eq!(world.asked_to_stop(), []);
}

#[test]
fn a_client_ends_the_guest() {
    let mut world = World::stopped(1, 1);
    world.say("k");
    let ended = world.board.ended.lock().unwrap();
    assert_eq!(*ended, [trapline_engine::GuestEnd::Killed]);
}
