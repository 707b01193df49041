//! Old debuggers, and debuggers told not to use what is newer.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use trapline_e2e::{LIMIT, Stage};
use trapline_guests::{COUNTER, SMP_PING_PONG};

crate::scenarios! {
    Gdb AnyKvm every_optional_packet_can_be_turned_off;
    Neither [AnyKvm KvmArm64 El2] the_oldest_packets_do;
    Gdb [AnyKvm KvmArm64] breakpoints_may_stay_inserted;
    Gdb [AnyKvm KvmArm64] breakpoints_that_stay_inserted_go_when_the_debugger_does;
    Gdb [AnyKvm KvmArm64 El2] physical_memory_is_read_by_the_packets_of_qemu;
    Each [AnyKvm KvmArm64 El2] monitor_commands_answer;
    Neither AnyKvm a_read_that_leaves_mapped_memory_is_shortened;
}

/// Without these GDB does the same by other packets. Without `software-breakpoint` it would write
/// INT3 itself, which then is the guest's own.
const OPTIONAL: [&str; 16] = [
    "verbose-resume",
    "noack",
    "fetch-register",
    "set-register",
    "binary-download",
    "threads",
    "memory-map",
    "supported-packets",
    "hwbreak-feature",
    "swbreak-feature",
    "conditional-breakpoints",
    "query-attached",
    "pid-to-exec-file",
    "vcont-resumed-feature",
    "thread-info",
    "symbol-lookup",
];

fn every_optional_packet_can_be_turned_off(stage: &Stage) -> Result<()> {
    let mut unknown = Vec::new();
    for packet in OPTIONAL {
        let mut guest = stage.guest(&SMP_PING_PONG).cpus(2).start()?;
        let mut debugger = stage.debugger()?;
        if debugger
            .console(&format!("set remote {packet}-packet off"))
            .is_err()
        {
            unknown.push(packet);
            continue;
        }
        debugger.symbols(&guest.image_path()?, guest.slide())?;
        debugger
            .connect(guest.socket())
            .with_context(|| format!("{packet} off"))?;
        let mut basic = || -> Result<()> {
            let soft = debugger.break_at(&guest.symbol("serve")?.into())?;
            for _ in 0..2 {
                debugger.cont_to(soft)?;
                debugger.step()?;
            }
            ensure!(debugger.threads()?.len() == 2);
            debugger.delete(soft)?;
            let hard = debugger.hbreak(&guest.symbol("meet")?.into())?;
            debugger.condition(hard, "$r12 == 1")?;
            debugger.cont_to(hard)?;
            let rax = debugger.register("rax")?;
            debugger.set_register("rax", rax ^ 1)?;
            ensure!(debugger.register("rax")? == rax ^ 1);
            debugger.set_register("rax", rax)?;
            let stop = guest.symbol("stop")?;
            debugger.write(stop, &[0; 8])?;
            debugger.delete(hard)?;
            debugger.resume()?;
            debugger.interrupt()?;
            debugger.wait_stop(LIMIT)?;
            debugger.detach()
        };
        basic().with_context(|| format!("{packet} off"))?;
        guest
            .expect_passed()
            .with_context(|| format!("{packet} off"))?;
    }
    ensure!(
        unknown.len() < OPTIONAL.len() / 2,
        "GDB does not know {unknown:?}"
    );
    Ok(())
}

fn the_oldest_packets_do(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = trapline_e2e::RawClient::connect(guest.socket(), stage.transcript())?;
    ensure!(client.ask("Hg0")? == "OK");
    ensure!(client.ask("Hc-1")? == "OK");
    let registers = client.ask("g")?;
    ensure!(registers.len() > 300 && client.ask(&format!("G{registers}"))? == "OK");
    let tick = guest.symbol("tick")?;
    let kind = stage.breakpoint_kind();
    ensure!(client.ask(&format!("Z0,{tick:x},{kind}"))? == "OK");
    ensure!(client.resume("c")?.starts_with('T'));
    ensure!(client.ask("?")?.starts_with('T'));
    ensure!(client.resume("s")?.starts_with('T'));
    ensure!(client.resume("c")?.starts_with('T'));
    ensure!(client.ask(&format!("z0,{tick:x},{kind}"))? == "OK");
    ensure!(client.resume("C05")?.starts_with(['T', 'W', 'X']));
    Ok(())
}

fn breakpoints_may_stay_inserted(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.debugger()?;
    debugger.console("set breakpoint always-inserted on")?;
    debugger.symbols(&guest.image_path()?, guest.slide())?;
    debugger.connect(guest.socket())?;
    let mut looker = stage.client(&guest)?;
    let (tick, hot) = (guest.symbol("tick")?, guest.symbol("hot")?);
    let soft = debugger.break_at(&tick.into())?;
    let hard = debugger.hbreak(&hot.into())?;
    // In force at once, and not only when the guest is resumed.
    ensure!(points(&mut looker)? == [tick, hot]);
    for _ in 0..3 {
        debugger.cont_to(soft)?;
        ensure!(points(&mut looker)? == [tick, hot]);
        debugger.step()?;
        debugger.cont_to(hard)?;
        debugger.step()?;
    }
    // Removed at once, under the program counter and elsewhere, and set again.
    debugger.cont_to(soft)?;
    debugger.delete(soft)?;
    ensure!(points(&mut looker)? == [hot]);
    debugger.cont_to(hard)?;
    let soft = debugger.break_at(&tick.into())?;
    debugger.console("disable")?;
    ensure!(points(&mut looker)?.is_empty());
    debugger.console("enable")?;
    ensure!(points(&mut looker)? == [tick, hot]);
    debugger.delete(hard)?;
    debugger.cont_to(soft)?;
    // A condition that comes later is in force as well, in the server.
    let count = debugger.read_u64(guest.symbol("counter")?)? + 5;
    debugger.condition(
        soft,
        &format!("*(long *){:#x} == {count}", guest.symbol("counter")?),
    )?;
    let before = debugger.packets()?.matches("$T05").count();
    debugger.cont_to(soft)?;
    // GDB itself steps off the breakpoint first, and then there is the hit.
    ensure!(debugger.packets()?.matches("$T05").count() == before + 2);
    ensure!(debugger.read_u64(guest.symbol("counter")?)? == count);
    debugger.detach()?;
    ensure!(points(&mut looker)?.is_empty());
    drop(looker);
    guest.expect_passed()
}

/// At a detach, and when it is killed, each time from a guest that runs.
fn breakpoints_that_stay_inserted_go_when_the_debugger_does(stage: &Stage) -> Result<()> {
    for kill in [false, true] {
        let mut guest = stage.guest(&COUNTER).cmdline("endless").start()?;
        let mut debugger = stage.debugger()?;
        debugger.console("set breakpoint always-inserted on")?;
        debugger.symbols(&guest.image_path()?, guest.slide())?;
        debugger.connect(guest.socket())?;
        let mut looker = stage.client(&guest)?;
        let (tick, hot) = (guest.symbol("tick")?, guest.symbol("hot")?);
        let code = looker.ask(&format!("m{tick:x},8"))?;
        let sp = stage.names().sp;
        for (address, never) in [(tick, 1), (hot, 2)] {
            let point = debugger.break_at(&address.into())?;
            // Past the guest's start, which sets how often it turns.
            debugger.cont_to(point)?;
            debugger.condition(point, &format!("${sp} == {never}"))?;
        }
        ensure!(points(&mut looker)? == [tick, hot]);
        debugger.resume()?;
        // GDB steps off the breakpoint, which it removes for that, and forgets an interrupt meanwhile.
        let counter = guest.symbol("counter")?;
        turns(&mut looker, counter)?;
        ensure!(points(&mut looker)? == [tick, hot]);
        if kill {
            debugger.kill()?;
        } else {
            debugger.interrupt()?;
            debugger.wait_stop(LIMIT)?;
            debugger.resume()?;
            turns(&mut looker, counter)?;
            debugger.interrupt()?;
            debugger.wait_stop(LIMIT)?;
            debugger.detach()?;
        }
        // The server sees the end of the connection in its own time.
        points_become(&mut looker, &[])?;
        ensure!(looker.ask(&format!("m{tick:x},8"))? == code);
        // It runs on, and to its end when it may.
        ensure!(looker.resume("?")?.starts_with('T'));
        let rounds = guest.symbol("rounds")?;
        ensure!(looker.ask(&format!("M{rounds:x},8:0200000000000000"))? == "OK");
        ensure!(looker.ask("D")? == "OK");
        guest.expect_passed()?;
    }
    Ok(())
}

/// Waits until the guest has counted on, twice.
fn turns(client: &mut trapline_e2e::RawClient, counter: u64) -> Result<()> {
    let start = Instant::now();
    let (mut seen, mut changes) = (String::new(), 0);
    while changes < 3 {
        ensure!(start.elapsed() < LIMIT, "the guest does not run");
        let now = client.ask(&format!("m{counter:x},8"))?;
        changes += u32::from(now != seen);
        seen = now;
    }
    Ok(())
}

/// Waits until there are breakpoints at `places` and nowhere else.
fn points_become(client: &mut trapline_e2e::RawClient, places: &[u64]) -> Result<()> {
    let start = Instant::now();
    while points(client)? != places {
        ensure!(start.elapsed() < LIMIT, "no breakpoints at {places:x?}");
        std::thread::yield_now();
    }
    Ok(())
}

/// Where there are breakpoints, as the server lists them.
fn points(client: &mut trapline_e2e::RawClient) -> Result<Vec<u64>> {
    let text = client.monitor("breakpoints")?;
    let mut places: Vec<_> = text
        .split_whitespace()
        .filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .collect();
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

fn physical_memory_is_read_by_the_packets_of_qemu(stage: &Stage) -> Result<()> {
    let (guest, mut debugger) = stage.held(&COUNTER)?;
    let answer = debugger.console("maintenance packet qqemu.PhyMemMode")?;
    ensure!(answer.contains("received: \"0\""), "{answer}");
    let tick = guest.symbol("tick")?;
    let virtually = debugger.read(tick, 16)?;
    let answer = debugger.console("maintenance packet Qqemu.PhyMemMode:1")?;
    ensure!(answer.contains("received: \"OK\""), "{answer}");
    debugger
        .console("maintenance flush dcache")
        .or_else(|_| debugger.console("flushregs"))?;
    // The tiny guests are identity mapped.
    ensure!(debugger.read(tick, 16)? == virtually);
    let answer = debugger.console("maintenance packet Qqemu.PhyMemMode:0")?;
    ensure!(answer.contains("received: \"OK\""), "{answer}");
    Ok(())
}

fn monitor_commands_answer(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&COUNTER)?;
    let help = debugger.monitor("help")?;
    ensure!(help.contains("info"), "{help}");
    let info = debugger.monitor("info")?;
    ensure!(info.to_lowercase().contains("step"), "{info}");
    let nonsense = debugger.monitor("no-such-command");
    let text = nonsense.unwrap_or_else(|error| error.to_string());
    ensure!(text.contains("no-such-command"), "{text}");
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_read_that_leaves_mapped_memory_is_shortened(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    // The loader maps the first 4 GiB, of which 16 MiB are there.
    let edge = 16 << 20;
    let answer = client.ask(&format!("m{:x},100", edge - 16))?;
    ensure!(answer.len() == 32, "{answer}");
    let answer = client.ask(&format!("m{edge:x},8"))?;
    ensure!(answer.starts_with('E'), "{answer}");
    Ok(())
}
