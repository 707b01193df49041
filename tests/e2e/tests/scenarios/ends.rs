//! How guests end under a debugger.

use anyhow::{Result, ensure};
use trapline_e2e::{Reason, Stage};
use trapline_guests::{POWER_OFF, RESET, TRIPLE_FAULT};

crate::scenarios! {
    Each AnyKvm a_triple_fault_is_a_stop_and_the_corpse_can_be_inspected;
    Each AnyKvm a_power_off_is_a_stop_and_then_the_end;
    Each AnyKvm a_reset_is_a_stop_and_then_the_end;
    Neither AnyKvm a_guest_ends_by_itself_when_nobody_looks;
    Neither AnyKvm the_program_ends_by_a_signal;
}

fn a_triple_fault_is_a_stop_and_the_corpse_can_be_inspected(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&TRIPLE_FAULT)?;
    let stop = debugger.cont()?;
    ensure!(matches!(stop.reason, Reason::Signal(_)), "{stop:?}");
    ensure!(
        debugger.register("rip")? == guest.symbol("fatal")?,
        "{stop:?}"
    );
    ensure!(debugger.read(guest.symbol("fatal")?, 2)?.bytes == [0x0f, 0x0b]);
    let stop = debugger.cont()?;
    ensure!(
        matches!(stop.reason, Reason::Exited(_) | Reason::Ended(_)),
        "{stop:?}"
    );
    ensure!(guest.wait()? == 1);
    ensure!(
        guest.output().contains("triple fault"),
        "{}",
        guest.output()
    );
    Ok(())
}

fn a_power_off_is_a_stop_and_then_the_end(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&POWER_OFF)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_reset_is_a_stop_and_then_the_end(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&RESET)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_guest_ends_by_itself_when_nobody_looks(stage: &Stage) -> Result<()> {
    for (image, status) in [(&POWER_OFF, 0), (&RESET, 0), (&TRIPLE_FAULT, 1)] {
        let mut guest = stage.guest(image).running().start()?;
        let found = guest.wait()?;
        ensure!(found == status, "{}: {found}", image.name);
    }
    Ok(())
}

fn the_program_ends_by_a_signal(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&trapline_guests::COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    guest.terminate()?;
    let status = guest.wait()?;
    ensure!(status == 0, "{status}: {}", guest.output());
    client.expect_closed(trapline_e2e::LIMIT)
}
