//! What LLDB does in its own way: its steps, its counts of hits, its regions, its second attach.

use anyhow::{Result, ensure};
use trapline_e2e::{Debugger, Location, Point, Reason, Stage, Watch};
use trapline_guests::{COUNTER, REP_STRING, SMP_PING_PONG};

crate::scenarios! {
    Lldb AnyKvm lldb_steps_over_a_string_instruction_as_a_whole;
    Lldb Hardware lldb_steps_over_a_string_instruction_as_a_whole_on_hardware;
    Lldb Hardware lldb_stops_at_a_watchpoint_within_a_step;
    Lldb [AnyKvm KvmArm64 El2] lldb_counts_the_hits_of_one_vcpu;
    Lldb Hardware lldb_ignores_and_disables_watchpoints;
    Lldb [AnyKvm KvmArm64 El2] lldb_shows_regions_of_memory;
    Lldb [AnyKvm KvmArm64] lldb_attaches_again_with_its_breakpoints;
}

fn resumes(debugger: &dyn Debugger) -> Result<usize> {
    Ok(debugger.packets()?.matches("$vCont;").count())
}

/// LLDB asks for a step again until the program counter has moved, which is 9,000 times here if the server
/// takes it by the word.
fn lldb_steps_over_a_string_instruction_as_a_whole(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&REP_STRING)?;
    for label in [
        "rep_stosb",
        "rep_movsb",
        "repe_cmpsb",
        "repne_scasb",
        "rep_lodsq",
    ] {
        let address = guest.symbol(label)?;
        let after = debugger.instruction_after(address)?;
        let point = debugger.break_at(&Location::Address(address))?;
        debugger.cont_to(point)?;
        debugger.delete(point)?;
        let before = resumes(&*debugger)?;
        let stop = debugger.step()?;
        ensure!(stop.reason == Reason::Step, "{label}: {stop:?}");
        ensure!(stop.pc == after, "{label}: {stop:?}");
        let count = resumes(&*debugger)? - before;
        ensure!(count <= 2, "{label}: {count} packets for one step");
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn lldb_steps_over_a_string_instruction_as_a_whole_on_hardware(stage: &Stage) -> Result<()> {
    lldb_steps_over_a_string_instruction_as_a_whole(stage)
}

/// A step of many iterations is still one that a watchpoint can end.
fn lldb_stops_at_a_watchpoint_within_a_step(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&REP_STRING)?;
    let address = guest.symbol("rep_movsb")?;
    let place = guest.symbol("target")? + 5000;
    let after = debugger.instruction_after(address)?;
    let start = debugger.break_at(&address.into())?;
    debugger.cont_to(start)?;
    debugger.delete(start)?;
    let point = debugger.watch(place, 1, Watch::Write)?;
    let stop = debugger.step()?;
    ensure!(stop.reason == Reason::Hit(point), "{stop:?}");
    ensure!(debugger.register("rdi")? > place, "{stop:?}");
    debugger.delete(point)?;
    // The step that was interrupted comes to its end first.
    let stop = debugger.cont()?;
    ensure!(stop.reason == Reason::Step && stop.pc == after, "{stop:?}");
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// LLDB filters by thread and counts by itself; the server has to name the right vCPU each time.
fn lldb_counts_the_hits_of_one_vcpu(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&SMP_PING_PONG).cpus(2).start()?;
    let mut debugger = stage.attach(&guest)?;
    let meet = guest.symbol("meet")?;
    let point = debugger.break_at(&meet.into())?;
    let Point::Break(number) = point else {
        anyhow::bail!("no breakpoint: {point:?}");
    };
    debugger.console(&format!("breakpoint modify --thread-id 2 {number}"))?;
    for round in 0..4 {
        let stop = debugger.cont_to(point)?;
        ensure!(stop.thread == 2 && stop.pc == meet, "{stop:?}");
        // What the other vCPU did meanwhile was not lost: it is in step with this one.
        ensure!(debugger.read_u64(guest.symbol("meetings")? + 8)? == round);
    }
    let list = debugger.console(&format!("breakpoint list {number}"))?;
    ensure!(list.contains("hit count = 4"), "{list}");
    debugger.delete(point)?;
    debugger.write(guest.symbol("rounds")?, &2u64.to_le_bytes())?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn lldb_ignores_and_disables_watchpoints(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let counter = guest.symbol("counter")?;
    let point = debugger.watch(counter, 8, Watch::Write)?;
    let Point::Watch(number) = point else {
        anyhow::bail!("no watchpoint: {point:?}");
    };
    debugger.console(&format!("watchpoint ignore --ignore-count 3 {number}"))?;
    debugger.cont_to(point)?;
    ensure!(debugger.read_u64(counter)? == 4);
    debugger.console(&format!("watchpoint disable {number}"))?;
    let tick = debugger.break_at(&guest.symbol("tick")?.into())?;
    debugger.cont_to(tick)?;
    debugger.cont_to(tick)?;
    debugger.delete(tick)?;
    debugger.console(&format!("watchpoint enable {number}"))?;
    debugger.cont_to(point)?;
    ensure!(debugger.read_u64(counter)? == 6);
    let list = debugger.console("watchpoint list --verbose")?;
    ensure!(list.contains(&format!("{counter:x}")), "{list}");
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn lldb_shows_regions_of_memory(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let tick = guest.symbol("tick")?;
    // Guests of AArch64 begin without tables of their own.
    let point = debugger.break_at(&tick.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    let text = debugger.console(&format!("memory region {tick:#x}"))?;
    ensure!(text.contains("rwx"), "{text}");
    let (start, end) = bounds(&text)?;
    ensure!((start..end).contains(&tick), "{text}");
    // A hole, to where something is mapped again.
    let hole = 0x7fff_dead_0000;
    let text = debugger.console(&format!("memory region {hole:#x}"))?;
    ensure!(text.contains("---"), "{text}");
    let (start, end) = bounds(&text)?;
    ensure!((start..end).contains(&hole), "{text}");
    let all = debugger.console("memory region --all")?;
    ensure!(all.lines().any(|line| line.contains("rwx")), "{all}");
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// The bounds in `[0x… - 0x…) rwx`.
fn bounds(text: &str) -> Result<(u64, u64)> {
    let numbers: Vec<_> = text
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    match numbers.as_slice() {
        [start, end, ..] => Ok((*start, *end)),
        _ => anyhow::bail!("no bounds in {text:?}"),
    }
}

/// The same LLDB, which keeps its breakpoints and plants them anew.
fn lldb_attaches_again_with_its_breakpoints(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).cmdline("endless").start()?;
    let mut debugger = stage.attach(&guest)?;
    let tick = guest.symbol("tick")?;
    let point = debugger.break_at(&tick.into())?;
    debugger.cont_to(point)?;
    let mut looker = stage.client(&guest)?;
    let mut last = debugger.read_u64(guest.symbol("counter")?)?;
    for _ in 0..3 {
        debugger.detach()?;
        let points = looker.monitor("breakpoints")?;
        ensure!(!points.contains(&format!("{tick:x}")), "{points}");
        debugger.connect(guest.socket())?;
        let stop = debugger.cont()?;
        ensure!(stop.pc == tick, "{stop:?}");
        let now = debugger.read_u64(guest.symbol("counter")?)?;
        ensure!(now > last, "{now} after {last}");
        last = now;
    }
    Ok(())
}
