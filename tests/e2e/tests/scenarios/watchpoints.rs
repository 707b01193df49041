//! Watchpoints.

use anyhow::{Result, ensure};
use trapline_e2e::{Kind, Stage, Watch};
use trapline_guests::{COUNTER, REP_STRING};

crate::scenarios! {
    Each Hardware a_write_of_each_size_is_watched;
    Each Hardware reads_and_writes_are_watched;
    Gdb Hardware a_read_is_watched;
    Neither Hardware a_watch_stop_names_its_kind_and_the_address;
    Each Hardware a_watchpoint_hits_within_a_string_instruction;
    Gdb Hardware one_watchpoint_too_many_is_a_clear_error;
}

fn a_write_of_each_size_is_watched(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let cells = guest.symbol("cells")?;
    let cases = [
        (0, 1, "write_2"),
        (2, 2, "write_4"),
        (4, 4, "write_8"),
        (8, 8, "read_8"),
    ];
    for (offset, size, after) in cases {
        let point = debugger.watch(cells + offset, size, Watch::Write)?;
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == guest.symbol(after)?, "size {size}: {stop:?}");
        debugger.delete(point)?;
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn reads_and_writes_are_watched(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let read = guest.symbol("read_8")?;
    let start = debugger.break_at(&guest.symbol("write_8")?.into())?;
    debugger.cont_to(start)?;
    debugger.delete(start)?;
    let after_read = debugger.instruction_after(read)?;
    let point = debugger.watch(guest.symbol("cells")? + 8, 8, Watch::Access)?;
    for _ in 0..2 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == read, "the write: {stop:?}");
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == after_read, "the read: {stop:?}");
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// x86 has no slot for reads alone. The server takes an access that changed nothing for a read, so
/// not in the first round, which writes the 0 that is there.
fn a_read_is_watched(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let done = debugger.break_at(&guest.symbol("tick_done")?.into())?;
    debugger.cont_to(done)?;
    debugger.cont_to(done)?;
    debugger.delete(done)?;
    let after_read = debugger.instruction_after(guest.symbol("read_8")?)?;
    let point = debugger.watch(guest.symbol("cells")? + 8, 8, Watch::Read)?;
    for _ in 0..3 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == after_read, "{stop:?}");
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_watch_stop_names_its_kind_and_the_address(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    let cells = guest.symbol("cells")?;
    for (packet, key, offset) in [("Z2", "watch", 4), ("Z4", "awatch", 8)] {
        let place = cells + offset;
        ensure!(client.ask(&format!("{packet},{place:x},4"))? == "OK");
        let stop = client.resume("vCont;c")?;
        ensure!(stop.contains(&format!("{key}:{place:x};")), "{stop}");
        let remove = packet.replace('Z', "z");
        ensure!(client.ask(&format!("{remove},{place:x},4"))? == "OK");
    }
    Ok(())
}

fn a_watchpoint_hits_within_a_string_instruction(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&REP_STRING)?;
    let place = guest.symbol("source")? + 5000;
    let point = debugger.watch(place, 1, Watch::Write)?;
    let stop = debugger.cont_to(point)?;
    if stop.pc == guest.symbol("rep_stosb")? {
        ensure!(debugger.register("rdi")? == place + 1);
        ensure!(debugger.register("rcx")? == 9000 - 5001);
        ensure!(debugger.read(place, 2)?.bytes == [0x5a, 0]);
    } else {
        // QEMU's emulator reports it after the last iteration.
        let after = debugger.instruction_after(guest.symbol("rep_stosb")?)?;
        ensure!(stop.pc == after, "{stop:?}");
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn one_watchpoint_too_many_is_a_clear_error(stage: &Stage) -> Result<()> {
    ensure!(stage.kind() == Kind::Gdb);
    let (guest, mut debugger) = stage.held(&COUNTER)?;
    let sum = guest.symbol("sum")?;
    let mut points = Vec::new();
    for offset in 0..5 {
        points.push(debugger.watch(sum + 16 * offset, 8, Watch::Write)?);
    }
    let error = match debugger.cont() {
        Err(error) => error.to_string(),
        Ok(_) => anyhow::bail!("a fifth watchpoint was taken"),
    };
    ensure!(error.contains("watchpoint"), "{error}");
    for point in points.drain(1..) {
        debugger.delete(point)?;
    }
    for point in points {
        debugger.cont_to(point)?;
    }
    Ok(())
}
