//! Requests that take longer than a moment go on in turns (rules S1, S3, R3, R10).

use trapline_engine::{Access, Time};

use crate::model::memory::{CODE, Code, DATA, own_code};
use crate::model::os::SlowOs;
use crate::model::world::Event;
use crate::model::{Choices, Config, World};

/// Asks for the kernel's symbols: as long as it takes to look for the kernel.
const LONG: &str = "qXfer:exec-file:read::0,100";
const FOUND: &str = "l/trapline/kernel";
const AT: u64 = own_code(0) + 1;

/// Two vCPUs in loops, whose kernel is found after so many turns, and two clients.
fn guest(turns: usize, choices: Choices) -> (World, SlowOs, [usize; 2]) {
    let os = SlowOs::new(turns);
    let mut world = World::with_os(Config::vcpus(2), choices, os.clone());
    for vcpu in 0..2 {
        world.program(own_code(vcpu), Code::default().nop().inc(DATA).jmp(-10));
    }
    let clients = [world.connect(), world.connect()];
    world.ask(clients[0], "?");
    (world, os, clients)
}

/// Gives the engine one turn.
fn turn(world: &mut World) {
    assert!(world.engine.work_due().is_some());
    world.happen(Event::Turn);
}

#[test]
fn a_client_is_answered_while_another_searches() {
    let (mut world, os, [first, second]) = guest(1000, Choices::Fair(0));
    world.send(first, LONG);
    assert_eq!(os.left(), 999, "one turn at once");
    for left in (990..999).rev() {
        world.send(second, "p10");
        assert!(world.clients[second].inbox.pop_front().is_some());
        turn(&mut world);
        assert_eq!(os.left(), left);
    }
    assert!(world.clients[first].inbox.is_empty());
    assert_eq!(world.next(first), FOUND);
    assert_eq!(world.engine.work_due(), None);
}

#[test]
fn what_is_sent_behind_a_search_is_answered_after_it() {
    let (mut world, _, [first, _]) = guest(50, Choices::Fair(0));
    world.send(first, LONG);
    world.send(first, "qC");
    world.send(first, LONG);
    assert_eq!(world.next(first), FOUND);
    assert_eq!(world.next(first), "QC1");
    assert_eq!(world.next(first), FOUND);
}

#[test]
fn searches_take_turns() {
    let os = SlowOs::new(usize::MAX);
    let mut world = World::with_os(Config::vcpus(1), Choices::Fair(0), os);
    let [first, second, third] = [(); 3].map(|()| world.connect());
    world.send(first, LONG);
    world.send(second, "qCRC:0,40000");
    world.send(third, "qCRC:0,40000");
    // Each has had a turn; the sums need one more, and the one that never ends keeps nobody back.
    for _ in 0..3 {
        turn(&mut world);
    }
    assert!(world.clients[second].inbox[0].starts_with('C'));
    assert!(world.clients[third].inbox[0].starts_with('C'));
    assert!(world.engine.work_due().is_some());
}

#[test]
fn stops_are_told_while_a_search_is_under_way() {
    for seed in 0..50 {
        let (mut world, os, [first, second]) = guest(100_000, Choices::random(seed));
        world.ok(first, &format!("Z0,{AT:x},1"));
        world.send(second, LONG);
        for _ in 0..3 {
            world.send(first, "vCont;c");
            assert!(world.next(first).contains("swbreak"));
        }
        world.ok(first, &format!("z0,{AT:x},1"));
        world.send(first, "vCont;c");
        world.ticks(100);
        world.interrupt(first);
        assert!(world.next(first).starts_with("T02"), "seed {seed}");
        assert!(os.left() > 0 && world.clients[second].inbox.is_empty());
    }
}

#[test]
fn the_guest_runs_between_the_turns_of_a_search() {
    let (mut world, os, [first, second]) = guest(20, Choices::Fair(0));
    world.send(second, LONG);
    turn(&mut world);
    world.send(first, "vCont;c");
    let before = world.executed.len();
    assert_eq!(world.next(second), FOUND);
    assert_eq!(os.left(), 0);
    assert!(world.executed.len() > before, "the guest goes on meanwhile");
    assert!(world.clients[first].awaits_stop);
    let ran = world.executed.len();
    world.ticks(30);
    assert!(world.executed.len() > ran, "and after it");
}

#[test]
fn there_is_a_rest_between_turns_while_the_guest_runs() {
    let (mut world, _, [first, second]) = guest(20, Choices::Fair(0));
    world.send(second, LONG);
    assert_eq!(world.engine.work_due(), Some(Time(0)), "it is stopped");
    world.send(first, "vCont;c");
    assert!(world.engine.work_due() > Some(Time(1_000_000)));
}

#[test]
fn a_client_may_vanish_in_the_middle_of_a_search() {
    for seed in 0..100 {
        let (mut world, os, [first, second]) = guest(40, Choices::random(seed));
        let before = world.model.ram.copy();
        world.send(first, "vCont;c");
        world.send(second, LONG);
        world.ticks(seed as usize % 50);
        let left = os.left();
        world.close(second);
        assert_eq!(world.engine.work_due(), None);
        world.ticks(40);
        assert_eq!(os.left(), left, "nobody searches any more");
        world.interrupt(first);
        assert!(world.next(first).starts_with("T02"));
        world.close(first);
        world.ticks(20);
        world.assert_undisturbed(&before, true);
    }
}

#[test]
fn an_interrupt_ends_a_search() {
    let (mut world, _, [first, second]) = guest(100, Choices::Fair(0));
    world.send(first, LONG);
    turn(&mut world);
    world.interrupt(first);
    assert_eq!(world.next(first), "E.interrupted");
    assert!(world.ask(first, "p10").len() == 16);
    // Of a client that waits for a stop it is a request for one, and the search goes on.
    world.ask(second, "?");
    world.send(second, "vCont;c");
    world.send(second, LONG);
    world.ticks(20);
    world.interrupt(second);
    assert!(world.next(second).starts_with("T02"));
    assert_eq!(world.next(second), FOUND);
}

#[test]
fn a_search_of_physical_memory_does_not_pause_the_guest() {
    let (mut world, _, [first, second]) = guest(0, Choices::Fair(0));
    world.ok(second, "Qqemu.PhyMemMode:1");
    world.send(first, "vCont;c");
    world.ticks(10);
    world.send(second, "qCRC:0,40000");
    assert!(!world.is_stopped());
    turn(&mut world);
    assert!(world.clients[second].inbox[0].starts_with('C'));
    assert!(!world.is_stopped());
}

#[test]
fn sums_and_searches_over_several_turns_are_right() {
    let (mut world, _, [first, second]) = guest(0, Choices::Fair(0));
    world.ok(first, "Qqemu.PhyMemMode:1");
    world.ok(second, "Qqemu.PhyMemMode:1");
    // Across the border of two reads, and in the last bytes.
    for at in [0x1_fffe_u64, 0x3_fffc] {
        world.model.ram.put(at, b"?tra");
        let found = world.ask(first, "qSearch:memory:10000;30000;\u{19}trap");
        assert_eq!(found, "0", "another pattern");
        let found = world.ask(first, &format!("qSearch:memory:{:x};30000;tra", 0x1_0000));
        assert_eq!(found, format!("1,{:x}", at + 1));
        world.model.ram.put(at, &[0; 4]);
    }
    assert_eq!(world.ask(first, "qSearch:memory:0;40000000;tra"), "0");
    let whole = world.ask(first, "qCRC:0,40000");
    assert_eq!(whole, format!("C{:x}", crc(&world.model.ram.copy())));
    let reply = world.ask(first, "qCRC:0,40001");
    assert!(
        reply.starts_with("E.cannot read memory at 0x40000"),
        "{reply}"
    );
    assert!(
        world
            .ask(first, &format!("qCRC:{CODE:x},40000001"))
            .starts_with("E.")
    );
}

/// GDB's sum, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte) << 24;
        for _ in 0..8 {
            let carry = crc >> 31 != 0;
            crc = crc << 1 ^ if carry { 0x04c1_1db7 } else { 0 };
        }
    }
    crc
}

#[test]
fn a_read_only_client_may_search() {
    let (mut world, _, [first, _]) = guest(20, Choices::Fair(0));
    let looker = world.connect_as(Access::ReadOnly);
    world.send(first, "vCont;c");
    assert_eq!(world.ask(looker, LONG), FOUND);
}

#[test]
fn a_reset_forgets_the_operating_system() {
    use std::sync::atomic::Ordering;
    let (mut world, os, _) = guest(0, Choices::Fair(0));
    world.engine.handle_reset();
    assert_eq!(os.forgotten.load(Ordering::Relaxed), 1);
}
