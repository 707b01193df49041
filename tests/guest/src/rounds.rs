//! The rounds, and what perf counts.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use perf_event::Builder;
use perf_event::events::Breakpoint;

use crate::traced::Traced;

/// How often a round writes the variable that a perf event is on.
const WRITES: u64 = 200;
/// How often a round has the other process stopped by a watchpoint.
const STOPS: u64 = 10;
/// Between rounds.
const PAUSE: Duration = Duration::from_millis(100);

static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Goes on until something is wrong.
pub(crate) fn run() -> Result<()> {
    let mut traced = Traced::start()?;
    for round in 1_u64.. {
        let counted = counted_writes().context("perf")?;
        ensure!(
            counted == WRITES,
            "perf counted {counted} of {WRITES} writes"
        );
        traced.stop_times(STOPS).context("ptrace")?;
        println!("trapline-guest: own debug {round}");
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn counted_writes() -> Result<u64> {
    let address = WRITTEN.as_ptr().addr() as u64;
    let mut counter = Builder::new(Breakpoint::write(address, 8)).build()?;
    counter.enable()?;
    for value in 0..WRITES {
        WRITTEN.store(value, Ordering::Relaxed);
    }
    counter.disable()?;
    Ok(counter.read()?)
}
