//! Steps over a repeated string instruction (rule R5): an iteration for GDB, all of it for LLDB.

use trapline_arch::x86_64::registers::{RCX, RDI};

use crate::model::memory::{Code, DATA, own_code};
use crate::model::{Choices, Config, World};

const REP: u64 = own_code(0) + 1;
const BEHIND: u64 = REP + 2;

/// `nop; rep stosb; nop; jmp .` with a count, and a client.
fn guest(count: u64) -> (World, usize) {
    let mut world = World::new(Config::vcpus(2), Choices::Fair(0));
    world.program(own_code(0), Code::default().nop().rep_stosb().nop().spin());
    world.program(own_code(1), Code::default().spin());
    world.model.cpus[0].file.set_u64(RCX, count);
    world.model.cpus[0].file.set_u64(RDI, DATA);
    let client = world.connect();
    assert!(world.ask(client, "?").starts_with("T05"));
    (world, client)
}

fn lldb(count: u64) -> (World, usize) {
    let (mut world, client) = guest(count);
    world.ok(client, "QThreadSuffixSupported");
    assert!(world.ask(client, "vCont;s:1").contains("reason:trace;"));
    assert_eq!(world.pc(client), REP);
    (world, client)
}

#[test]
fn gdb_steps_by_iterations() {
    let (mut world, gdb) = guest(3);
    for pc in [REP, REP, REP, BEHIND] {
        assert!(world.ask(gdb, "vCont;s:1").starts_with("T05"));
        assert_eq!(world.pc(gdb), pc);
    }
}

#[test]
fn lldb_steps_over_the_whole_instruction() {
    for packet in ["vCont;s:1", "s"] {
        let (mut world, client) = lldb(50);
        assert!(world.ask(client, packet).contains("reason:trace;"));
        assert_eq!(world.pc(client), BEHIND);
        assert_eq!(world.times(0, REP), 50);
        assert!(world.ask(client, packet).contains("reason:trace;"));
        assert_eq!(world.times(0, BEHIND), 1, "others are one each");
        assert_eq!(world.times(1, own_code(1)), 0);
    }
    let (mut world, client) = lldb(0);
    assert!(world.ask(client, "vCont;s:1").contains("reason:trace;"));
    assert_eq!(world.pc(client), BEHIND);
}

#[test]
fn a_step_over_a_long_string_instruction_can_be_interrupted() {
    let (mut world, client) = lldb(1 << 40);
    // It runs into memory that is not there long after this.
    world.send(client, "vCont;s:1");
    world.ticks(100);
    assert!(world.clients[client].awaits_stop);
    world.interrupt(client);
    assert!(world.next(client).starts_with("T02"));
    assert_eq!(world.pc(client), REP);
    assert!(world.times(0, REP) > 10);
}

#[test]
fn points_stop_within_and_behind_a_string_instruction() {
    let (mut world, client) = lldb(20);
    world.ok(client, &format!("Z2,{:x},1", DATA + 10));
    world.ok(client, &format!("Z0,{BEHIND:x},1"));
    let stop = world.ask(client, "vCont;s:1");
    assert!(stop.contains("reason:watchpoint;"), "{stop}");
    assert_eq!((world.pc(client), world.times(0, REP)), (REP, 11));
    let stop = world.ask(client, "vCont;s:1");
    assert!(stop.contains("reason:breakpoint;"), "{stop}");
    assert_eq!((world.pc(client), world.times(0, REP)), (BEHIND, 20));
}
