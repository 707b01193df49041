//! Clients that come and go thousands of times, in the middle of everything.

use core::time::Duration;
use std::env;

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use trapline_e2e::{LIMIT, RawClient, RunningGuest, Stage};
use trapline_guests::aarch64::LATE_CPU;

crate::scenarios! {
    Neither El2 churn_leaves_the_guest_as_it_was;
}

/// How many clients come and go; the long version has the second number.
const CLIENTS: [u32; 2] = [300, 10_000];
/// After how many of them the guest is looked at.
const INTERVAL: u32 = 50;
/// Where breakpoints are set, in the code of both processors.
const PLACES: [&str; 6] = [
    "main_loop",
    "wait_start",
    "wait_off",
    "psci",
    "late_start",
    "late_off",
];

/// One processor starts the other, which goes off again, all the time; each client leaves without a word.
fn churn_leaves_the_guest_as_it_was(stage: &Stage) -> Result<()> {
    let builder = stage.guest(&LATE_CPU).cpus(2).cmdline("endless");
    let mut guest = builder.running().start()?;
    let mut observer = Observer::new(stage, &guest)?;
    let seed = fastrand::u64(..);
    stage.transcript().say("seed", seed);
    let mut rng = Rng::with_seed(seed);
    let is_long = env::var("TRAPLINE_LONG").is_ok_and(|value| !value.is_empty());
    let [short, long] = CLIENTS;
    for number in 0..if is_long { long } else { short } {
        stage.transcript().say("client", number);
        visit(stage, &guest, &mut rng).with_context(|| format!("client {number}, seed {seed}"))?;
        if number % INTERVAL == INTERVAL - 1 {
            let looked = observer.look(stage, &guest);
            looked.with_context(|| format!("after client {number}, seed {seed}"))?;
        }
    }
    let mut last = RawClient::take_over(guest.socket(), stage.transcript())?;
    ensure!(last.ask("?")?.starts_with('T'));
    let rounds = guest.symbol("rounds")?;
    ensure!(last.ask(&format!("M{rounds:x},8:0200000000000000"))? == "OK");
    ensure!(last.ask("D")? == "OK");
    guest.expect_passed()
}

/// What the guest was at the start.
struct Observer {
    code: u64,
    code_bytes: u64,
    bytes: String,
    starts: u64,
}

impl Observer {
    fn new(stage: &Stage, guest: &RunningGuest) -> Result<Self> {
        let code = guest.symbol("_start")?;
        let code_bytes = guest.symbol("text_end")? - code;
        let mut client = RawClient::take_over(guest.socket(), stage.transcript())?;
        ensure!(client.ask("?")?.starts_with('T'));
        let bytes = client.ask(&format!("m{code:x},{code_bytes:x}"))?;
        ensure!(bytes.len() as u64 == 2 * code_bytes, "{bytes}");
        ensure!(client.ask("D")? == "OK");
        Ok(Self {
            code,
            code_bytes,
            bytes,
            starts: 0,
        })
    }

    /// No breakpoint is left, the code is what it was, both processors are there, and the guest has gone on.
    fn look(&mut self, stage: &Stage, guest: &RunningGuest) -> Result<()> {
        let mut client = RawClient::take_over(guest.socket(), stage.transcript())?;
        ensure!(client.ask("?")?.starts_with('T'));
        let points = client.monitor("breakpoints")?;
        ensure!(points.contains("there are none"), "{points}");
        let bytes = client.ask(&format!("m{:x},{:x}", self.code, self.code_bytes))?;
        ensure!(bytes == self.bytes, "the code has changed: {bytes}");
        ensure!(client.ask("qfThreadInfo")? == "m1,2");
        let place = guest.symbol("starts")?;
        // It comes to this again.
        let start = guest.symbol("late_start")?;
        ensure!(client.ask(&format!("Z1,{start:x},4"))? == "OK");
        client.resume("vCont;c")?;
        ensure!(client.ask(&format!("z1,{start:x},4"))? == "OK");
        let digits = client.ask(&format!("m{place:x},8"))?;
        let starts = u64::from_str_radix(&digits, 16)?.swap_bytes();
        ensure!(
            starts > self.starts,
            "{starts} starts after {}",
            self.starts
        );
        self.starts = starts;
        ensure!(client.ask("D")? == "OK");
        Ok(())
    }
}

/// A client comes, does something, and is gone before that is done.
fn visit(stage: &Stage, guest: &RunningGuest, rng: &mut Rng) -> Result<()> {
    if rng.u8(..8) == 0 {
        let mut client = RawClient::connect(guest.socket(), stage.transcript())?;
        let cut = b"$qSupported:swbreak+#8d";
        return client.send(cut.get(..rng.usize(..cut.len())).unwrap_or_default());
    }
    let mut client = RawClient::take_over(guest.socket(), stage.transcript())?;
    ensure!(client.ask("?")?.starts_with('T'));
    // Refusals then say why.
    client.ask("QEnableErrorStrings")?;
    for _ in 0..rng.u8(..4) {
        let place = guest.symbol(rng.choice(PLACES).unwrap_or("psci"))?;
        set(&mut client, &format!("Z{},{place:x},4", rng.u8(..2)))?;
    }
    if rng.bool() {
        set(&mut client, &format!("Z2,{:x},8", guest.symbol("starts")?))?;
    }
    let thread = rng.u8(1..=2);
    match rng.u8(..8) {
        0 => client.packet("vCont;c")?,
        1 => client.packet(&format!("vCont;s:{thread}"))?,
        2 => client.packet(&format!("vCont;s:{thread};c"))?,
        3 => {
            let start = guest.symbol("main_loop")?;
            client.packet(&format!("vCont;r{start:x},{:x}:1;c", start + 64))?;
        }
        4 => {
            client.packet("vCont;c")?;
            client.send(b"\x03")?;
        }
        5 => {
            // The other processor may be off, and a step of that ends when it is started.
            client.resume("vCont;s:1")?;
            client.packet("g")?;
        }
        6 => ensure!(client.ask("D")? == "OK"),
        _ => client.send(b"$M40000000,10:00")?,
    }
    // Some see what comes of it; a few wait for the stop.
    if rng.bool() {
        std::thread::sleep(Duration::from_micros(rng.u64(..3000)));
    }
    if rng.u8(..16) == 0 {
        client.send(b"\x03")?;
        let _ = client.receive(LIMIT / 600);
    }
    Ok(())
}

fn set(client: &mut RawClient, packet: &str) -> Result<()> {
    let answer = client.ask(packet)?;
    if answer == "OK" {
        return Ok(());
    }
    let why = answer.split_once(';').map_or("", |(_, digits)| digits);
    let why = trapline_rsp::client::decode_hex(why.as_bytes()).unwrap_or_default();
    let why = String::from_utf8_lossy(&why);
    bail!(
        "{packet}: {answer}: {why}; {}",
        client.monitor("breakpoints")?
    )
}
