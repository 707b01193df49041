//! Single steps (rules R5, R6, R7, R8, R9, B6).

use trapline_arch::x86_64::registers::{RAX, RFLAGS, RIP, RSP};
use trapline_engine::StepMethod;

use crate::model::memory::{CODE, Code, DATA, UNMAPPED, handler, own_code};
use crate::model::{Choices, Config, World};

const METHODS: [StepMethod; 2] = [StepMethod::TrapFlag, StepMethod::MonitorTrap];

/// RFLAGS.IF.
const IF: u64 = 1 << 9;

fn world_of(config: Config, code: &Code) -> World {
    let world = World::new(config, Choices::Fair(0));
    world.program(own_code(0), code.clone());
    world.program(handler(60), Code::default().inc(DATA).sysret());
    world
}

fn attach(world: &mut World) -> usize {
    let gdb = world.connect();
    assert!(world.ask(gdb, "?").starts_with("T05"));
    gdb
}

/// Every kind of instruction that a step must take care of.
fn awkward() -> Code {
    Code::default()
        .nop()
        .pushf()
        .pop_rax()
        .pushf()
        .popf()
        .div_ecx()
        .int3()
        .int(0x20)
        .syscall()
        .nop()
        .mov_ss_ax()
        .inc(DATA)
        .mov_ss_ax()
        .pushf()
        .pop_rax()
        .ud2()
        .load(UNMAPPED)
        .out(0x80)
        .icebp()
        .sti()
        .nop()
        .cli()
        .store(DATA + 8, 7)
        .push_rax()
        .pop_rax()
        .spin()
}

/// Runs until the code's last instruction.
fn run_to_the_end(world: &mut World, end: u64) {
    let gdb = attach(world);
    world.send(gdb, "vCont;c");
    for _ in 0..2000 {
        if world.model.cpus[0].pc() == end {
            break;
        }
        world.tick();
    }
    world.interrupt(gdb);
    world.next(gdb);
    assert_eq!(world.model.cpus[0].pc(), end);
}

/// Steps until the code's last instruction; each step executes one instruction.
fn step_to_the_end(world: &mut World, end: u64) {
    let gdb = attach(world);
    for _ in 0..2000 {
        let before = world.executed.len();
        let stop = world.ask(gdb, "vCont;s:1");
        assert!(stop.starts_with("T05thread:1;"), "{stop}");
        assert!(!stop.contains("break"), "{stop}");
        let executed = &world.executed[before..];
        // The delivery of an exception that was due counts as one.
        assert!(executed.len() <= 1, "one instruction in {executed:x?}");
        if world.model.cpus[0].pc() == end {
            return;
        }
    }
    panic!("no end");
}

fn assert_same(stepped: &World, free: &World, step: StepMethod) {
    assert_eq!(stepped.executed.len(), free.executed.len());
    let path = |world: &World| world.executed.iter().map(|one| one.1).collect::<Vec<u64>>();
    assert_eq!(path(stepped), path(free), "{step}");
    assert!(
        stepped.model.ram.copy() == free.model.ram.copy(),
        "{step}: memory differs"
    );
    assert_eq!(
        stepped.model.cpus[0].file, free.model.cpus[0].file,
        "{step}"
    );
}

#[test]
fn a_guest_that_is_stepped_cannot_tell() {
    for step in METHODS {
        let config = Config {
            step,
            ..Config::vcpus(1)
        };
        let code = awkward();
        let end = own_code(0) + code.0.len() as u64 - 2;
        let mut stepped = world_of(config, &code);
        step_to_the_end(&mut stepped, end);
        let mut free = world_of(config, &code);
        run_to_the_end(&mut free, end);
        for vector in [0, 1, 3, 6, 14, 0x20] {
            assert_eq!(stepped.model.ram.taken(vector), 1, "vector {vector}");
        }
        free.executed.truncate(stepped.executed.len());
        assert_same(&stepped, &free, step);
    }
}

#[test]
fn a_guest_that_steps_itself_can_be_stepped() {
    // RAX is an image of the flags with TF; what stands at DATA is one without.
    let code = Code::default()
        .push_rax()
        .popf()
        .nop()
        .inc(DATA + 16)
        .load(DATA)
        .push_rax()
        .popf()
        .nop()
        .spin();
    // With the monitor trap flag, the processor itself keeps the guest's trap pending.
    let config = Config::vcpus(1);
    let step = config.step;
    let end = own_code(0) + code.0.len() as u64 - 2;
    let prepare = || {
        let mut world = world_of(config, &code);
        world.model.cpus[0].file.set_u64(RAX, 0x102);
        world.program(DATA, Code::default().raw(&[2, 0]));
        world
    };
    let mut free = prepare();
    run_to_the_end(&mut free, end);
    // nop, inc, load, push and popf each trap.
    assert_eq!(free.model.ram.taken(1), 5);
    let mut stepped = prepare();
    step_to_the_end(&mut stepped, end);
    assert_eq!(stepped.model.ram.taken(1), 5, "{step}");
    free.executed.truncate(stepped.executed.len());
    assert_same(&stepped, &free, step);
}

#[test]
fn a_step_moves_one_vcpu_and_leaves_the_others() {
    let mut world = world_of(Config::vcpus(3), &awkward());
    world.program(own_code(1), Code::default().nop().nop().spin());
    let gdb = attach(&mut world);
    let stop = world.ask(gdb, "vCont;s:2");
    assert!(stop.contains("thread:2;"), "{stop}");
    assert_eq!(world.executed, [(1, own_code(1))]);
}

#[test]
fn one_vcpu_steps_while_another_runs() {
    let mut world = world_of(Config::vcpus(3), &awkward());
    world.program(own_code(1), Code::default().inc(DATA).jmp(-9));
    let gdb = attach(&mut world);
    let stop = world.ask(gdb, "vCont;s:1;c:2");
    assert!(stop.contains("thread:1;"), "{stop}");
    assert_eq!(world.times(0, own_code(0)), 1);
    assert_eq!(world.executed.iter().filter(|one| one.0 == 0).count(), 1);
    assert_eq!(world.executed.iter().filter(|one| one.0 == 2).count(), 0);
}

#[test]
fn an_interrupt_does_not_land_in_a_step() {
    for step in METHODS {
        let config = Config {
            step,
            ..Config::vcpus(1)
        };
        let mut world = world_of(config, &Code::default().nop().nop().spin());
        world.model.cpus[0].file.set_u64(RFLAGS, 2 | IF);
        world.model.cpus[0].interrupt = Some(0x21);
        let gdb = attach(&mut world);
        for expected in 1..=2 {
            world.ask(gdb, "vCont;s:1");
            assert_eq!(world.pc(gdb), own_code(0) + expected);
            assert_eq!(world.model.cpus[0].file.u64(RFLAGS) & IF, IF);
        }
        assert_eq!(world.model.ram.taken(0x21), 0);
        world.send(gdb, "vCont;c");
        world.ticks(40);
        assert_eq!(
            world.model.ram.taken(0x21),
            1,
            "it comes when the guest runs"
        );
    }
}

#[test]
fn a_step_is_made_where_interrupts_cannot_be_held_off() {
    for step in METHODS {
        let config = Config {
            step,
            holds_interrupts: false,
            ..Config::vcpus(1)
        };
        let mut world = world_of(config, &Code::default().nop().nop().spin());
        world.model.cpus[0].file.set_u64(RFLAGS, 2 | IF);
        world.model.cpus[0].interrupt = Some(0x21);
        let gdb = attach(&mut world);
        let stop = world.ask(gdb, "vCont;s:1");
        assert!(stop.starts_with("T05"), "{stop}");
        assert!([own_code(0) + 1, handler(0x21)].contains(&world.pc(gdb)));
        assert_eq!(world.model.cpus[0].file.u64(RFLAGS) & 0x100, 0);
    }
}

#[test]
fn a_breakpoint_in_the_handler_of_an_interrupt_that_a_step_meets_is_a_hit() {
    let config = Config {
        holds_interrupts: false,
        ..Config::vcpus(1)
    };
    let mut world = world_of(config, &Code::default().nop().nop().spin());
    world.model.cpus[0].file.set_u64(RFLAGS, 2 | IF);
    world.model.cpus[0].interrupt = Some(0x21);
    let gdb = attach(&mut world);
    let at = handler(0x21);
    world.ok(gdb, &format!("Z0,{at:x},1"));
    let stop = world.ask(gdb, "vCont;s:1");
    assert!(stop.contains("swbreak"), "{stop}");
    assert_eq!(world.pc(gdb), at);
    assert_eq!(world.model.ram.taken(3), 0, "the guest sees no #BP of ours");
}

#[test]
fn a_step_that_is_not_possible_is_refused() {
    let config = Config {
        step: StepMethod::None,
        ..Config::vcpus(1)
    };
    let mut world = world_of(config, &Code::default().nop().spin());
    let gdb = attach(&mut world);
    assert!(world.ask(gdb, "vCont;s:1").starts_with("E."));
    assert!(world.ask(gdb, "s").starts_with("E."));
    assert!(world.executed.is_empty());
}

#[test]
fn a_range_step_leaves_the_range() {
    let mut world = world_of(Config::vcpus(1), &Code::default().nop().nop().nop().spin());
    let gdb = attach(&mut world);
    let (start, end) = (own_code(0), own_code(0) + 2);
    let stop = world.ask(gdb, &format!("vCont;r{start:x},{end:x}:1"));
    assert!(stop.starts_with("T05"), "{stop}");
    assert_eq!(world.pc(gdb), end);
    assert_eq!(world.executed.len(), 2);
}

#[test]
fn a_range_step_makes_at_least_one_step() {
    let mut world = world_of(Config::vcpus(1), &Code::default().nop().nop().spin());
    let gdb = attach(&mut world);
    world.ask(gdb, "vCont;r0,0:1");
    assert_eq!(world.pc(gdb), own_code(0) + 1);
}

#[test]
fn a_range_step_stops_at_a_breakpoint() {
    for insert in ["Z0", "Z1"] {
        let mut world = world_of(Config::vcpus(2), &Code::default().nop().nop().nop().spin());
        let gdb = attach(&mut world);
        let (start, at, end) = (own_code(0), own_code(0) + 2, own_code(0) + 3);
        world.ok(gdb, &format!("{insert},{at:x},1"));
        let stop = world.ask(gdb, &format!("vCont;r{start:x},{end:x}:1"));
        assert!(stop.contains("break:"), "{stop}");
        assert_eq!(world.pc(gdb), at);
    }
}

#[test]
fn a_range_step_can_be_interrupted() {
    let mut world = world_of(Config::vcpus(1), &Code::default().spin());
    let gdb = attach(&mut world);
    let (start, end) = (own_code(0), own_code(0) + 2);
    world.send(gdb, &format!("vCont;r{start:x},{end:x}:1"));
    world.ticks(30);
    world.interrupt(gdb);
    let stop = world.next(gdb);
    assert!(stop.starts_with("T02"), "{stop}");
    assert_eq!(world.pc(gdb), start);
}

#[test]
fn a_step_onto_a_breakpoint_reports_the_breakpoint() {
    let mut world = world_of(Config::vcpus(1), &Code::default().nop().nop().spin());
    let gdb = attach(&mut world);
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0) + 1));
    let stop = world.ask(gdb, "vCont;s:1");
    assert!(stop.contains("swbreak"), "{stop}");
    // It was told, so it is passed, and not met a second time.
    world.send(gdb, "vCont;c");
    world.ticks(50);
    assert!(world.clients[gdb].awaits_stop);
}

#[test]
fn a_step_from_a_breakpoint_executes_the_guests_own_instruction() {
    let mut world = world_of(Config::vcpus(2), &Code::default().inc(DATA).nop().spin());
    world.program(CODE, Code::default().spin());
    let gdb = attach(&mut world);
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0)));
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.model.ram.u32(DATA), 1);
    assert_eq!(world.pc(gdb), own_code(0) + 7);
    assert_eq!(world.model.ram.byte(own_code(0)), 0xcc);
}

#[test]
fn a_breakpoint_of_the_guests_under_one_of_ours_reaches_the_guest() {
    let mut world = world_of(Config::vcpus(1), &Code::default().int3().nop().spin());
    let gdb = attach(&mut world);
    world.ok(gdb, &format!("Z0,{:x},1", own_code(0)));
    let stop = world.ask(gdb, "vCont;c");
    assert!(stop.contains("swbreak"), "{stop}");
    world.send(gdb, "vCont;c");
    world.ticks(60);
    assert_eq!(world.model.ram.taken(3), 1);
    assert!(world.clients[gdb].awaits_stop, "it is passed");
    assert_eq!(world.model.cpus[0].file.u64(RIP), own_code(0) + 2);
}

#[test]
fn a_halted_vcpu_can_be_stepped_and_interrupted() {
    let mut world = world_of(Config::vcpus(1), &Code::default().hlt().spin());
    let gdb = attach(&mut world);
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.pc(gdb), own_code(0) + 1);
    world.send(gdb, "vCont;c");
    world.ticks(20);
    world.interrupt(gdb);
    assert!(world.next(gdb).starts_with("T02"));
}

/// A guest whose RCX is 0, about to divide by it.
fn about_to_divide() -> (World, usize) {
    let code = Code::default().div_ecx().nop().nop().spin();
    let mut world = world_of(Config::vcpus(1), &code);
    let gdb = attach(&mut world);
    (world, gdb)
}

/// The flags that the processor pushed for a handler without an error code.
fn pushed_flags(world: &World) -> u32 {
    let sp = world.model.cpus[0].file.u64(RSP);
    world.model.ram.u32(sp + 16)
}

#[test]
fn a_step_ends_at_the_handler_that_its_instruction_can_lead_to() {
    for watchpoints in 0..4 {
        let (mut world, gdb) = about_to_divide();
        for number in 0..watchpoints {
            world.ok(gdb, &format!("Z2,{:x},4", DATA + 0x100 + 8 * number));
        }
        world.ask(gdb, "vCont;s:1");
        assert_eq!(world.pc(gdb), handler(0), "{watchpoints} watchpoints");
        assert_eq!(pushed_flags(&world) & 0x100, 0);
    }
}

/// What happens where the debugger's own watchpoints leave no slot for the handler.
#[test]
fn a_step_that_faults_without_a_free_slot_ends_behind_the_handlers_return() {
    let (mut world, gdb) = about_to_divide();
    for number in 0..4 {
        world.ok(gdb, &format!("Z2,{:x},4", DATA + 0x100 + 8 * number));
    }
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.model.ram.taken(0), 1);
    assert!((own_code(0) + 2..=own_code(0) + 3).contains(&world.pc(gdb)));
    let flags = world.model.cpus[0].file.u64(RFLAGS);
    assert_eq!(flags & 0x100, 0, "the trap flag is gone from the guest");
}

#[test]
fn a_step_delivers_an_event_that_waits_and_ends_at_its_handler() {
    let mut world = world_of(Config::vcpus(1), &Code::default().pushf().nop().spin());
    let gdb = attach(&mut world);
    world.model.cpus[0].injected = Some(0x21);
    let stop = world.ask(gdb, "vCont;s:1");
    assert!(stop.starts_with("T05"), "{stop}");
    assert_eq!(world.pc(gdb), handler(0x21));
    assert_eq!(pushed_flags(&world) & 0x100, 0, "the guest does not see it");
    assert_eq!(world.executed, []);
    world.ask(gdb, "vCont;s:1");
    assert_eq!(world.executed, [(0, handler(0x21))]);
}
