//! One module per figure.

mod condition;
mod memory;
mod range_step;
mod resident;
mod round_trip;
mod stop;
mod symbols;

use core::time::Duration;
use std::thread;

use anyhow::Result;
use trapline_guests::{COUNTER, Guest};

use crate::client::Client;
use crate::echo::Echo;
use crate::report::Figure;
use crate::servers::{Place, Server, Who};

/// Long enough for a guest to have left its start-up code, even one that is interpreted.
const START_UP: Duration = Duration::from_millis(300);

/// A way to measure a figure.
pub(crate) type Measure = fn(&Bench) -> Result<Figure>;

/// The figure that needs a KVM that runs a stock kernel, and finds one by itself.
pub(crate) const SYMBOLS: &str = "resident-symbols";

/// Every figure by the name of `--only`.
pub(crate) const ALL: &[(&str, Measure)] = &[
    ("request", round_trip::small_request),
    ("read", memory::read),
    ("step", round_trip::step),
    ("range-step", range_step::measure_all),
    ("condition", condition::measure_all),
    ("stop", stop::measure_all),
    ("resident", resident::measure_all),
    (SYMBOLS, symbols::measure_all),
];

/// What the figures share.
pub(crate) struct Bench {
    pub(crate) place: Place,
    pub(crate) echo: Echo,
    /// Rounds of each figure.
    pub(crate) rounds: u32,
}

/// Both servers with their clients, and the guest `counter` stopped in its main loop.
struct Pair {
    trapline: Client,
    qemu: Client,
    _servers: [Server; 2],
}

impl Bench {
    fn pair(&self) -> Result<Pair> {
        let [trapline, qemu] =
            [Who::Trapline, Who::Qemu].map(|who| self.stopped_server(who, &COUNTER));
        let (trapline, qemu) = (trapline?, qemu?);
        Ok(Pair {
            trapline: trapline.1,
            qemu: qemu.1,
            _servers: [trapline.0, qemu.0],
        })
    }

    fn stopped_server(&self, who: Who, guest: &Guest) -> Result<(Server, Client)> {
        let server = Server::start(&self.place, who, guest, 1)?;
        let mut client = server.connect()?;
        client.ask("?")?;
        client.go()?;
        thread::sleep(START_UP);
        client.stop()?;
        Ok((server, client))
    }
}

/// Returns the address of one of the guest's labels.
fn address(guest: &Guest, label: &str) -> Result<u64> {
    guest
        .symbol(label)
        .ok_or_else(|| anyhow::anyhow!("the guest {} has no label {label}", guest.name))
}
