//! Several things at once, in every order in which they can happen (rules R1, R2, R3, R10, S1).
//!
//! The world checks at every moment that nobody is in the guest between a stop reply and the next
//! resume, and that no resume has two stop replies.

use trapline_arch::x86_64::registers::RIP;

use crate::model::memory::{CODE, Code, DATA};
use crate::model::{Choices, Config, World};
use crate::play::{Actor, every_interleaving};

const LIMIT: usize = 400_000;
const BREAKPOINT: u64 = CODE + 1;
const BEHIND: u64 = CODE + 8;

/// `nop; inc [DATA]; nop; hlt`.
fn straight() -> Code {
    Code::default().nop().inc(DATA).nop().hlt()
}

/// vCPUs at the start of the same code, and a client that has looked around.
fn shared_code(vcpu_count: usize, code: &Code, choices: Choices) -> (World, usize) {
    let mut world = World::new(Config::vcpus(vcpu_count), choices);
    world.program(CODE, code.clone());
    for cpu in &mut world.model.cpus {
        cpu.file.set_u64(RIP, CODE);
    }
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

/// Two vCPUs on the way to a breakpoint, and a client that goes on `times` times.
fn two_on_the_way(choices: Choices, times: usize) -> (World, Vec<Actor>) {
    let (mut world, gdb) = shared_code(2, &straight(), choices);
    world.ok(gdb, "Z0,10001,1");
    world.send(gdb, "vCont;c");
    (world, vec![Actor::resumes(gdb, &vec!["vCont;c"; times])])
}

/// The threads whose breakpoint hits were reported, in ascending order.
fn hits(world: &World, client: usize) -> Vec<u32> {
    let hits = world.clients[client].stops.iter();
    let mut hits: Vec<u32> = hits
        .filter(|stop| stop.contains("swbreak") || stop.contains("hwbreak"))
        .map(|stop| {
            let at = stop.find("thread:").unwrap() + 7;
            stop[at..].split(';').next().unwrap().parse().unwrap()
        })
        .collect();
    hits.sort_unstable();
    hits
}

/// Every vCPU has run the straight code to its end, each instruction once.
fn assert_all_done(world: &World) {
    for vcpu in 0..world.model.cpus.len() {
        for pc in [CODE, BREAKPOINT, BEHIND, BEHIND + 1] {
            assert_eq!(world.times(vcpu, pc), 1, "vCPU {vcpu} at {pc:#x}");
        }
    }
}

/// A client that still waits can stop the guest; then it goes, and nothing is left of it.
fn leave(world: &mut World, client: usize, code: &Code) {
    if world.clients[client].awaits_stop {
        world.interrupt(client);
        world.ticks(200);
        assert!(
            !world.clients[client].awaits_stop,
            "an interrupt was not answered"
        );
    }
    world.close(client);
    assert_undisturbed(world, code);
}

fn assert_undisturbed(world: &mut World, code: &Code) {
    world.ticks(200);
    let mut before = World::new(Config::vcpus(1), Choices::Fair(0))
        .model
        .ram
        .copy();
    before[CODE as usize..][..code.0.len()].copy_from_slice(&code.0);
    world.assert_clean(&before);
}

#[test]
fn two_hits_at_once_are_reported_one_after_the_other() {
    every_interleaving(
        LIMIT,
        |choices| two_on_the_way(choices, 2),
        |world| {
            assert_eq!(hits(world, 0), [1, 2]);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn three_hits_at_once_are_reported_one_after_the_other() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(3, &straight(), choices);
            for cpu in &mut world.model.cpus {
                cpu.file.set_u64(RIP, BREAKPOINT);
            }
            world.ok(gdb, "Z0,10001,1");
            world.send(gdb, "vCont;c");
            (world, vec![Actor::resumes(gdb, &["vCont;c"; 3])])
        },
        |world| {
            assert_eq!(hits(world, 0), [1, 2, 3]);
            for vcpu in 0..3 {
                assert_eq!(world.times(vcpu, BREAKPOINT), 1);
            }
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn a_hit_of_a_hardware_breakpoint_is_reported_as_often() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &straight(), choices);
            world.ok(gdb, "Z1,10001,1");
            world.send(gdb, "vCont;c");
            (world, vec![Actor::resumes(gdb, &["vCont;c"; 2])])
        },
        |world| {
            assert_eq!(hits(world, 0), [1, 2]);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn an_interrupt_at_any_moment_loses_no_hit() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (world, mut actors) = two_on_the_way(choices, 3);
            actors.push(Actor::once(|world| world.interrupt(0)));
            (world, actors)
        },
        |world| {
            assert_eq!(hits(world, 0), [1, 2]);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn two_interrupts_are_answered_by_no_more_than_a_stop_each() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, mut actors) = two_on_the_way(choices, 4);
            world.model.cpus[1].file.set_u64(RIP, BEHIND);
            actors.push(Actor::new(2, |_| true, |world| world.interrupt(0)));
            (world, actors)
        },
        |world| {
            assert_eq!(hits(world, 0), [1]);
            assert!(world.clients[0].stops.len() <= 1 + 4);
            assert_eq!(world.times(0, BREAKPOINT), 1);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn a_step_that_ends_beside_a_hit_loses_neither() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &straight(), choices);
            world.ok(gdb, "Z0,10001,1");
            world.send(gdb, "vCont;s:1;c:2");
            (world, vec![Actor::resumes(gdb, &["vCont;c"; 3])])
        },
        |world| {
            // The step itself leads to the breakpoint.
            assert_eq!(hits(world, 0), [1, 2]);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn the_end_of_a_step_is_not_told_after_the_next_resume() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &straight(), choices);
            world.ok(gdb, "Z0,10008,1");
            world.model.cpus[1].file.set_u64(RIP, BREAKPOINT);
            world.send(gdb, "vCont;s:1;c:2");
            (world, vec![Actor::resumes(gdb, &["vCont;c"; 3])])
        },
        |world| {
            assert_eq!(hits(world, 0), [1, 2]);
            let stops = &world.clients[0].stops;
            let steps: Vec<usize> = (1..stops.len())
                .filter(|index| !stops[*index].contains("break"))
                .collect();
            assert!(
                steps.is_empty() || steps == [1],
                "a step ended late: {stops:?}"
            );
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn a_brief_pause_at_any_moment_changes_nothing() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, mut actors) = two_on_the_way(choices, 2);
            let other = world.connect();
            actors.push(Actor::once(move |world| world.send(other, "p10")));
            (world, actors)
        },
        |world| {
            assert_eq!(world.clients[1].inbox.len(), 1);
            assert_eq!(hits(world, 0), [1, 2]);
            assert_eq!(world.clients[0].stops.len(), 3);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn a_loop_around_a_breakpoint_stops_each_time_whatever_pauses_there_are() {
    for insert in ["Z0,10000,1", "Z1,10000,1"] {
        let code = Code::default().inc(DATA).jmp(-9);
        every_interleaving(
            LIMIT,
            |choices| {
                let (mut world, gdb) = shared_code(1, &code, choices);
                world.ok(gdb, insert);
                world.send(gdb, "vCont;s");
                let other = world.connect();
                let pauses = Actor::new(
                    3,
                    move |world| !world.clients[other].is_busy(),
                    move |world| world.send(other, "p10"),
                );
                (world, vec![Actor::resumes(gdb, &["vCont;c"; 3]), pauses])
            },
            |world| {
                assert_eq!(hits(world, 0), [1; 3], "{insert}");
                assert_eq!(world.times(0, CODE), 3);
                assert_eq!(world.clients[0].stops.len(), 5);
                leave(world, 0, &code);
            },
        );
    }
}

#[test]
fn a_pending_hit_of_a_breakpoint_that_is_gone_is_not_reported() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (world, _) = two_on_the_way(choices, 0);
            let removes = Actor::new(
                1,
                |world| !world.clients[0].awaits_stop,
                |world| {
                    world.send(0, "z0,10001,1");
                    world.send(0, "vCont;c");
                },
            );
            (world, vec![removes])
        },
        |world| {
            assert_eq!(hits(world, 0).len(), 1);
            assert!(world.clients[0].awaits_stop);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn a_client_may_vanish_at_any_moment() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (world, mut actors) = two_on_the_way(choices, 2);
            // It answers no more once it is gone.
            let mut resumes = actors.remove(0);
            resumes.unless(|world| world.engine.sessions().count() == 0);
            (world, vec![resumes, Actor::once(|world| world.close(0))])
        },
        |world| {
            assert_all_done(world);
            assert_undisturbed(world, &straight());
        },
    );
}

#[test]
fn a_client_may_vanish_in_a_step() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &straight(), choices);
            world.ok(gdb, "Z0,10000,1");
            world.send(gdb, "vCont;s:1");
            (world, vec![Actor::once(|world| world.close(0))])
        },
        |world| {
            assert_all_done(world);
            assert_undisturbed(world, &straight());
        },
    );
}

#[test]
fn a_client_may_vanish_after_an_interrupt() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &straight(), choices);
            world.send(gdb, "vCont;c");
            world.interrupt(gdb);
            (world, vec![Actor::once(|world| world.close(0))])
        },
        |world| {
            assert_all_done(world);
            assert_undisturbed(world, &straight());
        },
    );
}

#[test]
fn a_client_may_detach_at_any_moment() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (world, _) = two_on_the_way(choices, 0);
            let detach = Actor::once(|world| world.send(0, "D"));
            let close = Actor::new(
                1,
                |world| world.engine.is_finished(world.clients[0].id),
                |world| world.close(0),
            );
            (world, vec![detach, close])
        },
        |world| {
            assert_all_done(world);
            assert_undisturbed(world, &straight());
        },
    );
}

#[test]
fn points_of_a_client_that_vanishes_go_and_those_of_others_stay() {
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &straight(), choices);
            let other = world.connect();
            world.ok(other, "Z0,10001,1");
            world.ok(gdb, "Z0,10008,1");
            world.send(gdb, "vCont;c");
            let resumes = Actor::resumes(gdb, &["vCont;c"; 4]);
            let close = Actor::once(move |world| world.close(other));
            (world, vec![resumes, close])
        },
        |world| {
            let at_own = |stop: &&String| stop.contains("10:0800010000000000");
            let own = world.clients[0].stops.iter().filter(at_own).count();
            assert_eq!(own, 2, "{:?}", world.clients[0].stops);
            assert_all_done(world);
            leave(world, 0, &straight());
        },
    );
}

#[test]
fn the_end_of_a_guest_is_told_before_it_is_gone() {
    let code = straight();
    every_interleaving(
        LIMIT,
        |choices| {
            let (mut world, gdb) = shared_code(2, &code, choices);
            world.program(CODE + 0x1000, Code::default().nop().out(0x64));
            world.model.cpus[1].file.set_u64(RIP, CODE + 0x1000);
            world.ok(gdb, "Z0,10001,1");
            world.send(gdb, "vCont;c");
            (world, vec![Actor::resumes(gdb, &["vCont;c"; 3])])
        },
        |world| {
            let stops = &world.clients[0].stops;
            let gone = stops.iter().position(|stop| stop == "W00").unwrap();
            assert!(stops[gone - 1].contains("thread:2"), "{stops:?}");
            assert!(hits(world, 0).len() <= 1);
            assert!(world.end.is_some());
        },
    );
}
