//! Resuming, interrupting, and the guest's end (rules R1, R3, R4, R5, R10, R12).

use trapline_engine::{Access, GuestEnd, Start, StepMethod};

use crate::model::memory::{Code, DATA, own_code};
use crate::model::{Choices, Config, World};

fn guest(vcpu_count: usize, code: Code) -> (World, usize) {
    let mut world = World::new(Config::vcpus(vcpu_count), Choices::Fair(0));
    for vcpu in 0..vcpu_count {
        world.program(own_code(vcpu), code.clone());
    }
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

fn loops() -> Code {
    Code::default().nop().inc(DATA).jmp(-10)
}

fn moved(world: &World) -> Vec<usize> {
    let mut vcpus: Vec<usize> = world.executed.iter().map(|one| one.0).collect();
    vcpus.sort_unstable();
    vcpus.dedup();
    vcpus
}

fn run_a_while(world: &mut World, client: usize, packet: &str) -> Vec<usize> {
    world.executed.clear();
    world.send(client, packet);
    world.ticks(100);
    let moved = moved(world);
    world.interrupt(client);
    let stop = world.next(client);
    assert!(stop.starts_with("T02"), "{stop}");
    moved
}

#[test]
fn vcont_moves_those_that_it_names() {
    let (mut world, gdb) = guest(3, loops());
    assert_eq!(run_a_while(&mut world, gdb, "vCont;c"), [0, 1, 2]);
    assert_eq!(run_a_while(&mut world, gdb, "vCont;c:-1"), [0, 1, 2]);
    assert_eq!(run_a_while(&mut world, gdb, "vCont;c:2"), [1]);
    assert_eq!(run_a_while(&mut world, gdb, "vCont;c:1;c:3"), [0, 2]);
    assert_eq!(run_a_while(&mut world, gdb, "vCont;t:1;c"), [1, 2]);
    assert_eq!(run_a_while(&mut world, gdb, "vCont;C05:2"), [1]);
}

#[test]
fn the_first_action_that_fits_counts() {
    let (mut world, gdb) = guest(2, loops());
    world.send(gdb, "vCont;s:1;c");
    let stop = world.next(gdb);
    assert!(stop.contains("thread:1;"), "{stop}");
    assert_eq!(world.executed.iter().filter(|one| one.0 == 0).count(), 1);
}

#[test]
fn resuming_a_thread_that_is_not_there_is_refused() {
    let (mut world, gdb) = guest(2, loops());
    for packet in [
        "vCont;c:9",
        "vCont;s:3",
        "Hc9",
        "Hg9",
        "T9",
        "qThreadExtraInfo,9",
    ] {
        let reply = world.ask(gdb, packet);
        assert!(reply.starts_with('E'), "{packet}: {reply}");
    }
    assert!(world.executed.is_empty());
    assert!(world.ask(gdb, "g").len() > 100, "the session goes on");
}

#[test]
fn a_resume_of_nobody_is_refused() {
    let (mut world, gdb) = guest(2, loops());
    assert!(world.ask(gdb, "vCont;t").starts_with('E'));
    assert!(world.ask(gdb, "vCont;t:1").starts_with('E'));
    assert_eq!(run_a_while(&mut world, gdb, "vCont;c"), [0, 1]);
}

#[test]
fn legacy_packets_resume() {
    let (mut world, gdb) = guest(2, loops());
    assert_eq!(run_a_while(&mut world, gdb, "c"), [0, 1]);
    assert_eq!(run_a_while(&mut world, gdb, "C05"), [0, 1]);
    world.ok(gdb, "Hc2");
    assert_eq!(run_a_while(&mut world, gdb, "c"), [1]);
    world.ok(gdb, "Hc-1");
    world.ok(gdb, "Hg2");
    world.executed.clear();
    for packet in ["s", "S05"] {
        assert!(world.ask(gdb, packet).contains("thread:2;"));
    }
    assert_eq!(world.executed.len(), 2);
    assert_eq!(moved(&world), [1]);
}

#[test]
fn legacy_packets_may_move_the_pc() {
    let (mut world, gdb) = guest(1, Code::default().nop().nop().nop().spin());
    let at = own_code(0) + 2;
    world.ask(gdb, &format!("s{at:x}"));
    assert_eq!(world.pc(gdb), at + 1);
    world.send(gdb, &format!("c{:x}", own_code(0) + 1));
    world.ticks(30);
    world.interrupt(gdb);
    world.next(gdb);
    assert_eq!(world.times(0, own_code(0)), 0);
    assert_eq!(world.times(0, own_code(0) + 1), 1);
}

#[test]
fn an_interrupt_while_nothing_runs_is_not_answered() {
    let (mut world, gdb) = guest(2, loops());
    world.interrupt(gdb);
    world.interrupt(gdb);
    world.ticks(20);
    assert!(world.clients[gdb].inbox.is_empty());
    world.ok(gdb, "vCtrlC");
    world.ticks(20);
    assert!(world.clients[gdb].inbox.is_empty());
}

#[test]
fn an_interrupt_before_the_first_instruction_is_an_interrupt() {
    let (mut world, gdb) = guest(1, loops());
    let mut bytes = Vec::new();
    trapline_rsp::client::encode_packet(b"vCont;c", &mut bytes);
    bytes.push(3);
    world.clients[gdb].expect("vCont;c");
    world.send_raw(gdb, &bytes);
    let stop = world.next(gdb);
    assert!(stop.starts_with("T02"), "{stop}");
}

#[test]
fn an_interrupt_between_a_packets_bytes_is_answered() {
    let (mut world, gdb) = guest(1, loops());
    world.send(gdb, "vCont;c");
    world.ticks(20);
    world.send_raw(gdb, b"$qThread\x03");
    world.ticks(40);
    assert!(world.next(gdb).starts_with("T02"));
    world.clients[gdb].expect("qThreadExtraInfo,1");
    world.send_raw(gdb, b"ExtraInfo,1#c4");
    assert!(!world.next(gdb).is_empty());
}

#[test]
fn an_interrupt_by_packet_is_acknowledged_and_answered() {
    let (mut world, gdb) = guest(2, loops());
    world.send(gdb, "vCont;c");
    world.ticks(20);
    world.ok(gdb, "vCtrlC");
    assert!(world.next(gdb).starts_with("T02"));
}

#[test]
fn an_interrupt_during_a_step_is_one_stop() {
    for ticks in 0..8 {
        let (mut world, gdb) = guest(2, loops());
        world.send(gdb, "vCont;s:1");
        world.ticks(ticks);
        world.interrupt(gdb);
        world.ticks(50);
        assert_eq!(world.clients[gdb].stops.len(), 2);
        assert!(world.executed.len() <= 1);
    }
}

#[test]
fn a_vcpu_that_waits_to_be_started_can_be_interrupted() {
    let (mut world, gdb) = guest(2, Code::default().hlt());
    world.model.cpus[1].waits_for_start = true;
    world.send(gdb, "vCont;c:2");
    world.ticks(20);
    world.interrupt(gdb);
    let stop = world.next(gdb);
    assert!(stop.starts_with("T02thread:2;"), "{stop}");
}

#[test]
fn an_attach_stops_a_guest_that_runs() {
    let mut world = World::new(
        Config {
            start: Start::Running,
            ..Config::vcpus(2)
        },
        Choices::Fair(0),
    );
    world.program(own_code(0), loops());
    world.program(own_code(1), loops());
    world.ticks(30);
    assert!(!world.executed.is_empty());
    let gdb = world.connect();
    let stop = world.ask(gdb, "?");
    assert!(stop.starts_with("T05"), "{stop}");
    assert!(world.is_stopped());
    world.close(gdb);
    let before = world.executed.len();
    world.ticks(30);
    assert!(world.executed.len() > before, "it runs on");
}

#[test]
fn a_guest_held_at_its_start_waits_for_a_client() {
    let (mut world, gdb) = guest(2, loops());
    world.ticks(20);
    world.close(gdb);
    world.ticks(20);
    assert!(world.executed.is_empty(), "nobody said that it may go");
    let gdb = world.connect();
    world.ask(gdb, "?");
    world.ok(gdb, "D");
    world.close(gdb);
    world.ticks(20);
    assert!(!world.executed.is_empty(), "a detach says so");
}

#[test]
fn a_detach_leaves_nothing_and_lets_the_guest_run() {
    let (mut world, gdb) = guest(2, loops());
    let before = world.model.ram.copy();
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 1));
    world.ok(gdb, &format!("Z2,{DATA:x},4"));
    world.ask(gdb, "vCont;c");
    world.ok(gdb, "D");
    assert!(world.engine.is_finished(world.clients[gdb].id));
    world.close(gdb);
    world.ticks(60);
    world.assert_clean(&before);
    assert!(!world.uses_slots(0) && !world.uses_slots(1));
    assert!(world.model.ram.u32(DATA) > 2);
}

#[test]
fn a_kill_ends_the_guest() {
    for packet in ["k", "vKill;1"] {
        let (mut world, gdb) = guest(1, loops());
        world.send(gdb, packet);
        world.ticks(5);
        assert_eq!(world.end, Some(GuestEnd::Killed), "{packet}");
    }
}

#[test]
fn the_end_of_the_guest_is_a_stop_and_its_corpse_can_be_seen() {
    for (port, stop, gone) in [
        (0x64, "T05", "W00"),
        (0xf0, "T05", "W00"),
        (0xfe, "T06", "X06"),
    ] {
        let (mut world, gdb) = guest(2, Code::default().nop().out(port));
        let reply = world.ask(gdb, "vCont;c");
        assert!(reply.starts_with(stop), "{reply}");
        assert_eq!(world.end, None);
        assert!(world.is_stopped());
        assert!((own_code(0)..own_code(2)).contains(&world.pc(gdb)));
        assert_eq!(world.ask(gdb, &format!("m{:x},1", own_code(0))), "90");
        assert_eq!(world.ask(gdb, "vCont;c"), gone);
        assert!(world.end.is_some());
    }
}

#[test]
fn the_guest_ends_when_its_last_client_has_seen_enough() {
    let (mut world, gdb) = guest(1, Code::default().nop().out(0x64));
    assert!(world.ask(gdb, "vCont;c").starts_with("T05"));
    world.close(gdb);
    assert!(world.end.is_some());
}

#[test]
fn a_guest_without_clients_just_ends() {
    let (mut world, gdb) = guest(2, Code::default().nop().nop().out(0x64));
    world.send(gdb, "vCont;c");
    world.close(gdb);
    world.ticks(50);
    assert!(world.end.is_some());
}

#[test]
fn a_guest_that_ends_before_read_only_eyes_just_ends() {
    let (mut world, gdb) = guest(1, Code::default().nop().nop().out(0x64));
    world.connect_as(Access::ReadOnly);
    world.send(gdb, "vCont;c");
    world.close(gdb);
    world.ticks(50);
    assert!(world.end.is_some());
}

#[test]
fn a_vcpu_whose_registers_cannot_be_had_is_a_stop_with_a_reason() {
    let (mut world, gdb) = guest(2, loops());
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 1));
    world.send(gdb, "vCont;c");
    world.model.broken = vec![0];
    let stop = world.next(gdb);
    assert!(stop.starts_with("T06thread:1;"), "{stop}");
    assert!(world.ask(gdb, "p10").starts_with('E'));
    world.model.broken.clear();
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
}

#[test]
fn without_stepping_the_guest_can_still_be_seen_and_stopped() {
    let config = Config {
        step: StepMethod::None,
        software_breakpoints: false,
        hardware_slots: 0,
        ..Config::vcpus(1)
    };
    let mut world = World::new(config, Choices::Fair(0));
    world.program(own_code(0), loops());
    let gdb = world.connect();
    world.ask(gdb, "?");
    for insert in ["Z0", "Z1", "Z2"] {
        let reply = world.ask(gdb, &format!("{insert},{:x},1", own_code(0)));
        assert!(reply.starts_with('E'), "{reply}");
    }
    run_a_while(&mut world, gdb, "vCont;c");
    assert!(world.pc(gdb) >= own_code(0));
}
