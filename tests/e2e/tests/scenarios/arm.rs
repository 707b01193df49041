//! Tiny guests of AArch64: what is not the same as on x86.

use anyhow::{Result, bail, ensure};
use trapline_e2e::{Debugger, LIMIT, RawClient, Reason, RunningGuest, Stage, Watch};
use trapline_guests::aarch64::{
    BIG, COUNTER, EXCLUSIVE, HALT, LATE_CPU, MMIO, OWN_DEBUG, POWER_OFF, RESET, SELF_MODIFYING,
    SUSPEND, TIMER,
};

crate::scenarios! {
    Each [KvmArm64 El2] a_watch_stops_before_the_access_of_each_size;
    Neither [KvmArm64 El2] a_watch_names_its_kind_and_the_exact_address;
    Neither [KvmArm64 El2] a_long_range_is_watched_by_one_slot;
    Each [KvmArm64 El2] steps_execute_one_instruction_each_and_no_handler;
    Each [KvmArm64 El2] a_step_over_an_emulated_instruction_is_one;
    Each [KvmArm64 El2] a_wait_for_an_interrupt_is_stepped_and_interrupted;
    Neither [KvmArm64 El2] a_range_step_passes_exclusive_sequences;
    Neither [KvmArm64 El2] a_suspended_processor_sleeps_until_an_interrupt;
    Each [KvmArm64 El2] a_vcpu_that_starts_late_has_the_breakpoints_each_time;
    Each [KvmArm64 El2] the_guests_own_debug_exceptions_go_to_the_guest;
    Neither [KvmArm64 El2] slots_that_the_guest_uses_are_not_the_debuggers;
    Each [KvmArm64 El2] code_that_rewrites_itself_is_debugged;
    Neither [KvmArm64 El2] one_point_too_many_is_refused_and_the_others_work;
    Each [KvmArm64 El2] detaching_leaves_nothing_behind;
    Each [KvmArm64 El2] a_power_off_and_a_reset_are_stops;
}

fn a_watch_stops_before_the_access_of_each_size(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let cells = guest.symbol("cells")?;
    let cases = [
        (0, 1, "write_1"),
        (2, 2, "write_2"),
        (4, 4, "write_4"),
        (8, 8, "write_8"),
        // The second half of a store of two registers.
        (24, 8, "write_16"),
    ];
    for (offset, size, at) in cases {
        let point = debugger.watch(cells + offset, size, Watch::Write)?;
        let stop = debugger.cont_to(point)?;
        // A debugger steps over the access to see what it has changed.
        let place = guest.symbol(at)?;
        ensure!((place..=place + 4).contains(&stop.pc), "{size}: {stop:?}");
        debugger.delete(point)?;
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_watch_names_its_kind_and_the_exact_address(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    let cells = guest.symbol("cells")?;
    for (packet, key, offset, size) in [
        ("Z2", "watch", 4, 4),
        ("Z2", "watch", 24, 8),
        ("Z4", "awatch", 8, 8),
        ("Z3", "rwatch", 8, 8),
    ] {
        let place = cells + offset;
        ensure!(client.ask(&format!("{packet},{place:x},{size}"))? == "OK");
        let stop = client.resume("vCont;c")?;
        ensure!(stop.contains(&format!("{key}:{place:x};")), "{stop}");
        let remove = packet.replace('Z', "z");
        ensure!(client.ask(&format!("{remove},{place:x},{size}"))? == "OK");
    }
    Ok(())
}

fn a_long_range_is_watched_by_one_slot(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    // A mebibyte around everything that the guest has.
    let start = guest.symbol("cells")? & !0xf_ffff;
    ensure!(client.ask(&format!("Z2,{start:x},100000"))? == "OK");
    let stop = client.resume("vCont;c")?;
    ensure!(stop.contains("watch:"), "{stop}");
    Ok(())
}

fn steps_execute_one_instruction_each_and_no_handler(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&TIMER)?;
    let straight = guest.symbol("straight")?;
    let point = debugger.break_at(&straight.into())?;
    for _ in 0..4 {
        debugger.cont_to(point)?;
        for number in 1..=16 {
            let stop = debugger.step()?;
            ensure!(stop.pc == straight + 4 * number, "{number}: {stop:?}");
        }
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_step_over_an_emulated_instruction_is_one(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&MMIO)?;
    let point = debugger.break_at(&guest.symbol("emulated")?.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    for after in ["after_1", "after_2", "after_3", "after_4"] {
        let stop = debugger.step()?;
        ensure!(stop.pc == guest.symbol(after)?, "{after}: {stop:?}");
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_wait_for_an_interrupt_is_stepped_and_interrupted(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&HALT).cmdline("idle").start()?;
    let mut debugger = stage.attach(&guest)?;
    let wait = guest.symbol("wait")?;
    let point = debugger.break_at(&wait.into())?;
    debugger.cont_to(point)?;
    let stop = debugger.step()?;
    ensure!(stop.pc == wait + 4, "{stop:?}");
    debugger.delete(point)?;
    let idle = debugger.break_at(&guest.symbol("halt_alone")?.into())?;
    debugger.cont_to(idle)?;
    debugger.delete(idle)?;
    for _ in 0..3 {
        debugger.resume()?;
        debugger.interrupt()?;
        let stop = debugger.wait_stop(LIMIT)?;
        ensure!(matches!(stop.reason, Reason::Signal(_)), "{stop:?}");
    }
    Ok(())
}

fn a_range_step_passes_exclusive_sequences(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&EXCLUSIVE).start()?;
    let mut client = stage.client(&guest)?;
    let (start, end) = (guest.symbol("add_one")?, guest.symbol("add_one_done")?);
    ensure!(client.ask(&format!("Z0,{start:x},4"))? == "OK");
    for _ in 0..3 {
        client.resume("vCont;c")?;
        let stop = client.resume(&format!("vCont;r{start:x},{end:x}:1"))?;
        ensure!(stop.starts_with('T'), "{stop}");
        let pc = client.ask("p20")?;
        ensure!(pc == format!("{:016x}", end.swap_bytes()), "{pc}");
    }
    ensure!(client.ask(&format!("z0,{start:x},4"))? == "OK");
    client.packet("D;1")?;
    guest.expect_passed()
}

/// The guest finds out whether it came back too early.
fn a_suspended_processor_sleeps_until_an_interrupt(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&SUSPEND).start()?;
    let mut client = stage.client(&guest)?;
    let place = guest.symbol("suspended")?;
    ensure!(client.ask(&format!("Z0,{place:x},4"))? == "OK");
    for _ in 0..5 {
        let stop = client.resume("vCont;c")?;
        ensure!(stop.starts_with("T05thread:1;"), "{stop}");
    }
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

fn a_vcpu_that_starts_late_has_the_breakpoints_each_time(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&LATE_CPU).cpus(2).start()?;
    let mut debugger = stage.attach(&guest)?;
    ensure!(debugger.threads()?.len() == 2);
    // The guest has summed its code up by then, without breakpoints in it.
    let ready = debugger.hbreak(&guest.symbol("main_loop")?.into())?;
    debugger.cont_to(ready)?;
    debugger.delete(ready)?;
    let soft = debugger.break_at(&guest.symbol("late_start")?.into())?;
    for start in 0..3 {
        let stop = debugger.cont_to(soft)?;
        ensure!(stop.thread == 2, "start {start}: {stop:?}");
        ensure!(stop.pc == guest.symbol("late_start")?, "{stop:?}");
    }
    debugger.delete(soft)?;
    let point = debugger.watch(guest.symbol("starts")?, 8, Watch::Write)?;
    let stop = debugger.cont_to(point)?;
    ensure!(stop.thread == 2, "{stop:?}");
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// Beside the debugger's own breakpoints and watchpoints, and with none.
fn the_guests_own_debug_exceptions_go_to_the_guest(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&OWN_DEBUG)?;
    let soft = debugger.break_at(&guest.symbol("main_loop")?.into())?;
    for _ in 0..3 {
        debugger.cont_to(soft)?;
    }
    debugger.delete(soft)?;
    if stage.place().shares_slots_at_once() {
        own_exceptions_beside_slots(&guest, &mut *debugger)?;
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn own_exceptions_beside_slots(guest: &RunningGuest, debugger: &mut dyn Debugger) -> Result<()> {
    let hard = debugger.hbreak(&guest.symbol("main_loop")?.into())?;
    let watch = debugger.watch(guest.symbol("handled")?, 8, Watch::Write)?;
    for _ in 0..3 {
        // BRK, a breakpoint and a watchpoint of the guest's.
        for _ in 0..3 {
            debugger.cont_to(watch)?;
        }
        debugger.cont_to(hard)?;
    }
    debugger.delete(hard)?;
    debugger.delete(watch)
}

fn slots_that_the_guest_uses_are_not_the_debuggers(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&OWN_DEBUG).start()?;
    let mut client = stage.client(&guest)?;
    let mut counts = Vec::new();
    // With a breakpoint of the guest's, with a watchpoint, with none.
    for (label, before) in [("own_target", 4), ("own_write", 4), ("main_loop", 0)] {
        let place = guest.symbol(label)? - before;
        ensure!(client.ask(&format!("Z0,{place:x},4"))? == "OK");
        client.resume("vCont;c")?;
        ensure!(client.ask(&format!("z0,{place:x},4"))? == "OK");
        counts.push((fill(&mut client, 1, place)?, fill(&mut client, 2, place)?));
    }
    let [with_breakpoint, with_watchpoint, with_none] = counts[..] else {
        bail!("{counts:?}");
    };
    ensure!(with_none.0 >= 2 && with_none.1 >= 2, "{counts:?}");
    ensure!(
        with_breakpoint == (with_none.0 - 1, with_none.1),
        "{counts:?}"
    );
    ensure!(
        with_watchpoint == (with_none.0, with_none.1 - 1),
        "{counts:?}"
    );
    // What the guest uses later it has all the same.
    let unwritten = guest.symbol("main")?;
    for number in 0..with_none.1 {
        let point = format!("Z2,{:x},4", unwritten + number * 4);
        ensure!(client.ask(&point)? == "OK");
    }
    if stage.place().shares_slots_at_once() {
        client.resume("vCont;c")?;
        guest.expect("1 of the debugger's points find none", LIMIT)?;
    }
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

/// Inserts points of a kind from an address on until one is refused, and removes them. Returns how many there were.
fn fill(client: &mut RawClient, kind: u8, start: u64) -> Result<u64> {
    let point = |number: u64| format!("{kind},{:x},4", start + number * 4);
    let mut count = 0;
    let refusal = loop {
        let answer = client.ask(&format!("Z{}", point(count)))?;
        if answer != "OK" {
            break answer;
        }
        count += 1;
        ensure!(count <= 16, "a slot more than there can be");
    };
    ensure!(refusal.starts_with('E'), "{refusal}");
    for number in 0..count {
        ensure!(client.ask(&format!("z{}", point(number)))? == "OK");
    }
    Ok(count)
}

fn code_that_rewrites_itself_is_debugged(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&SELF_MODIFYING)?;
    let point = debugger.hbreak(&guest.symbol("patched")?.into())?;
    for round in 0..4 {
        debugger.cont_to(point)?;
        debugger.step()?;
        ensure!(debugger.register("x0")? & 0xffff_ffff == round, "{round}");
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn detaching_leaves_nothing_behind(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let soft = debugger.break_at(&guest.symbol("tick_store")?.into())?;
    debugger.hbreak(&guest.symbol("write_1")?.into())?;
    debugger.watch(guest.symbol("sum")?, 8, Watch::Write)?;
    debugger.cont_to(soft)?;
    debugger.step()?;
    debugger.detach()?;
    guest.expect_passed()
}

fn a_power_off_and_a_reset_are_stops(stage: &Stage) -> Result<()> {
    for (image, words) in [(&POWER_OFF, "powered off"), (&RESET, "asked for a reset")] {
        let (mut guest, mut debugger) = stage.held(image)?;
        let stop = debugger.cont()?;
        ensure!(stop.reason == Reason::Signal("SIGTRAP".into()), "{stop:?}");
        let told = debugger.monitor("vcpus")?;
        ensure!(told.contains(words), "{told}");
        let end = debugger.cont()?;
        ensure!(matches!(end.reason, Reason::Exited(_)), "{end:?}");
        guest.expect_passed()?;
    }
    Ok(())
}

/// Processors have up to 16 of each.
fn one_point_too_many_is_refused_and_the_others_work(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&BIG).start()?;
    let mut client = stage.client(&guest)?;
    let place = |index| guest.symbol(&format!("function_{index}"));
    let mut count = 0;
    let refusal = loop {
        let answer = client.ask(&format!("Z1,{:x},4", place(count)?))?;
        if answer != "OK" {
            break answer;
        }
        count += 1;
        ensure!(count <= 16, "a slot more than there can be");
    };
    ensure!(count >= 2 && refusal.starts_with('E'), "{count}: {refusal}");
    for index in 0..count {
        let stop = client.resume("vCont;c")?;
        ensure!(stop.starts_with("T05"), "{stop}");
        let pc = format!("20:{:016x};", place(index)?.swap_bytes());
        ensure!(stop.contains(&pc), "{index}: {stop}");
        let answer = client.ask(&format!("z1,{:x},4", place(index)?))?;
        ensure!(answer == "OK", "{answer}");
    }
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}
