//! Steps by a request each, and steps that the server makes by itself in a range.

use core::cell::RefCell;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::Bench;
use super::computer::Below;
use super::tiny::Tiny;
use crate::client::Packet;
use crate::report::Figure;
use crate::rounds::{Party, Plan, measure};

/// How long each turn steps.
const WINDOW: Duration = Duration::from_millis(500);

pub(super) fn measure_all(bench: &Bench) -> Result<Vec<Figure>> {
    let trapline = RefCell::new(Tiny::new(bench, Below::Hypervisor)?);
    let qemu = RefCell::new(Tiny::new(bench, Below::NoEl2)?);
    let per_round = trapline.borrow_mut().instructions_per_round()?;
    let plan = Plan {
        rounds: bench.rounds * 3,
        warm_up: 0,
        samples: 1,
    };
    let measured = measure(
        plan,
        [
            Party::new("trapline, range", || {
                by_range(&mut trapline.borrow_mut(), per_round)
            }),
            Party::new("trapline, client", || by_client(&mut trapline.borrow_mut())),
            Party::new("qemu, client", || by_client(&mut qemu.borrow_mut())),
        ],
    )?;
    let [range, client, qemu] = &measured;
    let figure = Figure::new(
        "steps, by the client (vCont;s) and by range (vCont;r)",
        "steps/s",
    )
    .values(&measured)
    .compare(range, client)
    .compare(client, qemu)
    .compare(range, qemu)
    .note("QEMU's stub is no program in the computer, and has no range step");
    Ok(vec![figure])
}

/// Steps in a range that the guest does not leave.
fn by_range(tiny: &mut Tiny, per_round: u32) -> Result<f64> {
    let (start, end) = (tiny.address("_start")?, tiny.address("counter")?);
    ensure!(start < end, "the guest's data lies before its code");
    let before = tiny.count()?;
    let begin = Instant::now();
    let range = Packet::new(&format!("vCont;r{start:x},{end:x}:1"));
    tiny.client.send(&range)?;
    thread::sleep(WINDOW);
    tiny.client.interrupt()?;
    let reply = tiny.client.reply()?;
    let seconds = begin.elapsed().as_secs_f64();
    // SIGINT: the range was not left.
    ensure!(
        reply.starts_with(b"T02"),
        "the range step ended by itself: {}",
        String::from_utf8_lossy(reply)
    );
    let rounds = tiny.count()?.wrapping_sub(before);
    Ok(f64::from(u32::try_from(rounds)?) * f64::from(per_round) / seconds)
}

/// Steps by a request each, as a client of a server without range steps must.
fn by_client(tiny: &mut Tiny) -> Result<f64> {
    let begin = Instant::now();
    let mut steps = 0_u32;
    while begin.elapsed() < WINDOW {
        tiny.step()?;
        steps += 1;
    }
    Ok(f64::from(steps) / begin.elapsed().as_secs_f64())
}
