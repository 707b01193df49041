//! Random clients and schedules, from fixed seeds.

use std::time::{Duration, Instant};

use trapline_arch::Architecture;
use trapline_arch::x86_64::registers::RIP;

use crate::model::memory::{CODE, Code, DATA};
use crate::model::{Choices, Config, World, fuzz};

/// How long each test goes on drawing.
const TIME: Duration = Duration::from_secs(5);
const MAX_SEEDS: u64 = 20_000;

#[test]
fn the_promises_hold_for_random_clients_and_schedules() {
    let start = Instant::now();
    for seed in 1..MAX_SEEDS {
        if start.elapsed() > TIME {
            println!("{seed} seeds");
            break;
        }
        let mut random = Choices::random(seed);
        let len = 20 + random.below(700);
        let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
        let architecture = [Architecture::X86_64, Architecture::Aarch64][(seed % 2) as usize];
        let result = std::panic::catch_unwind(|| fuzz::exercise(architecture, &bytes));
        assert!(result.is_ok(), "seed {seed}");
    }
}

/// Each time a vCPU executes the instruction under a breakpoint it was reported before, and each
/// report is followed by the execution.
#[test]
fn hits_are_reported_exactly_once_in_random_schedules() {
    let start = Instant::now();
    for seed in 1..MAX_SEEDS {
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
    let mut world = World::new(Config::vcpus(count), Choices::random(seed));
    world.program(CODE, Code::default().nop().inc(DATA).nop().jmp(-11));
    for cpu in &mut world.model.cpus {
        cpu.file.set_u64(RIP, CODE);
    }
    let at = CODE + [0, 1, 8, 9][random.below(4)];
    let gdb = world.connect();
    let other = world.connect();
    world.ask(gdb, "?");
    let kind = ["Z0", "Z1"][random.below(2)];
    world.ok(gdb, &format!("{kind},{at:x},1"));
    let mut reports = vec![0; count];
    for _ in 0..300 {
        if !world.clients[gdb].awaits_stop {
            while let Some(stop) = world.clients[gdb].inbox.pop_front() {
                if stop.contains("break:") {
                    let thread = stop.find("thread:").unwrap() + 7;
                    reports[usize::from(stop.as_bytes()[thread] - b'1')] += 1;
                }
            }
            let thread = 1 + random.below(count);
            // A step executes the instruction under a breakpoint that it starts from.
            let packet = match random.below(6) {
                1 => format!("vCont;c:{thread}"),
                _ => "vCont;c".into(),
            };
            world.send(gdb, &packet);
        }
        match random.below(40) {
            0 => world.interrupt(gdb),
            1..=3 if !world.clients[other].is_busy() => world.send(other, "p10"),
            _ => {
                world.tick();
            }
        }
        for (vcpu, reports) in reports.iter().enumerate() {
            let stops = world.clients[gdb].inbox.iter();
            let name = format!("thread:{};", vcpu + 1);
            let new = stops
                .filter(|stop| stop.contains("break:") && stop.contains(&name))
                .count();
            let told = reports + new;
            let executed = world.times(vcpu, at);
            assert!(executed <= told, "vCPU {vcpu} ran through a breakpoint");
            assert!(executed + 1 >= told, "vCPU {vcpu} was reported twice");
        }
    }
}
