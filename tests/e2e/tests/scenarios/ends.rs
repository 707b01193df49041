//! How guests end under a debugger.

use anyhow::{Result, ensure};
use trapline_e2e::{Reason, Stage};
use trapline_guests::{POWER_OFF, RESET, TRIPLE_FAULT};

crate::scenarios! {
    Each AnyKvm a_triple_fault_is_a_stop_and_the_corpse_can_be_inspected;
    Each AnyKvm a_power_off_is_a_stop_and_then_the_end;
    Each AnyKvm a_reset_is_a_stop_and_then_the_end;
    Each AnyKvm a_reset_by_each_port_is_told_with_its_reason_and_can_be_inspected;
    Neither AnyKvm each_end_is_told_by_its_reason;
    Neither AnyKvm a_guest_ends_by_itself_when_nobody_looks;
    Neither AnyKvm the_program_ends_by_a_signal;
    Neither AnyKvm a_guest_that_a_client_kills_ends_and_the_program_says_why;
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

/// The keyboard controller's port and the reset control register: the stop is behind the write.
fn a_reset_by_each_port_is_told_with_its_reason_and_can_be_inspected(stage: &Stage) -> Result<()> {
    for (cmdline, value) in [("", 0xfe), ("pci", 6)] {
        let mut guest = stage.guest(&RESET).cmdline(cmdline).start()?;
        let mut debugger = stage.attach(&guest)?;
        let stop = debugger.cont()?;
        ensure!(stop.reason == Reason::Signal("SIGTRAP".into()), "{stop:?}");
        let told = debugger.monitor("vcpus")?;
        ensure!(told.contains("the guest asked for a reset"), "{told}");
        ensure!(debugger.register("rax")? & 0xff == value, "{cmdline}");
        let code = guest.symbol("_start")?..guest.symbol("_start")? + 0x100;
        ensure!(code.contains(&debugger.register("rip")?), "{stop:?}");
        ensure!(debugger.read(code.start, 16)?.bytes.len() == 16);
        // It cannot go anywhere from there.
        let step = debugger.step()?;
        ensure!(step.reason == Reason::Exited(0), "{step:?}");
        guest.expect_passed()?;
    }
    Ok(())
}

/// Which ends are orderly: an exit, and else a signal.
fn each_end_is_told_by_its_reason(stage: &Stage) -> Result<()> {
    let cases = [
        (&POWER_OFF, "", "T05", "powered off", "W00"),
        (&RESET, "", "T05", "asked for a reset", "W00"),
        (&RESET, "pci", "T05", "asked for a reset", "W00"),
        (&TRIPLE_FAULT, "", "T06", "triple fault", "X06"),
    ];
    for (image, cmdline, signal, reason, end) in cases {
        let mut guest = stage.guest(image).cmdline(cmdline).start()?;
        let mut client = stage.client(&guest)?;
        // The reason in words, for the user, then the stop.
        let text = client.ask("vCont;c")?;
        let digits = text.strip_prefix('O').unwrap_or_default();
        let words = trapline_rsp::client::decode_hex(digits.as_bytes()).unwrap_or_default();
        let words = String::from_utf8_lossy(&words);
        ensure!(words.contains(reason), "{}: {text} {words}", image.name);
        let stop = client.answer()?;
        ensure!(stop.starts_with(signal), "{}: {stop}", image.name);
        ensure!(client.ask("vCont;s:1")? == end, "{}", image.name);
        guest.wait()?;
    }
    Ok(())
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

fn a_guest_that_a_client_kills_ends_and_the_program_says_why(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&trapline_guests::COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    client.packet("k")?;
    let status = guest.wait()?;
    ensure!(status == 0, "{status}: {}", guest.output());
    ensure!(
        guest.output().contains("a debugger ended the guest"),
        "{}",
        guest.output()
    );
    Ok(())
}
