//! What every session begins and ends with.

use anyhow::{Result, ensure};
use trapline_e2e::Stage;
use trapline_guests::COUNTER;

crate::scenarios! {
    Each AnyKvm a_guest_is_held_before_its_first_instruction;
    Each AnyKvm a_guest_passes_after_a_detach;
}

fn a_guest_is_held_before_its_first_instruction(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.attach(&guest)?;
    ensure!(debugger.register("rip")? == guest.symbol("_start")?);
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_guest_passes_after_a_detach(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.attach(&guest)?;
    let point = debugger.break_at(&guest.symbol("tick")?.into())?;
    debugger.cont_to(point)?;
    debugger.detach()?;
    guest.expect_passed()
}
