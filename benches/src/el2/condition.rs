//! A breakpoint whose condition never holds: decided by the server, and by a client as GDB does it.

use core::cell::RefCell;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::Bench;
use super::computer::Below;
use super::tiny::Tiny;
use crate::report::Figure;
use crate::rounds::{Party, Plan, measure};

/// How long the guest runs in each turn.
const WINDOW: Duration = Duration::from_millis(500);
/// `x0 == -1` (GDB manual, "Bytecode Descriptions": reg 0, const8 255, ext 8, equal, end). `x0` is the round.
const CONDITION: &str = "X9,26000022ff16081327";

pub(super) fn measure_all(bench: &Bench) -> Result<Vec<Figure>> {
    let trapline = RefCell::new(Tiny::new(bench, Below::Hypervisor)?);
    let qemu = RefCell::new(Tiny::new(bench, Below::NoEl2)?);
    let plan = Plan {
        rounds: bench.rounds,
        warm_up: 0,
        samples: 1,
    };
    let measured = measure(
        plan,
        [
            Party::new("trapline, software", || {
                by_server(&mut trapline.borrow_mut(), "0")
            }),
            Party::new("trapline, hardware", || {
                by_server(&mut trapline.borrow_mut(), "1")
            }),
            Party::new("trapline, client", || by_client(&mut trapline.borrow_mut())),
            Party::new("qemu, client", || by_client(&mut qemu.borrow_mut())),
        ],
    )?;
    let [software, hardware, client, qemu] = &measured;
    let figure = Figure::new("breakpoint with a false condition", "hits/s")
        .values(&measured)
        .compare(software, client)
        .compare(software, qemu)
        .compare(hardware, qemu)
        .note("client: it reads the register, takes the breakpoint out, steps, and puts it back, as GDB does");
    Ok(vec![figure])
}

/// Lets the server decide, at a breakpoint of this kind (of `Z`).
fn by_server(tiny: &mut Tiny, kind: &str) -> Result<f64> {
    let address = tiny.address("hot")?;
    tiny.order(&format!("Z{kind},{address:x},4;{CONDITION}"))?;
    let before = tiny.count()?;
    let begin = Instant::now();
    tiny.client.go()?;
    thread::sleep(WINDOW);
    tiny.client.stop()?;
    let seconds = begin.elapsed().as_secs_f64();
    let hits = tiny.count()?.wrapping_sub(before);
    tiny.order(&format!("z{kind},{address:x},4"))?;
    Ok(f64::from(u32::try_from(hits)?) / seconds)
}

/// Decides at each stop.
fn by_client(tiny: &mut Tiny) -> Result<f64> {
    let address = tiny.address("hot")?;
    let begin = Instant::now();
    let mut hits = 0_u32;
    while begin.elapsed() < WINDOW {
        tiny.order(&format!("Z0,{address:x},4"))?;
        tiny.client.go()?;
        tiny.client.reply()?;
        ensure!(tiny.register(0)? != u64::MAX, "the condition holds");
        tiny.order(&format!("z0,{address:x},4"))?;
        tiny.step()?;
        hits += 1;
    }
    Ok(f64::from(hits) / begin.elapsed().as_secs_f64())
}
