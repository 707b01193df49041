//! Steps that the server makes by itself, in a range that the guest does not leave.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use trapline_guests::COUNTER;

use super::round_trip::round_trip;
use super::{Bench, Pair, address};
use crate::bare::Bare;
use crate::client::{Client, Packet};
use crate::report::{Bar, Figure};
use crate::rounds::{Party, Plan, measure};
use crate::stats::Summary;

/// How long each turn steps.
const WINDOW: Duration = Duration::from_millis(250);

fn measure_rate(client: &mut Client, per_round: u32) -> Result<f64> {
    let counter = address(&COUNTER, "counter")?;
    // All that the guest executes in its main loop.
    let (start, end) = (address(&COUNTER, "_start")?, address(&COUNTER, "counter")?);
    let before = client.read_u64(counter)?;
    let begin = Instant::now();
    client.send(&Packet::new(&format!("vCont;r{start:x},{end:x}:1")))?;
    thread::sleep(WINDOW);
    client.interrupt()?;
    let reply = client.reply()?;
    let seconds = begin.elapsed().as_secs_f64();
    // SIGINT: the range was not left.
    ensure!(
        reply.starts_with(b"T02"),
        "the range step ended by itself: {}",
        String::from_utf8_lossy(reply)
    );
    let rounds = client.read_u64(counter)?.wrapping_sub(before);
    Ok(f64::from(u32::try_from(rounds)?) * f64::from(per_round) / seconds)
}

pub(super) fn measure_all(bench: &Bench) -> Result<Figure> {
    let mut pair = bench.pair()?;
    let mut bare = Bare::new(&COUNTER)?;
    let per_round = bare.instructions_per_round;
    let step = Packet::new("vCont;s:1");
    let plan = Plan {
        rounds: bench.rounds,
        warm_up: 0,
        samples: 1,
    };
    let Pair { trapline, qemu, .. } = &mut pair;
    let measured = measure(
        plan,
        [
            Party::new("trapline", || measure_rate(trapline, per_round)),
            Party::new("qemu, steps by the client", || client_rate(qemu, &step)),
            Party::new("bare KVM_RUN loop", || Ok(1e6 / bare.step_us(WINDOW)?)),
        ],
    )?;
    let [trapline, _, bare] = &measured;
    Ok(Figure::new("range step (vCont;r)", "steps/s")
        .values(&measured)
        .ratio(trapline, bare, Bar::AtLeast(0.7))
        .note("qemu's stub has no range step"))
}

/// Steps by one request each, as a client of a server without range steps must.
fn client_rate(client: &mut Client, step: &Packet) -> Result<f64> {
    let begin = Instant::now();
    let mut samples = Vec::new();
    while begin.elapsed() < WINDOW {
        samples.push(round_trip(client, step)?);
    }
    Ok(1e6 / Summary::of(&samples).median)
}
