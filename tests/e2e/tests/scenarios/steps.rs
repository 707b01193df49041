//! Single steps and range steps.

use anyhow::{Result, ensure};
use trapline_e2e::{Kind, LIMIT, Reason, Stage};
use trapline_guests::{FLAGS, PAGE_FAULT, PORT_MMIO, REP_STRING, SPIN_MASKED, TIMER};

crate::scenarios! {
    Each AnyKvm a_thousand_steps_never_land_in_an_interrupt_handler;
    Each Hardware steps_on_hardware_never_land_in_an_interrupt_handler;
    Each Hardware a_guest_stepped_all_the_way_sees_its_own_flags;
    Neither Hardware every_instruction_of_a_guest_is_one_step;
    Gdb Hardware a_step_of_a_string_instruction_is_one_iteration;
    Each AnyKvm an_emulated_instruction_is_one_step;
    Each Hardware an_emulated_instruction_is_one_step_on_hardware;
    Each AnyKvm a_step_that_faults_stops_in_the_handler;
    Each AnyKvm a_range_step_stays_in_the_server;
    Gdb AnyKvm until_leaves_a_loop;
}

/// How many steps may be between the main loop's start and the guest's end.
const STEP_LIMIT: u32 = 2_000;

fn a_thousand_steps_never_land_in_an_interrupt_handler(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&TIMER)?;
    let start = debugger.break_at(&guest.symbol("main_loop")?.into())?;
    debugger.cont_to(start)?;
    debugger.delete(start)?;
    let main_loop = guest.symbol("main_loop")?..=guest.symbol("main_loop_end")? + 32;
    for count in 0..1000 {
        let stop = debugger.step()?;
        ensure!(stop.reason == Reason::Step, "step {count}: {stop:?}");
        ensure!(main_loop.contains(&stop.pc), "step {count}: {stop:?}");
    }
    // The interrupts that were held off are not lost: the guest counts them.
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn steps_on_hardware_never_land_in_an_interrupt_handler(stage: &Stage) -> Result<()> {
    a_thousand_steps_never_land_in_an_interrupt_handler(stage)
}

/// PUSHF, POPF, INT, IRET, SYSCALL, SYSRET, STI, MOV SS and the like: the guest compares what it saw.
fn a_guest_stepped_all_the_way_sees_its_own_flags(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&FLAGS)?;
    let start = debugger.break_at(&guest.symbol("main_loop")?.into())?;
    debugger.cont_to(start)?;
    debugger.delete(start)?;
    debugger.write(guest.symbol("rounds")?, &1u64.to_le_bytes())?;
    let end = debugger.break_at(&guest.symbol("exit")?.into())?;
    for _ in 0..STEP_LIMIT / 100 {
        let stop = debugger.step_many(100)?;
        if stop.reason != Reason::Step {
            ensure!(stop.reason == Reason::Hit(end), "{stop:?}");
            ensure!(
                debugger.register("rdi")? == 0,
                "record {}",
                debugger.register("rdi")?
            );
            debugger.delete(end)?;
            debugger.cont_to_end()?;
            return guest.expect_passed();
        }
    }
    anyhow::bail!("the guest does not come to its end by steps")
}

fn every_instruction_of_a_guest_is_one_step(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&FLAGS).start()?;
    let mut client = stage.client(&guest)?;
    let main_loop = guest.symbol("main_loop")?;
    ensure!(client.ask(&format!("Z1,{main_loop:x},1"))? == "OK");
    client.resume("vCont;c")?;
    ensure!(client.ask(&format!("z1,{main_loop:x},1"))? == "OK");
    let rounds = guest.symbol("rounds")?;
    ensure!(client.ask(&format!("M{rounds:x},8:0100000000000000"))? == "OK");
    let exit = guest.symbol("exit")?;
    let pc_at_exit = format!("10:{};", hex_le(exit));
    for _ in 0..STEP_LIMIT {
        let stop = client.resume("vCont;s:1")?;
        ensure!(stop.starts_with("T05"), "{stop}");
        if stop.contains(&pc_at_exit) {
            client.packet("vCont;c")?;
            client.answer()?;
            client.packet("vCont;c")?;
            return guest.expect_passed();
        }
    }
    anyhow::bail!("the guest does not come to its end by steps")
}

/// A 64-bit number as its bytes in hexadecimal, the lowest first.
fn hex_le(value: u64) -> String {
    value
        .to_le_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Not with LLDB, which itself steps on until the program counter changes.
fn a_step_of_a_string_instruction_is_one_iteration(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&REP_STRING)?;
    for label in ["rep_stosb", "rep_movsb", "repe_cmpsb", "repne_scasb"] {
        let address = guest.symbol(label)?;
        let point = debugger.hbreak(&address.into())?;
        debugger.cont_to(point)?;
        debugger.delete(point)?;
        let count = debugger.register("rcx")?;
        for done in 1..=3 {
            let stop = debugger.step()?;
            ensure!(stop.pc == address, "{label}: {stop:?}");
            ensure!(debugger.register("rcx")? == count - done, "{label}");
        }
    }
    let none = guest.symbol("rep_zero_times")?;
    let after = debugger.instruction_after(none)?;
    let point = debugger.break_at(&none.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    let stop = debugger.step()?;
    ensure!(stop.pc == after, "no iteration at all: {stop:?}");
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn an_emulated_instruction_is_one_step(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&PORT_MMIO)?;
    for label in [
        "out_byte",
        "in_byte",
        "outs_byte",
        "ins_byte",
        "mmio_read_lapic",
        "mmio_write_lapic",
        "mmio_read_4",
        "mmio_read_8",
        "mmio_read_1",
        "mmio_write_4",
        "mmio_read_modify_write",
        "mmio_movs",
        "cpuid_insn",
        "rdmsr_insn",
        "wrmsr_insn",
        "rdtsc_insn",
        "cr_write",
    ] {
        let address = guest.symbol(label)?;
        let after = debugger.instruction_after(address)?;
        let point = debugger.break_at(&address.into())?;
        debugger.cont_to(point)?;
        debugger.delete(point)?;
        let stop = debugger.step()?;
        ensure!(stop.reason == Reason::Step, "{label}: {stop:?}");
        ensure!(stop.pc == after, "{label}: not at {after:#x}: {stop:?}");
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn an_emulated_instruction_is_one_step_on_hardware(stage: &Stage) -> Result<()> {
    an_emulated_instruction_is_one_step(stage)
}

fn a_step_that_faults_stops_in_the_handler(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&PAGE_FAULT)?;
    let point = debugger.break_at(&guest.symbol("touch")?.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    let stop = debugger.step()?;
    ensure!(stop.function.as_deref() == Some("page_fault"), "{stop:?}");
    // The flags that the processor pushed do not show that this was a step.
    let stack = debugger.register("rsp")?;
    let flags = debugger.read_u64(stack + 24)?;
    ensure!(flags & 0x100 == 0, "RFLAGS.TF is in the frame: {flags:#x}");
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// One source line of 60 instructions, in which interrupts arrive.
fn a_range_step_stays_in_the_server(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&TIMER)?;
    let point = debugger.break_at(&guest.symbol("main_loop")?.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    let before = debugger.register("rbx")?;
    let stops_before = debugger.packets()?.matches("$T05").count();
    debugger.start_next()?;
    let stop = debugger.wait_stop(LIMIT)?;
    ensure!(stop.reason == Reason::Step, "{stop:?}");
    ensure!(debugger.register("rbx")? == before + 60, "{stop:?}");
    if stage.kind() == Kind::Gdb {
        let stops = debugger.packets()?.matches("$T05").count() - stops_before;
        ensure!(stops == 1, "{stops} stop replies for one range");
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn until_leaves_a_loop(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&SPIN_MASKED)?;
    let point = debugger.break_at(&guest.symbol("spin")?.into())?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    let rounds = guest.symbol("rounds")?;
    debugger.write(rounds, &40u64.to_le_bytes())?;
    let mut stop = debugger.step()?;
    for _ in 0..2 {
        if debugger.read_u64(rounds)? != 0 {
            debugger.console("until")?;
            stop = debugger.wait_stop(LIMIT)?;
        }
    }
    ensure!(stop.reason == Reason::Step, "{stop:?}");
    ensure!(debugger.read_u64(rounds)? == 0);
    debugger.cont_to_end()?;
    guest.expect_passed()
}
