//! Breakpoints: where they stop, on which vCPUs, under which condition, and what stays of them.

use anyhow::{Result, ensure};
use trapline_e2e::{Kind, Stage};
use trapline_guests::{BIG, COUNTER, SELF_MODIFYING};

crate::scenarios! {
    Each [AnyKvm KvmArm64 El2] a_software_breakpoint_stops_before_its_instruction;
    Each [AnyKvm KvmArm64 El2] a_hardware_breakpoint_stops_before_its_instruction;
    Each [AnyKvm KvmArm64 El2] a_condition_lets_other_hits_pass;
    Gdb [AnyKvm KvmArm64 El2] a_condition_is_decided_in_the_server;
    Gdb [AnyKvm KvmArm64 El2] a_condition_that_faults_stops;
    Each [AnyKvm KvmArm64 El2] a_thousand_breakpoints_leave_nothing_when_the_debugger_is_killed;
    Gdb AnyKvm planted_bytes_are_never_read;
    Gdb AnyKvm one_breakpoint_too_many_is_a_clear_error;
    Each AnyKvm a_guest_that_writes_over_a_breakpoint_goes_on;
    Each AnyKvm a_hardware_breakpoint_survives_writes_over_it;
    Each [AnyKvm KvmArm64 El2] a_breakpoint_under_the_program_counter_does_not_hit_again;
}

fn a_software_breakpoint_stops_before_its_instruction(stage: &Stage) -> Result<()> {
    breakpoint_stops(stage, false)
}

fn a_hardware_breakpoint_stops_before_its_instruction(stage: &Stage) -> Result<()> {
    breakpoint_stops(stage, true)
}

fn breakpoint_stops(stage: &Stage, hardware: bool) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let tick = guest.symbol("tick")?;
    let point = if hardware {
        debugger.hbreak(&tick.into())?
    } else {
        debugger.break_at(&tick.into())?
    };
    for count in 0..3 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.pc == tick, "{stop:?}");
        ensure!(stop.function.as_deref() == Some("tick"), "{stop:?}");
        ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
        let frames = debugger.backtrace(5)?;
        ensure!(
            frames.first().map(|frame| frame.pc) == Some(tick),
            "{frames:?}"
        );
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_condition_lets_other_hits_pass(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let argument = stage.names().argument;
    let point = debugger.break_at(&guest.symbol("hot")?.into())?;
    // LLDB asks for each hit and decides itself, so it gets fewer.
    let round = match stage.kind() {
        Kind::Gdb => 900,
        Kind::Lldb => 25,
    };
    debugger.condition(point, &format!("${argument} == {round}"))?;
    debugger.cont_to(point)?;
    ensure!(debugger.register(argument)? == round);
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_condition_is_decided_in_the_server(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let point = debugger.break_at(&guest.symbol("hot")?.into())?;
    let counter = guest.symbol("counter")?;
    debugger.condition(
        point,
        &format!(
            "*(long *){counter:#x} == 500 && ${} < 1000",
            stage.names().argument
        ),
    )?;
    debugger.cont_to(point)?;
    ensure!(debugger.read_u64(counter)? == 500);
    let packets = debugger.packets()?;
    let stops = packets.matches("$T05").count();
    ensure!(
        stops == 2,
        "{stops} stop replies: one to connect, one for the hit"
    );
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// GDB expects a stop where an expression cannot be evaluated, and then evaluates it itself.
fn a_condition_that_faults_stops(stage: &Stage) -> Result<()> {
    let (guest, mut debugger) = stage.held(&COUNTER)?;
    let point = debugger.break_at(&guest.symbol("hot")?.into())?;
    debugger.condition(point, "*(long *)0x7fffdead0000 == 1")?;
    let stop = debugger.cont()?;
    ensure!(stop.pc == guest.symbol("hot")?, "{stop:?}");
    Ok(())
}

fn a_thousand_breakpoints_leave_nothing_when_the_debugger_is_killed(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&BIG)?;
    for index in 0..1000 {
        let address = guest.symbol(&format!("function_{index}"))?;
        debugger.break_at(&address.into())?;
    }
    for index in 0..3 {
        let stop = debugger.cont()?;
        let expected = guest.symbol(&format!("function_{index}"))?;
        ensure!(stop.pc == expected, "{stop:?}");
    }
    debugger.kill()?;
    stage.let_go(&guest)?;
    guest.expect_passed()
}

fn planted_bytes_are_never_read(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let tick = guest.symbol("tick")?;
    let mut other = stage.client(&guest)?;
    let before = other.ask(&format!("m{tick:x},8"))?;
    debugger.console("set breakpoint always-inserted on")?;
    let point = debugger.break_at(&tick.into())?;
    debugger.cont_to(point)?;
    ensure!(other.ask(&format!("m{tick:x},8"))? == before);
    // A write over a planted byte changes what will be there later. The instruction at tick_done is
    // RET; UD2 would end the guest.
    let done = guest.symbol("tick_done")?;
    let second = debugger.break_at(&done.into())?;
    ensure!(other.ask(&format!("M{done:x},1:0f"))? == "OK");
    ensure!(other.ask(&format!("m{done:x},1"))? == "0f");
    ensure!(other.ask(&format!("M{done:x},1:c3"))? == "OK");
    let stop = debugger.cont_to(second)?;
    ensure!(stop.pc == done, "{stop:?}");
    debugger.delete(point)?;
    debugger.delete(second)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn one_breakpoint_too_many_is_a_clear_error(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&BIG)?;
    let mut points = Vec::new();
    for index in 0..5 {
        let address = guest.symbol(&format!("function_{index}"))?;
        points.push(debugger.hbreak(&address.into())?);
    }
    let error = match debugger.cont() {
        Err(error) => error.to_string(),
        Ok(_) => anyhow::bail!("a fifth hardware breakpoint was taken"),
    };
    ensure!(error.contains("hardware breakpoint"), "{error}");
    // Nothing else has changed: the guest has not moved and the others still work.
    ensure!(debugger.register("rip")? == guest.symbol("_start")?);
    if let Some(last) = points.pop() {
        debugger.delete(last)?;
    }
    for point in points {
        debugger.cont_to(point)?;
        debugger.delete(point)?;
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// The guest's store is stronger than a byte that was planted there; it is neither lost nor undone.
fn a_guest_that_writes_over_a_breakpoint_goes_on(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&SELF_MODIFYING)?;
    let victim = guest.symbol("victim")?;
    let point = debugger.break_at(&victim.into())?;
    let start = debugger.break_at(&guest.symbol("main_loop")?.into())?;
    for _ in 0..5 {
        debugger.cont()?;
    }
    debugger.delete(start)?;
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_hardware_breakpoint_survives_writes_over_it(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&SELF_MODIFYING)?;
    let victim = guest.symbol("victim")?;
    let point = debugger.hbreak(&victim.into())?;
    for round in 0..5 {
        debugger.cont_to(point)?;
        ensure!(debugger.register("rbx")? == round);
        let expected = if round % 2 == 0 { 0xf8 } else { 0xf9 };
        ensure!(debugger.read(victim, 1)?.bytes == [expected]);
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_breakpoint_under_the_program_counter_does_not_hit_again(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let tick = guest.symbol("tick")?;
    let hard = debugger.hbreak(&guest.symbol("hot")?.into())?;
    let soft = debugger.break_at(&tick.into())?;
    for count in 0..3 {
        debugger.cont_to(soft)?;
        ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
        debugger.cont_to(hard)?;
        ensure!(debugger.register(stage.names().argument)? == count);
    }
    // A breakpoint set where the vCPU is already does not stop it there either.
    let here = debugger.register(stage.names().pc)?;
    let again = debugger.break_at(&here.into())?;
    debugger.delete(hard)?;
    let stop = debugger.cont()?;
    ensure!(stop.pc == tick, "{stop:?}");
    debugger.delete(soft)?;
    debugger.delete(again)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}
