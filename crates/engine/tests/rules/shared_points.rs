//! Breakpoints at one address that are not one breakpoint: of several clients with conditions of
//! their own, and in several address spaces (rules R2, B2, S1).

use trapline_arch::x86_64::registers::{CR3, RIP};
use trapline_engine::Access;

use crate::model::memory::{CODE, Code, DATA, KERNEL_ROOT, PAGE_TABLE};
use crate::model::{Choices, Config, World};

/// The page tables of the second address space, in which [`CODE`] is at [`OTHER`].
const OTHER_ROOT: u64 = 0xa000;
const OTHER: u64 = 0x1_8000;

/// A condition that never holds, and one that always does.
const NEVER: &str = ";X3,220027";
const ALWAYS: &str = ";X3,220127";

/// `nop; inc [DATA]; nop; hlt` for both vCPUs, each about to execute it in an address space of its
/// own or in the same, and two clients.
fn guest(root: u64, choices: Choices) -> (World, [usize; 2]) {
    let mut world = World::new(Config::vcpus(2), choices);
    let code = Code::default().nop().inc(DATA).nop().hlt();
    world.program(CODE, code.clone());
    world.program(OTHER, code);
    let ram = &world.model.ram;
    let copy = ram.copy();
    let page = |at: u64| &copy[at as usize..][..0x1000];
    let entry = |at: u64| u64::from_le_bytes(page(at)[..8].try_into().unwrap());
    let level = |at: u64| entry(at) & !0xfff;
    let tables = [
        KERNEL_ROOT,
        level(KERNEL_ROOT),
        level(level(KERNEL_ROOT)),
        PAGE_TABLE,
    ];
    for (index, table) in tables.into_iter().enumerate() {
        let own = OTHER_ROOT + 0x1000 * index as u64;
        ram.put(own, page(table));
        if table != PAGE_TABLE {
            ram.put_u64(own, (own + 0x1000) | (entry(table) & 0xfff));
        }
    }
    let last = OTHER_ROOT + 0x3000;
    ram.put_u64(last + 8 * (CODE >> 12), OTHER | entry(PAGE_TABLE) & 0xfff);
    for cpu in &mut world.model.cpus {
        cpu.file.set_u64(RIP, CODE);
    }
    world.model.cpus[1].file.set_u64(CR3, root);
    let clients = [world.connect(), world.connect_as(Access::Full)];
    for client in clients {
        assert!(world.ask(client, "?").starts_with("T05"));
    }
    (world, clients)
}

/// Which of the two bytes are patched.
fn planted(world: &World) -> [bool; 2] {
    [CODE, OTHER].map(|at| world.model.ram.byte(at + 1) == 0xcc)
}

#[test]
fn one_address_in_two_address_spaces_is_two_breakpoints() {
    let (mut world, [first, second]) = guest(OTHER_ROOT, Choices::Fair(0));
    world.ok(second, "Hg2");
    world.ok(first, "Z0,10001,1");
    world.ok(second, "Z0,10001,1");
    assert_eq!(world.ask(second, "m10001,1"), "ff");
    world.send(first, "vCont;c");
    world.ticks(2);
    assert_eq!(planted(&world), [true, true]);
    let stop = world.next(first);
    world.send(first, "vCont;c");
    let other = world.next(first);
    // Both stop, the first's as its own.
    let mut threads = [&stop, &other].map(|stop| stop[3..12].to_owned());
    threads.sort_unstable();
    assert_eq!(threads, ["thread:1;", "thread:2;"]);
    // Each goes with its own client.
    world.ok(first, "z0,10001,1");
    world.send(first, "vCont;c");
    world.ticks(2);
    assert_eq!(planted(&world), [false, true]);
    world.close(second);
    world.ticks(20);
    assert_eq!(planted(&world), [false, false]);
}

#[test]
fn a_breakpoint_set_again_in_another_address_space_moves_there() {
    let (mut world, [first, second]) = guest(OTHER_ROOT, Choices::Fair(0));
    world.close(second);
    world.ok(first, "Z0,10001,1");
    world.ok(first, "Hg2");
    world.ok(first, "Z0,10001,1");
    world.send(first, "vCont;c");
    world.ticks(2);
    assert_eq!(planted(&world), [false, true]);
    assert!(world.next(first).contains("thread:2;"));
    world.ok(first, "z0,10001,1");
    world.send(first, "vCont;c");
    world.ticks(20);
    assert_eq!(planted(&world), [false, false]);
    assert!(world.clients[first].awaits_stop, "vCPU 0 met none");
    assert_eq!(world.times(0, CODE + 9), 1);
}

#[test]
fn a_breakpoint_stays_where_it_is_while_its_address_is_not_mapped() {
    let (mut world, [first, _]) = guest(OTHER_ROOT, Choices::Fair(0));
    world.ok(first, "Z0,10001,1");
    world.ok(first, "Hg2");
    let entry = OTHER_ROOT + 0x3000 + 8 * (CODE >> 12);
    world.model.ram.put_u64(entry, 0);
    world.ok(first, "Z0,10001,1");
    world.send(first, "vCont;c:1");
    world.ticks(1);
    assert_eq!(planted(&world), [true, false]);
    assert!(world.next(first).contains("swbreak"));
}

/// Both vCPUs hit a breakpoint that the first client set without a condition and the second with
/// `condition`; then `leaves` makes the first take it back, and the second goes on. Returns whether
/// the second is told of the hit that waited.
fn is_second_hit_told(seed: u64, condition: &str, leaves: fn(&mut World, usize)) -> bool {
    let (mut world, [first, second]) = guest(KERNEL_ROOT, Choices::random(seed));
    world.ok(first, "Z0,10001,1");
    world.ok(second, &format!("Z0,10001,1{condition}"));
    world.send(second, "vCont;c");
    world.next(second);
    leaves(&mut world, first);
    world.send(second, "vCont;c");
    world.ticks(400);
    let is_told = !world.clients[second].awaits_stop;
    if !is_told {
        for vcpu in 0..2 {
            assert_eq!(world.times(vcpu, CODE + 1), 1, "it has gone on");
        }
    }
    is_told
}

#[test]
fn a_pending_hit_counts_for_those_for_whom_it_did() {
    for seed in 0..100 {
        let removes = |world: &mut World, first| world.ok(first, "z0,10001,1");
        let vanishes = |world: &mut World, first| world.close(first);
        let changes = |world: &mut World, first| {
            // As GDB does at each stop.
            world.ok(first, "z0,10001,1");
            world.ok(first, "Z0,10001,1");
        };
        assert!(!is_second_hit_told(seed, NEVER, removes), "seed {seed}");
        assert!(!is_second_hit_told(seed, NEVER, vanishes), "seed {seed}");
        assert!(is_second_hit_told(seed, NEVER, changes), "seed {seed}");
        assert!(is_second_hit_told(seed, ALWAYS, removes), "seed {seed}");
        assert!(is_second_hit_told(seed, "", vanishes), "seed {seed}");
    }
}
