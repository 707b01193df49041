//! Clients and a scheduler driven by bytes: the body of the fuzz target `session`, and of the test
//! that draws its bytes at random.

use trapline_arch::Architecture;
use trapline_arch::aarch64::registers::{CPSR, PC};
use trapline_arch::x86_64::registers::{RFLAGS, RIP};
use trapline_engine::{Access, Start, StepMethod};
use trapline_rsp::PACKET_SIZE_BYTES;

use super::aarch64::{
    self, HVC, MASK, NOP, SVC, UNMASK, add, branch, branch_if, brk, load, load_exclusive,
    load_pair, store, store_exclusive,
};
use super::cpu::Notices;
use super::memory::{CODE, Code, DATA, UNMAPPED, handler, own_code};
use super::os::SlowOs;
use super::{Choices, Config, World};

/// The most that one input makes happen.
const MAX_OPERATIONS: usize = 1500;
const MAX_CLIENTS: usize = 4;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte().unwrap_or(0)) % count
    }
}

/// Lets the bytes decide what clients do and what happens when, and checks that the promises hold.
///
/// # Panics
/// If one does not.
pub(crate) fn exercise(architecture: Architecture, data: &[u8]) {
    let mut input = Input(data);
    let mut world = match architecture {
        Architecture::X86_64 => build(&mut input),
        Architecture::Aarch64 => build_arm(&mut input),
    };
    let before = world.model.ram.copy();
    for _ in 0..MAX_OPERATIONS {
        let Some(operation) = input.byte() else {
            break;
        };
        if world.end.is_some() {
            return;
        }
        match operation {
            0..=170 => {
                let events = world.events();
                if let Some(event) = events.get(usize::from(operation) % events.len().max(1)) {
                    world.happen(*event);
                }
            }
            171..=175 => {
                let cpu = input.below(world.model.cpus.len());
                world.model.cpus[cpu].interrupt = Some(0x21);
            }
            176..=179 if world.clients.len() < MAX_CLIENTS => {
                let access = match operation {
                    176 => Access::ReadOnly,
                    _ => Access::Full,
                };
                let client = world.connect_as(access);
                world.clients[client].is_read_only = access == Access::ReadOnly;
            }
            _ if world.clients.is_empty() => {}
            _ => {
                let client = input.below(world.clients.len());
                act(&mut world, client, &mut input);
            }
        }
        assert_bounded(&world);
    }
    wind_up(&mut world, &before);
}

fn build(input: &mut Input<'_>) -> World {
    let step = [
        StepMethod::TrapFlag,
        StepMethod::MonitorTrap,
        StepMethod::TrapFlag,
        StepMethod::None,
    ][input.below(4)];
    let config = Config {
        architecture: Architecture::X86_64,
        vcpu_count: 1 + input.below(3),
        step,
        holds_interrupts: input.below(4) != 0,
        hardware_slots: [4, 4, 4, 0][input.below(4)],
        software_breakpoints: input.below(8) != 7,
        start: [Start::Held, Start::Running][input.below(2)],
        notices: Notices::AtOnce,
    };
    let os = SlowOs::new(input.below(64));
    let mut world = World::with_os(config, Choices::Fair(0), os);
    world.program(handler(60), Code::default().inc(DATA + 32).sysret());
    let shared = Code::default().nop().inc(DATA).load(DATA).nop().jmp(-18);
    world.program(CODE, shared.clone());
    for vcpu in 0..config.vcpu_count {
        let code = match input.below(6) {
            0 => shared.clone(),
            1 => Code::default()
                .pushf()
                .pop_rax()
                .int3()
                .int(0x20)
                .syscall()
                .jmp(-9),
            2 => Code::default().mov_ss_ax().inc(DATA + 4).ud2().jmp(-13),
            3 => Code::default()
                .sti()
                .nop()
                .cli()
                .load(UNMAPPED)
                .out(0x80)
                .icebp()
                .jmp(-15),
            4 => Code::default().nop().hlt(),
            _ => Code::default().nop().inc(DATA).nop().out(0x64),
        };
        world.program(own_code(vcpu), code);
        if input.below(2) == 0 {
            world.model.cpus[vcpu].file.set_u64(RIP, CODE);
        }
        let flags = [2, 0x202][input.below(2)];
        world.model.cpus[vcpu].file.set_u64(RFLAGS, flags);
    }
    world
}

fn build_arm(input: &mut Input<'_>) -> World {
    let config = Config {
        step: [StepMethod::SoftwareStep, StepMethod::None][usize::from(input.below(8) == 7)],
        holds_interrupts: input.below(4) != 0,
        hardware_slots: [6, 6, 2, 0][input.below(4)],
        software_breakpoints: input.below(8) != 7,
        start: [Start::Held, Start::Running][input.below(2)],
        ..Config::arm(1 + input.below(3))
    };
    let os = SlowOs::new(input.below(64));
    let mut world = World::with_os(config, Choices::Fair(0), os);
    world.program(aarch64::VECTORS, aarch64::Code::vectors());
    let shared: &[u32] = &[NOP, add(0, 1), store(0, 1, 0), load(2, 1, 0), branch(-4)];
    world.program(CODE, aarch64::Code::of(shared));
    for vcpu in 0..config.vcpu_count {
        let code: &[u32] = match input.below(5) {
            0 => shared,
            1 => &[SVC, brk(0), 0xffff_ffff, branch(-3)],
            2 => &[
                load_exclusive(0, 1),
                add(0, 1),
                store_exclusive(2, 0, 1),
                branch_if(2, -3),
                branch(-4),
            ],
            3 => &[
                UNMASK,
                NOP,
                MASK,
                load_pair(2, 1),
                store(0, 3, 0),
                branch(-5),
            ],
            _ => &[NOP, store(0, 1, 8), NOP, HVC],
        };
        world.program(own_code(vcpu), aarch64::Code::of(code));
        let cpu = &mut world.model.cpus[vcpu];
        if input.below(2) == 0 {
            cpu.file.set_u64(PC, CODE);
        }
        if input.below(4) == 0 {
            cpu.file.set_u64(CPSR, 0);
        }
    }
    world
}

/// Addresses of which a few bytes are often enough to hit something.
fn address(is_arm: bool, input: &mut Input<'_>) -> u64 {
    match input.below(8) {
        0 => CODE,
        1 => CODE + 1,
        2 => CODE + 8,
        3 => own_code(input.below(3)) + input.below(16) as u64,
        4 if is_arm => aarch64::VECTORS + 0x80 * input.below(16) as u64,
        4 => handler([1, 3, 6, 14, 0x20, 0x21, 60][input.below(7)]),
        5 => UNMAPPED,
        6 => CODE + 0x10_0001,
        _ => DATA + input.below(8) as u64,
    }
}

fn act(world: &mut World, client: usize, input: &mut Input<'_>) {
    let id = world.clients[client].id;
    if !world.engine.sessions().any(|open| open == id) {
        return;
    }
    if world.engine.is_finished(id) {
        world.close(client);
        return;
    }
    world.clients[client].inbox.clear();
    let is_busy = world.clients[client].is_busy();
    let awaits = world.clients[client].awaits_stop;
    match input.below(32) {
        0..=1 => world.interrupt(client),
        2 => world.close(client),
        _ if is_busy => {}
        // What may be refused could not be told from the refusal of the resume.
        3..=22 | 26 | 29 if awaits => {}
        // Any bytes, from a client that may only look.
        31 if world.clients[client].is_read_only => {
            world.clients[client].is_checked = false;
            let len = input.below(24).min(input.0.len());
            let (bytes, rest) = input.0.split_at(len);
            input.0 = rest;
            world.send_raw(client, bytes);
        }
        choice => {
            if let Some(packet) = packet(choice, world, input) {
                world.send(client, &packet);
            }
        }
    }
}

fn packet(choice: usize, world: &World, input: &mut Input<'_>) -> Option<String> {
    let thread = 1 + input.below(world.model.cpus.len());
    let is_arm = world.model.cpus[0].is_arm();
    let condition = ["", "", "", ";X3,220027", ";X4,26000027"];
    Some(match choice {
        3..=5 => "vCont;c".into(),
        6 => format!("vCont;s:{thread}"),
        7 => format!("vCont;s:{thread};c"),
        8 => format!("vCont;c:{thread}"),
        9 => format!("vCont;r{CODE:x},{:x}:{thread}", CODE + 9),
        10 => ["s", "c", "C05", "vCont;t"][input.below(4)].into(),
        11..=12 => "?".into(),
        13..=17 => {
            let kind = ["Z0", "Z0", "Z0", "Z1", "Z2", "Z3", "Z4"][input.below(7)];
            let at = address(is_arm, input);
            let len = [1, 1, 4, 8][input.below(4)];
            let condition = condition[input.below(condition.len())];
            format!("{kind},{at:x},{len}{condition}")
        }
        18..=20 => {
            let kind = ["z0", "z0", "z0", "z1", "z2", "z3", "z4"][input.below(7)];
            let at = address(is_arm, input);
            format!("{kind},{at:x},{}", [1, 1, 4, 8][input.below(4)])
        }
        21 => format!("m{:x},10", address(is_arm, input)),
        22 => format!("M{:x},1:77", DATA + input.below(16) as u64),
        23 => "p10".into(),
        24 => "g".into(),
        25 => format!("Hg{thread:x}"),
        26 => ["vCtrlC", "jThreadsInfo", "qfThreadInfo", "qHostInfo"][input.below(4)].into(),
        27 => "D".into(),
        28 => "QStartNoAckMode".into(),
        // Setting a register to what it is.
        29 => "QSaveRegisterState".into(),
        30 => [
            "qfThreadInfo",
            "qXfer:exec-file:read::0,100",
            "qCRC:0,40000",
            "qSearch:memory:0;40000;no such text",
        ][input.below(4)]
        .into(),
        _ => return None,
    })
}

/// Rule S3.
fn assert_bounded(world: &World) {
    for client in &world.clients {
        assert!(world.engine.output(client.id).len() <= 4 * PACKET_SIZE_BYTES);
    }
}

/// Rules R3 and R10: whoever waits can stop the guest; when all are gone it runs as before.
fn wind_up(world: &mut World, before: &[u8]) {
    for client in 0..world.clients.len() {
        world.ticks(60);
        if world.clients[client].awaits_stop && world.clients[client].is_checked {
            world.interrupt(client);
            for _ in 0..2000 {
                if !world.clients[client].awaits_stop || !world.tick() {
                    break;
                }
            }
            let is_answered = !world.clients[client].awaits_stop || world.end.is_some();
            // A client that may only look cannot stop the guest.
            assert!(is_answered, "client {client} cannot stop the guest");
        }
    }
    let has_run = !world.executed.is_empty();
    for client in 0..world.clients.len() {
        world.close(client);
    }
    for _ in 0..300 {
        if world.end.is_some() {
            return;
        }
        world.ticks(1);
    }
    world.assert_undisturbed(before, has_run);
}
