//! Ctrl-C in every state that a guest can be in.

use anyhow::{Result, ensure};
use trapline_e2e::{Answer, Debugger, LIMIT, Reason, Stage};
use trapline_guests::{COUNTER, HALT, SPIN_MASKED};

crate::scenarios! {
    Each [AnyKvm KvmArm64 El2] an_interrupt_stops_a_running_guest;
    Each [AnyKvm KvmArm64 El2] an_interrupt_stops_a_guest_that_spins_with_interrupts_off;
    Each [AnyKvm KvmArm64 El2] an_interrupt_stops_an_idle_guest;
    Each AnyKvm an_interrupt_ends_a_step_of_an_idle_vcpu;
    Neither [AnyKvm KvmArm64 El2] an_interrupt_ends_an_endless_range_step;
    Neither [AnyKvm KvmArm64 El2] many_interrupts_make_one_stop;
    Neither [AnyKvm KvmArm64 El2] an_interrupt_of_a_stopped_guest_is_no_stop;
}

fn interrupt(debugger: &mut dyn Debugger) -> Result<()> {
    debugger.interrupt()?;
    let stop = debugger.wait_stop(LIMIT)?;
    ensure!(stop.reason == Reason::Signal("SIGINT".into()), "{stop:?}");
    Ok(())
}

fn an_interrupt_stops_a_running_guest(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    for _ in 0..5 {
        debugger.resume()?;
        interrupt(&mut *debugger)?;
    }
    Ok(())
}

fn an_interrupt_stops_a_guest_that_spins_with_interrupts_off(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&SPIN_MASKED).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    let spin = debugger.break_at(&guest.symbol("spin")?.into())?;
    debugger.cont_to(spin)?;
    debugger.delete(spin)?;
    for _ in 0..3 {
        debugger.resume()?;
        interrupt(&mut *debugger)?;
        ensure!(debugger.register(stage.names().pc)? >= guest.symbol("spin")?);
    }
    Ok(())
}

fn an_interrupt_stops_an_idle_guest(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&HALT).cmdline("idle").start()?;
    let mut debugger = stage.attach(&guest)?;
    let alone = debugger.break_at(&guest.symbol("halt_alone")?.into())?;
    debugger.cont_to(alone)?;
    debugger.delete(alone)?;
    for _ in 0..3 {
        debugger.resume()?;
        interrupt(&mut *debugger)?;
        ensure!(debugger.register(stage.names().pc)? >= guest.symbol("halt_alone")?);
    }
    Ok(())
}

/// The step over HLT comes to no end by itself: nothing is left that could wake the vCPU.
fn an_interrupt_ends_a_step_of_an_idle_vcpu(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&HALT).cmdline("idle").start()?;
    let mut debugger = stage.attach(&guest)?;
    let alone = debugger.break_at(&guest.symbol("halt_alone")?.into())?;
    debugger.cont_to(alone)?;
    debugger.delete(alone)?;
    debugger.resume()?;
    interrupt(&mut *debugger)?;
    debugger.start_step()?;
    debugger.interrupt()?;
    debugger.wait_stop(LIMIT)?;
    debugger.resume()?;
    interrupt(&mut *debugger)
}

fn an_interrupt_ends_an_endless_range_step(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&SPIN_MASKED).cmdline("endless").start()?;
    let mut client = stage.client(&guest)?;
    let spin = guest.symbol("spin")?;
    let kind = stage.breakpoint_kind();
    ensure!(client.ask(&format!("Z1,{spin:x},{kind}"))? == "OK");
    client.resume("vCont;c")?;
    ensure!(client.ask(&format!("z1,{spin:x},{kind}"))? == "OK");
    let end = spin + 16 * kind;
    for _ in 0..3 {
        client.packet(&format!("vCont;r{spin:x},{end:x}:1"))?;
        client.send(b"\x03")?;
        let stop = client.answer()?;
        ensure!(stop.starts_with("T02") || stop.starts_with("T05"), "{stop}");
    }
    Ok(())
}

fn many_interrupts_make_one_stop(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut client = stage.client(&guest)?;
    for _ in 0..5 {
        client.packet("vCont;c")?;
        client.send(b"\x03\x03\x03")?;
        let stop = client.answer()?;
        ensure!(stop.starts_with("T02"), "{stop}");
        ensure!(client.ask("qC")?.starts_with("QC"), "a second stop reply");
    }
    Ok(())
}

fn an_interrupt_of_a_stopped_guest_is_no_stop(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut client = stage.client(&guest)?;
    client.send(b"\x03")?;
    client.packet("qC")?;
    let answer = client.receive(LIMIT)?;
    ensure!(
        matches!(&answer, Answer::Packet(body) if body.starts_with(b"QC")),
        "{answer:?}"
    );
    Ok(())
}
