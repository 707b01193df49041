//! A request that asks for next to nothing, and a single step: what matters is the way there and back.

use core::time::Duration;
use std::time::Instant;

use anyhow::Result;
use trapline_guests::COUNTER;

use super::{Bench, Pair};
use crate::bare::Bare;
use crate::client::{Client, Packet};
use crate::echo::Work;
use crate::report::{Bar, Figure};
use crate::rounds::{Measured, Party, Plan, measure};
use crate::stats::{Summary, ratios};

/// How long the bare loop steps for one sample.
const BARE_WINDOW: Duration = Duration::from_millis(2);

/// Frame of a packet: `$`, `#` and two digits.
const FRAME_BYTES: usize = 4;

pub(super) fn small_request(bench: &Bench) -> Result<Figure> {
    let mut pair = bench.pair()?;
    let request = "qC";
    let reply_bytes = pair.trapline.ask(request)?.len() + FRAME_BYTES;
    let mut echo = bench
        .echo
        .connect(request.len() + FRAME_BYTES, reply_bytes)?;
    let packet = Packet::new(request);
    let plan = Plan {
        rounds: bench.rounds * 3,
        warm_up: 100,
        samples: 500,
    };
    let Pair { trapline, qemu, .. } = &mut pair;
    let measured = measure(
        plan,
        [
            Party::new("trapline", || round_trip(trapline, &packet)),
            Party::new("qemu", || round_trip(qemu, &packet)),
            Party::new("echo server", || echo.round_trip()),
        ],
    )?;
    let [trapline, qemu, echo] = &measured;
    Ok(Figure::new("small request (qC), round trip", "µs")
        .values(&measured)
        .ratio(trapline, echo, Bar::AtMost(1.2))
        .ratio(trapline, qemu, Bar::AtMost(1.0)))
}

pub(super) fn step(bench: &Bench) -> Result<Figure> {
    let mut pair = bench.pair()?;
    let mut bare = Bare::new(&COUNTER)?;
    let request = "vCont;s:1";
    let reply_bytes = pair.trapline.ask(request)?.len() + FRAME_BYTES;
    let mut echo = bench
        .echo
        .connect(request.len() + FRAME_BYTES, reply_bytes)?;
    let mut stepping_echo =
        bench
            .echo
            .connect_for(request.len() + FRAME_BYTES, reply_bytes, Work::Step)?;
    let packet = Packet::new(request);
    let plan = Plan {
        rounds: bench.rounds * 3,
        warm_up: 20,
        samples: 200,
    };
    let Pair { trapline, qemu, .. } = &mut pair;
    let measured = measure(
        plan,
        [
            Party::new("trapline", || round_trip(trapline, &packet)),
            Party::new("qemu", || round_trip(qemu, &packet)),
            Party::new("echo server", || echo.round_trip()),
            Party::new("bare KVM_RUN step", || bare.step_us(BARE_WINDOW)),
            Party::new("echo server with a bare step", || {
                stepping_echo.round_trip()
            }),
        ],
    )?;
    let [trapline, qemu, echo, bare, _] = &measured;
    let limit = Measured {
        name: "(echo + bare step)",
        samples: Vec::new(),
        rounds: sums(&echo.rounds, &bare.rounds),
    };
    let ratio = Summary::of(&ratios(&trapline.rounds, &limit.rounds));
    Ok(Figure::new("single step (vCont;s), round trip", "µs")
        .values(&measured)
        .check("trapline / (echo + bare step)", ratio, Bar::AtMost(1.5))
        .ratio(trapline, qemu, Bar::AtMost(1.0))
        .note(
            "the echo server with a bare step is one process that does both: what it takes beyond their \
             sum is the scheduler's",
        ))
}

fn sums(left: &[f64], right: &[f64]) -> Vec<f64> {
    left.iter()
        .zip(right)
        .map(|(left, right)| left + right)
        .collect()
}

/// Makes one round trip and returns how long it took, in microseconds.
pub(super) fn round_trip(client: &mut Client, packet: &Packet) -> Result<f64> {
    let start = Instant::now();
    client.request(packet)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
