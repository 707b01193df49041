//! From the request to stop to the stop reply, over the debug link.

use core::cell::RefCell;
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::Result;

use super::Bench;
use super::computer::{Below, Computer};
use crate::client::{Client, Packet};
use crate::report::Figure;
use crate::rounds::{Party, Plan, measure};

/// Processors of the guest.
const CPUS: u32 = 2;
/// How long the guest runs before each stop.
const RUN: Duration = Duration::from_millis(50);

pub(super) fn measure_all(bench: &Bench) -> Result<Vec<Figure>> {
    let [mut with, mut without] = [
        Computer::start_stock(bench, Below::Hypervisor, CPUS)?,
        Computer::start_stock(bench, Below::NoEl2, CPUS)?,
    ];
    let (mut trapline, mut qemu) = (with.connect()?, without.connect()?);
    let mut figures = vec![figure(
        bench,
        "stop of an idle guest, request to stop reply",
        &mut trapline,
        &mut qemu,
    )?];
    for (client, computer) in [(&mut trapline, &mut with), (&mut qemu, &mut without)] {
        client.go()?;
        computer.work("spin")?;
        client.stop()?;
    }
    figures.push(figure(
        bench,
        "stop of a guest that spins on both processors",
        &mut trapline,
        &mut qemu,
    )?);
    Ok(figures)
}

/// Measures guests that are stopped.
fn figure(bench: &Bench, title: &str, trapline: &mut Client, qemu: &mut Client) -> Result<Figure> {
    let plan = Plan {
        rounds: bench.rounds,
        warm_up: 1,
        samples: 10,
    };
    let packet = Packet::new("qC");
    let trapline = RefCell::new(trapline);
    let qemu = RefCell::new(qemu);
    let measured = measure(
        plan,
        [
            Party::new("trapline", || stop(&mut trapline.borrow_mut())),
            Party::new("qemu", || stop(&mut qemu.borrow_mut())),
            Party::new("trapline, qC", || {
                round_trip(&mut trapline.borrow_mut(), &packet)
            }),
            Party::new("qemu, qC", || round_trip(&mut qemu.borrow_mut(), &packet)),
        ],
    )?;
    let [trapline, qemu, small, _] = &measured;
    Ok(Figure::new(title, "µs")
        .values(&measured)
        .compare(trapline, qemu)
        .compare(trapline, small)
        .note("qC: the round trip of a small request at a stop, over the same link"))
}

fn stop(client: &mut Client) -> Result<f64> {
    client.go()?;
    thread::sleep(RUN);
    let start = Instant::now();
    client.stop()?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn round_trip(client: &mut Client, packet: &Packet) -> Result<f64> {
    let start = Instant::now();
    client.request(packet)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
