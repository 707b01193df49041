//! Breakpoints, steps, interrupts and detaching on the simplest guest.

use anyhow::{Result, ensure};
use trapline_e2e::{LIMIT, Reason, Stage};
use trapline_guests::COUNTER;

crate::scenarios! {
    Each AnyKvm a_guest_is_held_before_its_first_instruction;
    Each AnyKvm a_software_breakpoint_stops_before_its_instruction;
    Each AnyKvm a_hardware_breakpoint_stops_before_its_instruction;
    Each AnyKvm an_interrupt_stops_a_running_guest;
    Each AnyKvm a_guest_passes_after_a_detach;
}

fn a_guest_is_held_before_its_first_instruction(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.attach(&guest)?;
    ensure!(debugger.register("rip")? == guest.symbol("_start")?);
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_software_breakpoint_stops_before_its_instruction(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.attach(&guest)?;
    let tick = guest.symbol("tick")?;
    let point = debugger.break_at(&tick.into())?;
    for count in 0..3 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == tick, "{stop:?}");
        ensure!(stop.function.as_deref() == Some("tick"), "{stop:?}");
        ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_hardware_breakpoint_stops_before_its_instruction(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.attach(&guest)?;
    let tick = guest.symbol("tick")?;
    let point = debugger.hbreak(&tick.into())?;
    for count in 0..3 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == tick, "{stop:?}");
        ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn an_interrupt_stops_a_running_guest(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    for _ in 0..3 {
        debugger.resume()?;
        debugger.interrupt()?;
        let stop = debugger.wait_stop(LIMIT)?;
        ensure!(stop.reason == Reason::Signal("SIGINT".into()), "{stop:?}");
    }
    Ok(())
}

fn a_guest_passes_after_a_detach(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.attach(&guest)?;
    let point = debugger.break_at(&guest.symbol("tick")?.into())?;
    debugger.cont_to(point)?;
    debugger.detach()?;
    guest.expect_passed()
}
