//! The rules where the guest is of AArch64: R5, R6, R8, R9, B1, B4, B5, B6.

use std::time::{Duration, Instant};

use trapline_arch::aarch64::registers::{CPSR, PC, SPSR_EL1, X0, X1, X2};

use crate::model::aarch64::{
    Code, ERET, FROM_EL1, HVC, MASK, NOP, SS, SVC, UNMASK, VECTORS, add, branch, branch_if, brk,
    load, load_exclusive, load_pair, set_own, store, store_exclusive,
};
use crate::model::memory::{COUNTERS, DATA, own_code};
use crate::model::{Choices, Config, World};

const AT: u64 = own_code(0);

/// How long a test with random schedules goes on drawing.
const TIME: Duration = Duration::from_secs(3);

fn guest_of(config: Config, code: &[u32], choices: Choices) -> (World, usize) {
    let mut world = World::new(config, choices);
    world.program(VECTORS, Code::vectors());
    for vcpu in 0..config.vcpu_count {
        world.program(own_code(vcpu), Code::of(code));
    }
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    (world, gdb)
}

/// One vCPU at EL1 with `code`, x1 at [`DATA`], and a client that has looked around.
fn guest(code: &[u32]) -> (World, usize) {
    guest_of(Config::arm(1), code, Choices::Fair(0))
}

fn taken(world: &World, vector: usize) -> u32 {
    world.model.ram.u32(COUNTERS + 4 * vector as u64)
}

fn step(world: &mut World, gdb: usize) -> u64 {
    let stop = world.ask(gdb, "vCont;s:1");
    assert!(stop.starts_with("T05"), "{stop}");
    world.pc(gdb)
}

fn resume(world: &mut World, gdb: usize) -> String {
    world.ask(gdb, "vCont;c")
}

#[test]
fn each_step_is_one_instruction() {
    let (mut world, gdb) = guest(&[NOP, SVC, add(0, 1), UNMASK, MASK, branch(-5)]);
    let pcs: Vec<u64> = (0..9).map(|_| step(&mut world, gdb)).collect();
    let handler = VECTORS + 0x200;
    let expected = [
        AT + 4,
        handler,
        handler + 4,
        handler + 8,
        AT + 8,
        AT + 12,
        AT + 16,
        AT + 20,
        AT,
    ];
    assert_eq!(pcs, expected);
    assert_eq!(world.executed.len(), 9);
    assert_eq!(world.model.cpus[0].file.u64(CPSR) & SS, 0);
    assert_eq!(world.model.cpus[0].file.u64(SPSR_EL1) & SS, 0);
}

/// The model's handlers look into SPSR, where a step would show.
#[test]
fn a_guest_that_is_stepped_through_its_exceptions_cannot_tell() {
    let code = [
        SVC,
        brk(9),
        0xffff_ffff,
        store(0, 3, 0),
        add(0, 1),
        branch(-5),
    ];
    let (mut world, gdb) = guest(&code);
    // x3 is where nothing is.
    world.ok(gdb, "P3=0000001000000000");
    for _ in 0..60 {
        step(&mut world, gdb);
    }
    let rounds = world.model.cpus[0].file.u64(X0) as u32;
    assert!(rounds >= 3, "{rounds} rounds");
    assert!(taken(&world, FROM_EL1) >= 4 * rounds);
}

#[test]
fn an_interrupt_lands_in_no_step_that_can_hold_it_off() {
    for holds_interrupts in [true, false] {
        let config = Config {
            holds_interrupts,
            ..Config::arm(1)
        };
        let (mut world, gdb) = guest_of(config, &[UNMASK, NOP, NOP, branch(-2)], Choices::Fair(0));
        step(&mut world, gdb);
        world.model.cpus[0].interrupt = Some(0x21);
        let pc = step(&mut world, gdb);
        if holds_interrupts {
            assert_eq!(pc, AT + 8);
            continue;
        }
        // It comes before the instruction, and hides the step all the same.
        assert_eq!(pc, VECTORS + 0x280);
        assert_eq!(world.model.cpus[0].file.u64(SPSR_EL1) & SS, 0);
        for expected in [VECTORS + 0x284, VECTORS + 0x288, AT + 4, AT + 8] {
            assert_eq!(step(&mut world, gdb), expected);
        }
        assert_eq!(taken(&world, 5), 1);
    }
}

#[test]
fn a_breakpoint_is_met_passed_and_never_read() {
    let (mut world, gdb) = guest(&[NOP, add(0, 1), branch(-2)]);
    let at = AT + 4;
    let before = world.ask(gdb, &format!("m{AT:x},c"));
    world.ok(gdb, &format!("Z0,{at:x},4"));
    for round in 1..5 {
        let stop = resume(&mut world, gdb);
        assert!(stop.contains("swbreak:;"), "{stop}");
        assert_eq!(world.pc(gdb), at);
        assert_eq!(world.model.ram.u32(at), brk(0));
        assert_eq!(world.ask(gdb, &format!("m{AT:x},c")), before);
        assert_eq!(world.times(0, at), round - 1);
    }
    // A write over it is what will be restored.
    world.ok(gdb, &format!("M{at:x},4:{:08x}", add(0, 5).swap_bytes()));
    world.ok(gdb, &format!("z0,{at:x},4"));
    world.send(gdb, "vCont;c");
    world.ticks(8);
    world.interrupt(gdb);
    world.next(gdb);
    assert_eq!(world.model.ram.u32(at), add(0, 5));
    let refused = world.ask(gdb, &format!("Z0,{:x},4", AT + 2));
    assert!(refused.starts_with('E'), "{refused}");
    let misaligned = world.ask(gdb, "P20=0210010000000000");
    assert!(misaligned.starts_with('E'), "{misaligned}");
}

#[test]
fn a_hardware_breakpoint_stops_each_time_round() {
    let (mut world, gdb) = guest(&[NOP, add(0, 1), branch(-2)]);
    let at = AT + 4;
    world.ok(gdb, &format!("Z1,{at:x},4"));
    for round in 1..5 {
        let stop = resume(&mut world, gdb);
        assert!(stop.contains("hwbreak:;"), "{stop}");
        assert_eq!(world.pc(gdb), at);
        assert_eq!(world.times(0, at), round - 1);
    }
}

#[test]
fn a_brk_of_the_guests_own_reaches_the_guest_beside_the_debuggers() {
    let (mut world, gdb) = guest(&[brk(0), brk(7), add(0, 1), HVC]);
    let at = AT + 8;
    world.ok(gdb, &format!("Z0,{at:x},4"));
    let stop = resume(&mut world, gdb);
    assert!(stop.contains("swbreak:;"), "{stop}");
    assert_eq!(taken(&world, FROM_EL1), 2);
    assert_eq!(world.pc(gdb), at);
}

#[test]
fn a_watchpoint_stops_before_the_access_and_lets_it_happen_once() {
    let (mut world, gdb) = guest(&[add(0, 1), store(0, 1, 8), load(2, 1, 8), branch(-3)]);
    let watched = DATA + 8;
    world.ok(gdb, &format!("Z2,{watched:x},8"));
    for round in 1..5 {
        let stop = resume(&mut world, gdb);
        assert!(stop.contains(&format!("watch:{watched:x};")), "{stop}");
        assert_eq!(world.pc(gdb), AT + 4);
        assert_eq!(world.times(0, AT + 4), round - 1, "it has yet to happen");
    }
}

/// GDB takes the watchpoint out, steps over the access, and compares.
#[test]
fn gdb_steps_past_a_watchpoint_that_it_takes_out() {
    let (mut world, gdb) = guest(&[add(0, 1), store(0, 1, 0), branch(-2)]);
    for round in 1..4 {
        world.ok(gdb, &format!("Z2,{DATA:x},8"));
        let stop = resume(&mut world, gdb);
        assert!(stop.contains(&format!("watch:{DATA:x};")), "{stop}");
        world.ok(gdb, &format!("z2,{DATA:x},8"));
        assert_eq!(step(&mut world, gdb), AT + 8);
        assert_eq!(world.model.ram.u32(DATA), round);
    }
}

/// A client that leaves it in steps over the access too, once.
#[test]
fn a_step_from_a_watchpoint_makes_the_access() {
    let (mut world, gdb) = guest(&[store(0, 1, 0), store(0, 1, 0), NOP]);
    world.ok(gdb, &format!("Z2,{DATA:x},8"));
    let stop = step(&mut world, gdb);
    assert_eq!(stop, AT, "the step meets it");
    assert_eq!(step(&mut world, gdb), AT + 4);
    assert_eq!(step(&mut world, gdb), AT + 4, "and so does the next");
    assert_eq!(step(&mut world, gdb), AT + 8);
}

#[test]
fn watchpoints_are_told_by_kind_and_exact_address() {
    let code = [load(2, 1, 0), load_pair(2, 1), store(0, 1, 8), HVC];
    for (packet, pc, told) in [
        // LDP begins below what is watched.
        (
            format!("Z3,{:x},4", DATA + 12),
            AT + 4,
            format!("rwatch:{:x};", DATA + 12),
        ),
        (
            format!("Z2,{:x},1", DATA + 9),
            AT + 8,
            format!("watch:{:x};", DATA + 9),
        ),
        (format!("Z4,{DATA:x},2"), AT, format!("awatch:{DATA:x};")),
        // 32 bytes in one register, of which the access meets the middle.
        (
            format!("Z2,{DATA:x},20"),
            AT + 8,
            format!("watch:{:x};", DATA + 8),
        ),
        // Two pieces.
        (
            format!("Z2,{:x},a", DATA + 6),
            AT + 8,
            format!("watch:{:x};", DATA + 8),
        ),
    ] {
        let (mut world, gdb) = guest(&code);
        world.ok(gdb, &packet);
        let stop = resume(&mut world, gdb);
        assert!(stop.contains(&told), "{packet}: {stop}");
        assert_eq!(world.pc(gdb), pc, "{packet}");
    }
}

#[test]
fn a_false_condition_of_a_watchpoint_never_surfaces() {
    let (mut world, gdb) = guest(&[add(0, 1), store(0, 1, 0), branch(-2)]);
    // Always 0.
    world.ok(gdb, &format!("Z2,{DATA:x},8;X3,220027"));
    world.send(gdb, "vCont;c");
    world.ticks(100);
    assert!(world.clients[gdb].awaits_stop);
    assert!(world.model.ram.u32(DATA) > 10);
    world.interrupt(gdb);
    world.next(gdb);
}

#[test]
fn points_of_the_guests_own_work_beside_the_debuggers() {
    let code = [NOP, add(0, 1), store(0, 1, 16), store(0, 1, 0), branch(-4)];
    let (mut world, gdb) = guest(&code);
    set_own(&mut world.model.cpus[0], Some(AT + 4), Some(DATA + 16));
    world.ok(gdb, &format!("Z1,{:x},4", AT + 16));
    world.ok(gdb, &format!("Z2,{DATA:x},8"));
    for round in 0..3 {
        let stop = resume(&mut world, gdb);
        assert!(stop.contains(&format!("watch:{DATA:x};")), "{stop}");
        // The guest's handler skips both instructions.
        assert_eq!(taken(&world, FROM_EL1), 2 * (round + 1));
        let stop = resume(&mut world, gdb);
        assert!(stop.contains("hwbreak:;"), "{stop}");
    }
    // Stepped, they are the guest's as well.
    world.ok(gdb, &format!("z1,{:x},4", AT + 16));
    assert_eq!(step(&mut world, gdb), AT);
    assert_eq!(step(&mut world, gdb), AT + 4);
    assert_eq!(step(&mut world, gdb), VECTORS + 0x200);
}

#[test]
fn a_point_that_the_guest_leaves_no_register_for_is_refused() {
    let config = Config {
        hardware_slots: 2,
        ..Config::arm(1)
    };
    let (mut world, gdb) = guest_of(config, &[NOP, branch(-1)], Choices::Fair(0));
    set_own(&mut world.model.cpus[0], Some(AT + 8), None);
    world.ok(gdb, &format!("Z1,{AT:x},4"));
    let refused = world.ask(gdb, &format!("Z1,{:x},4", AT + 4));
    assert!(refused.contains("the guest uses 1"), "{refused}");
    // Again, and of the other kind, it is no trouble.
    world.ok(gdb, &format!("Z1,{AT:x},4"));
    world.ok(gdb, &format!("Z2,{DATA:x},8"));
    world.ok(gdb, &format!("Z2,{:x},8", DATA + 8));
    let full = world.ask(gdb, &format!("Z2,{:x},8", DATA + 16));
    assert!(full.contains("all 2 hardware slots"), "{full}");
}

/// `ldxr x0, [x1]; add x0, x0, #1; stxr w2, x0, [x1]; cbnz w2, -3; nop; b -5`
fn atomic_increment() -> [u32; 6] {
    [
        load_exclusive(0, 1),
        add(0, 1),
        store_exclusive(2, 0, 1),
        branch_if(2, -3),
        NOP,
        branch(-5),
    ]
}

#[test]
fn exclusive_sequences_make_progress_in_range_steps_and_for_lldb() {
    let (mut world, gdb) = guest(&atomic_increment());
    let range = format!("vCont;r{AT:x},{:x}:1", AT + 16);
    let stop = world.ask(gdb, &range);
    assert!(stop.starts_with("T05"), "{stop}");
    assert_eq!(world.pc(gdb), AT + 16);
    assert_eq!(world.model.ram.u32(DATA), 1);

    let (mut world, lldb) = guest(&atomic_increment());
    assert!(
        world
            .ask(lldb, "qHostInfo")
            .contains("watchpoint_exceptions_received:before;")
    );
    for count in 1..4 {
        assert_eq!(step(&mut world, lldb), AT + 12);
        assert_eq!(world.model.ram.u32(DATA), count);
        while step(&mut world, lldb) != AT {}
    }

    // GDB's own step is one instruction, and the Store-Exclusive fails.
    let (mut world, gdb) = guest(&atomic_increment());
    assert_eq!(step(&mut world, gdb), AT + 4);
    step(&mut world, gdb);
    assert_eq!(step(&mut world, gdb), AT + 12);
    assert_eq!(world.model.cpus[0].file.u64(X2), 1);
    assert_eq!(world.model.ram.u32(DATA), 0);
}

#[test]
fn a_fault_in_an_exclusive_sequence_ends_its_step_at_the_handler() {
    let (mut world, gdb) = guest(&atomic_increment());
    world.model.cpus[0].file.set_u64(X1, 0x10_0000_0000);
    world.ask(gdb, &format!("vCont;r{AT:x},{:x}:1", AT + 16));
    assert_eq!(world.pc(gdb), VECTORS + 0x200);
}

#[test]
fn exceptions_from_el0_have_their_own_vector() {
    let (mut world, gdb) = guest(&[brk(1), add(0, 1), HVC]);
    world.model.cpus[0].file.set_u64(CPSR, 0);
    assert_eq!(step(&mut world, gdb), VECTORS + 0x400);
    assert_eq!(world.model.cpus[0].file.u64(SPSR_EL1), 0);
    // count, skip, eret.
    for _ in 0..3 {
        step(&mut world, gdb);
    }
    assert_eq!(world.pc(gdb), AT + 4);
    assert_eq!(world.model.cpus[0].file.u64(CPSR), 0);
    assert_eq!(world.model.ram.u32(VECTORS + 0x408), ERET);
}

/// Each time a vCPU executes the instruction under a point it was reported before, and each report is
/// followed by the execution, whatever happens in which order.
#[test]
fn hits_are_reported_exactly_once_in_random_schedules() {
    let start = Instant::now();
    for seed in 1..20_000 {
        if start.elapsed() > TIME {
            println!("{seed} seeds");
            break;
        }
        let result = std::panic::catch_unwind(|| count_hits(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

fn count_hits(seed: u64) {
    let mut random = Choices::random(seed);
    let count = 1 + random.below(3);
    let code = [NOP, add(0, 1), store(0, 1, 0), NOP, SVC, branch(-5)];
    let (mut world, gdb) = guest_of(Config::arm(count), &code, Choices::Fair(0));
    world.choices = Choices::random(seed);
    let shared = own_code(0);
    for cpu in &mut world.model.cpus {
        cpu.file.set_u64(PC, shared);
    }
    // Of the access the watchpoint is as good as a breakpoint on its instruction.
    let (point, at) = match random.below(3) {
        0 => (format!("Z0,{:x},4", shared + 4), shared + 4),
        1 => (format!("Z1,{:x},4", shared + 4), shared + 4),
        _ => (format!("Z2,{DATA:x},4"), shared + 8),
    };
    let other = world.connect();
    world.ok(gdb, &point);
    let mut reports = vec![0; count];
    for _ in 0..40 {
        world.send(gdb, "vCont;c");
        if random.below(3) == 0 {
            world.ticks(random.below(20));
            world.interrupt(gdb);
        }
        if random.below(3) == 0 {
            // A brief pause.
            world.send(other, "m10000,4");
        }
        let stop = world.next(gdb);
        if stop.starts_with("T05") {
            let thread = stop.split("thread:").nth(1).unwrap();
            let vcpu = usize::from_str_radix(thread.split(';').next().unwrap(), 16).unwrap() - 1;
            reports[vcpu] += 1;
            assert_eq!(world.model.cpus[vcpu].pc(), at);
            assert_eq!(world.times(vcpu, at), reports[vcpu] - 1, "vCPU {vcpu}");
        }
        while !world.clients[other].inbox.is_empty() || world.clients[other].is_busy() {
            world.next(other);
        }
    }
    for (vcpu, reports) in reports.iter().enumerate() {
        let times = world.times(vcpu, at);
        assert!(times == *reports || times + 1 == *reports, "vCPU {vcpu}");
    }
}
