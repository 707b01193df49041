//! The guest's own debug registers beside the debugger's (rule R9).

use trapline_arch::x86_64::debug::{Dr6, Dr7, SlotKind, SlotLength};
use trapline_arch::x86_64::registers::{RAX, RCX, RDX, RIP};

use crate::model::cpu::Notices;
use crate::model::memory::{CODE, Code, DATA, handler, own_code};
use crate::model::{Choices, Config, World};

/// What the debugger watches meanwhile; nobody writes it.
const OURS: u64 = DATA + 0x100;
/// Numbers of registers in instructions.
const IN_RAX: u8 = 0;
const IN_RCX: u8 = 1;
const IN_RDX: u8 = 2;

/// RAX has the address of what the guest watches, RCX a DR7 for that, RDX one for nothing.
fn guest(config: Config, code: &Code) -> (World, usize) {
    let mut world = World::new(config, Choices::Fair(0));
    world.program(own_code(0), code.clone());
    let watch = Dr7::new().with_slot(0, Some((SlotKind::Write, SlotLength::Four)));
    let file = &mut world.model.cpus[0].file;
    file.set_u64(RAX, DATA);
    file.set_u64(RCX, watch.into_bits());
    file.set_u64(RDX, Dr7::new().into_bits());
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

fn run_to(world: &mut World, gdb: usize, end: u64) {
    world.send(gdb, "vCont;c");
    for _ in 0..2000 {
        if world.model.cpus[0].pc() == end {
            break;
        }
        world.tick();
    }
    world.interrupt(gdb);
    world.next(gdb);
    assert_eq!(world.pc(gdb), end);
}

/// Watches, writes `count` times, stops watching, writes once more.
fn watches_itself(count: usize) -> Code {
    let mut code = Code::default().mov_dr(0, IN_RAX).mov_dr(7, IN_RCX);
    for _ in 0..count {
        code = code.inc(DATA);
    }
    code.mov_dr(7, IN_RDX).inc(DATA).nop().spin()
}

#[test]
fn a_breakpoint_that_the_guest_sets_while_it_runs_is_in_force_at_once() {
    let code = watches_itself(3);
    let (mut world, gdb) = guest(Config::vcpus(1), &code);
    world.ok(gdb, &format!("Z2,{OURS:x},4"));
    run_to(&mut world, gdb, own_code(0) + code.0.len() as u64 - 2);
    assert_eq!(world.model.ram.taken(1), 3, "each write, while it watched");
    assert_eq!(world.times(0, own_code(0)), 1, "each instruction once");
    assert_eq!(Dr6::read(&world.model.cpus[0].file).b(), 1);
}

#[test]
fn a_breakpoint_that_the_guest_sets_while_it_runs_is_in_force_when_it_is_noticed() {
    let code = watches_itself(20);
    let config = Config {
        notices: Notices::After(4),
        ..Config::vcpus(1)
    };
    let (mut world, gdb) = guest(config, &code);
    world.ok(gdb, &format!("Z2,{OURS:x},4"));
    run_to(&mut world, gdb, own_code(0) + code.0.len() as u64 - 2);
    // Four writes are over before, and none after it has stopped watching counts.
    assert_eq!(world.model.ram.taken(1), 20 - 4);
}

#[test]
fn a_breakpoint_that_the_guest_has_switched_off_is_not_delivered() {
    let code = watches_itself(20).nop().nop();
    let config = Config {
        notices: Notices::After(40),
        ..Config::vcpus(1)
    };
    let (mut world, gdb) = guest(config, &code);
    world.ok(gdb, &format!("Z2,{OURS:x},4"));
    let off = own_code(0) + 6 + 20 * 7;
    // A stop after the guest has begun to watch puts its point into a slot.
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 6));
    assert!(world.ask(gdb, "vCont;c").contains("swbreak"));
    run_to(&mut world, gdb, off + 3 + 7 + 1);
    assert_eq!(world.model.ram.taken(1), 20, "not the write behind the end");
}

#[test]
fn an_access_that_the_guest_has_guarded_reaches_the_guest() {
    let code = Code::default().mov_dr(0, IN_RAX).nop().spin();
    for commands in [&["vCont;s:1", "vCont;s:1"][..], &["vCont;c"]] {
        let (mut world, gdb) = guest(Config::vcpus(1), &code);
        let guarded = Dr7::new().with_gd(true);
        guarded.write(&mut world.model.cpus[0].file);
        world.ok(gdb, &format!("Z2,{OURS:x},4"));
        world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 3));
        world.ask(gdb, commands[0]);
        if commands.len() == 2 {
            assert_eq!(world.pc(gdb), handler(1));
            world.ask(gdb, "vCont;c");
        }
        assert_eq!(world.pc(gdb), own_code(0) + 3);
        assert_eq!(world.model.ram.taken(1), 1, "{commands:?}");
        let file = &world.model.cpus[0].file;
        assert!(Dr6::read(file).bd());
        assert_eq!(world.times(0, own_code(0)), 1);
    }
}

/// An exception that the debugger has delivered is over when the guest is in its handler.
#[test]
fn a_step_long_after_a_delivered_exception_is_a_step() {
    let (mut world, gdb) = guest(Config::vcpus(1), &Code::default().int3().nop().spin());
    run_to(&mut world, gdb, own_code(0) + 2);
    assert_eq!(world.model.ram.taken(3), 1);
    world.model.cpus[0].file.set_u64(RIP, CODE);
    world.program(CODE, Code::default().nop().nop().int3());
    let stop = world.ask(gdb, "vCont;s:1");
    assert!(stop.starts_with("T05"), "{stop}");
    assert_eq!(world.pc(gdb), CODE + 1);
}
