//! From the request to stop to the stop reply, with every vCPU busy.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use trapline_guests::SMP_PING_PONG;

use super::{Bench, address};
use crate::client::Client;
use crate::report::{Bar, Figure};
use crate::rounds::{Party, Plan, measure};
use crate::servers::{Server, Who};
use crate::stats::{Summary, ratios};

/// How long the vCPUs run before each stop: all of them come to run, even if they share a processor.
const RUN: Duration = Duration::from_millis(20);
/// How often it is looked whether all vCPUs have started.
const MAX_LOOKS: u32 = 1000;

pub(super) fn measure_all(bench: &Bench) -> Result<Figure> {
    let mut figure = Figure::new("stop, request to stop reply", "µs");
    let mut one: Option<Vec<f64>> = None;
    for vcpus in [1_u32, 2, 8, 32] {
        let mut trapline = Stopper::new(bench, Who::Trapline, vcpus)?;
        let mut qemu = Stopper::new(bench, Who::Qemu, vcpus)?;
        let plan = Plan {
            rounds: bench.rounds,
            warm_up: 1,
            samples: 10,
        };
        let [trapline, qemu] = measure(
            plan,
            [
                Party::new("trapline", || trapline.sample()),
                Party::new("qemu", || qemu.sample()),
            ],
        )?;
        figure = figure
            .value(format!("trapline, {vcpus} vCPUs"), trapline.summary())
            .value(format!("qemu, {vcpus} vCPUs"), qemu.summary());
        let first = one.get_or_insert_with(|| trapline.rounds.clone());
        if vcpus > 1 {
            let growth = Summary::of(&ratios(&trapline.rounds, first));
            let what = format!("trapline, {vcpus} vCPUs / 1 vCPU");
            figure = figure.check(what, growth, Bar::AtMost(vcpus.into()));
        }
    }
    let processors = thread::available_parallelism()?;
    Ok(figure.note(format!(
        "every vCPU spins; {processors} processors are here, so more vCPUs than that share them, \
         and each has to get its turn before it can stop"
    )))
}

/// A server whose vCPUs all spin.
struct Stopper {
    client: Client,
    _server: Server,
}

impl Stopper {
    fn new(bench: &Bench, who: Who, vcpus: u32) -> Result<Self> {
        let server = Server::start(&bench.place, who, &SMP_PING_PONG, vcpus)?;
        let mut client = server.connect()?;
        client.ask("?")?;
        let generation = address(&SMP_PING_PONG, "generation")?;
        for _ in 0..MAX_LOOKS {
            client.go()?;
            thread::sleep(RUN);
            client.stop()?;
            // All have been at the barrier once.
            if client.read_u64(generation)? > 0 {
                return Ok(Self {
                    client,
                    _server: server,
                });
            }
        }
        bail!("not all of {vcpus} vCPUs have started");
    }

    fn sample(&mut self) -> Result<f64> {
        self.client.go()?;
        thread::sleep(RUN);
        let start = Instant::now();
        self.client.stop()?;
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}
