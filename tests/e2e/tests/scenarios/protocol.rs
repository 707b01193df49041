//! Old debuggers, and debuggers told not to use what is newer.

use anyhow::{Context as _, Result, ensure};
use trapline_e2e::{LIMIT, Stage};
use trapline_guests::{COUNTER, SMP_PING_PONG};

crate::scenarios! {
    Gdb AnyKvm every_optional_packet_can_be_turned_off;
    Neither AnyKvm the_oldest_packets_do;
    Gdb AnyKvm breakpoints_may_stay_inserted;
    Gdb AnyKvm physical_memory_is_read_by_the_packets_of_qemu;
    Each AnyKvm monitor_commands_answer;
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
        debugger.symbols(&guest.image_path()?)?;
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
    ensure!(client.ask(&format!("Z0,{tick:x},1"))? == "OK");
    ensure!(client.resume("c")?.starts_with('T'));
    ensure!(client.ask("?")?.starts_with('T'));
    ensure!(client.resume("s")?.starts_with('T'));
    ensure!(client.resume("c")?.starts_with('T'));
    ensure!(client.ask(&format!("z0,{tick:x},1"))? == "OK");
    ensure!(client.resume("C05")?.starts_with(['T', 'W', 'X']));
    Ok(())
}

fn breakpoints_may_stay_inserted(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&COUNTER).start()?;
    let mut debugger = stage.debugger()?;
    debugger.console("set breakpoint always-inserted on")?;
    debugger.symbols(&guest.image_path()?)?;
    debugger.connect(guest.socket())?;
    let soft = debugger.break_at(&guest.symbol("tick")?.into())?;
    let hard = debugger.hbreak(&guest.symbol("hot")?.into())?;
    for _ in 0..3 {
        debugger.cont_to(soft)?;
        debugger.step()?;
        debugger.cont_to(hard)?;
        debugger.step()?;
    }
    debugger.detach()?;
    guest.expect_passed()
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
