//! Several vCPUs.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use trapline_e2e::{Debugger, Kind, LIMIT, Reason, RunningGuest, Stage, Watch};
use trapline_guests::{LATE_AP, SMP_PING_PONG};

crate::scenarios! {
    Each [AnyKvm KvmArm64 El2] simultaneous_hits_of_two_are_each_reported_once;
    Each [AnyKvm KvmArm64 El2] simultaneous_hits_of_four_are_each_reported_once;
    Each [AnyKvm KvmArm64 El2] simultaneous_hardware_hits_are_each_reported_once;
    Each [AnyKvm KvmArm64 El2] a_hit_whose_breakpoint_is_deleted_is_not_reported;
    Each [AnyKvm KvmArm64 El2] a_step_moves_one_vcpu;
    Each AnyKvm a_vcpu_that_starts_late_has_the_breakpoints;
    Each Hardware a_vcpu_that_starts_late_has_the_watchpoints;
    Each AnyKvm a_vcpu_that_waits_for_its_start_is_listed_and_not_started;
    Each [AnyKvm KvmArm64 El2] an_interrupt_stops_every_vcpu;
}

fn simultaneous_hits_of_two_are_each_reported_once(stage: &Stage) -> Result<()> {
    simultaneous_hits(stage, 2, false)
}

fn simultaneous_hits_of_four_are_each_reported_once(stage: &Stage) -> Result<()> {
    simultaneous_hits(stage, 4, false)
}

fn simultaneous_hardware_hits_are_each_reported_once(stage: &Stage) -> Result<()> {
    simultaneous_hits(stage, 2, true)
}

/// In each generation every vCPU calls `meet` once, and none goes on before all have.
fn simultaneous_hits(stage: &Stage, cpus: u32, hardware: bool) -> Result<()> {
    let mut guest = stage.guest(&SMP_PING_PONG).cpus(cpus).start()?;
    let mut debugger = stage.attach(&guest)?;
    let meet = guest.symbol("meet")?;
    let point = if hardware {
        debugger.hbreak(&meet.into())?
    } else {
        debugger.break_at(&meet.into())?
    };
    for generation in 0..4 {
        let mut hits = BTreeMap::<u64, u32>::new();
        for _ in 0..cpus {
            let stop = debugger.cont_to(point)?;
            ensure!(stop.pc == meet, "{stop:?}");
            // LLDB shows all threads that hit at once in one stop, and the next is another round.
            *hits.entry(stop.thread).or_default() += 1;
            if stage.kind() == Kind::Lldb {
                break;
            }
        }
        if stage.kind() == Kind::Gdb {
            let once = (1..=u64::from(cpus)).all(|thread| hits.get(&thread) == Some(&1));
            ensure!(once, "generation {generation}: {hits:?}");
        }
    }
    debugger.delete(point)?;
    soon(&guest, &mut *debugger)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_hit_whose_breakpoint_is_deleted_is_not_reported(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&SMP_PING_PONG).cpus(4).start()?;
    let mut debugger = stage.attach(&guest)?;
    let point = debugger.break_at(&guest.symbol("meet")?.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    soon(&guest, &mut *debugger)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// Lets the guest end after two more rounds: turns are slow where there are fewer processors than
/// vCPUs.
fn soon(guest: &RunningGuest, debugger: &mut dyn Debugger) -> Result<()> {
    debugger.write(guest.symbol("rounds")?, &2u64.to_le_bytes())
}

fn a_step_moves_one_vcpu(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&SMP_PING_PONG).cpus(4).start()?;
    let mut debugger = stage.attach(&guest)?;
    let point = debugger.break_at(&guest.symbol("meet")?.into())?;
    let stop = debugger.cont_to(point)?;
    debugger.delete(point)?;
    if stage.kind() == Kind::Gdb {
        debugger.console("set scheduler-locking on")?;
    }
    let before = places(debugger.threads()?);
    for _ in 0..3 {
        let step = debugger.step()?;
        ensure!(step.thread == stop.thread, "{step:?}");
    }
    let mut after = places(debugger.threads()?);
    ensure!(after.len() == 4);
    ensure!(
        after.get(&stop.thread) != before.get(&stop.thread),
        "no step"
    );
    after.insert(
        stop.thread,
        before.get(&stop.thread).copied().unwrap_or_default(),
    );
    ensure!(before == after, "{before:x?} {after:x?}");
    if stage.kind() == Kind::Gdb {
        debugger.console("set scheduler-locking off")?;
    }
    soon(&guest, &mut *debugger)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn places(threads: Vec<trapline_e2e::Thread>) -> BTreeMap<u64, Option<u64>> {
    threads
        .into_iter()
        .map(|thread| (thread.number, thread.pc))
        .collect()
}

fn a_vcpu_that_starts_late_has_the_breakpoints(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&LATE_AP).cpus(2).start()?;
    let mut debugger = stage.attach(&guest)?;
    // The first instruction after the start-up interrupt, in real mode, and the first of its work.
    let hard = debugger.hbreak(&guest.symbol("ap_trampoline")?.into())?;
    let soft = debugger.break_at(&guest.symbol("late_work")?.into())?;
    for start in 0..2 {
        let stop = debugger.cont_to(hard)?;
        ensure!(stop.thread == 2, "start {start}: {stop:?}");
        let stop = debugger.cont_to(soft)?;
        ensure!(stop.thread == 2, "start {start}: {stop:?}");
        ensure!(debugger.read_u64(guest.symbol("late_sum")?)? == start);
    }
    debugger.delete(hard)?;
    debugger.delete(soft)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_vcpu_that_starts_late_has_the_watchpoints(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&LATE_AP).cpus(2).start()?;
    let mut debugger = stage.attach(&guest)?;
    let point = debugger.watch(guest.symbol("late_sum")?, 8, Watch::Write)?;
    for count in 1..=2 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.thread == 2, "{stop:?}");
        ensure!(debugger.read_u64(guest.symbol("late_sum")?)? == count);
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_vcpu_that_waits_for_its_start_is_listed_and_not_started(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&LATE_AP).cpus(3).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    ensure!(debugger.threads()?.len() == 3);
    for _ in 0..2 {
        debugger.resume()?;
        debugger.interrupt()?;
        let stop = debugger.wait_stop(LIMIT)?;
        ensure!(matches!(stop.reason, Reason::Signal(_)), "{stop:?}");
        ensure!(debugger.threads()?.len() == 3);
        ensure!(debugger.read_u64(guest.symbol("ap_count")?)? == 0);
    }
    let work = debugger.break_at(&guest.symbol("work_alone")?.into())?;
    debugger.cont_to(work)?;
    debugger.cont_to(work)?;
    ensure!(debugger.read_u64(guest.symbol("alone")?)? > 0);
    ensure!(debugger.read_u64(guest.symbol("ap_count")?)? == 0);
    Ok(())
}

fn an_interrupt_stops_every_vcpu(stage: &Stage) -> Result<()> {
    let guest = stage
        .guest(&SMP_PING_PONG)
        .cpus(4)
        .cmdline("endless")
        .start()?;
    let mut debugger = stage.attach(&guest)?;
    for _ in 0..5 {
        debugger.resume()?;
        debugger.interrupt()?;
        debugger.wait_stop(LIMIT)?;
        // Nothing moves while the guest is stopped.
        let before = debugger.read(guest.symbol("meetings")?, 32)?;
        let threads = places(debugger.threads()?);
        ensure!(threads.len() == 4);
        ensure!(debugger.read(guest.symbol("meetings")?, 32)? == before);
        ensure!(places(debugger.threads()?) == threads);
    }
    Ok(())
}
