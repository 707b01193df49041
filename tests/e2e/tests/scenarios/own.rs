//! Guests that use what the debugger uses, too.

use anyhow::{Result, ensure};
use trapline_e2e::{Stage, Watch};
use trapline_guests::{FLAGS, KPTI, MODES, OWN_DEBUG, OWN_DEBUG_BUSY, PAGING};

crate::scenarios! {
    Each Hardware a_guests_own_debug_registers_work_beside_the_debuggers;
    Each Hardware what_a_busy_guest_sets_in_its_debug_registers_comes_into_force;
    Each Hardware a_guests_own_int3_reaches_the_guest;
    Each Hardware the_kernel_is_readable_from_user_mode_with_isolated_tables;
    Each Hardware a_breakpoint_in_the_kernel_set_from_user_mode_hits;
    Each Hardware memory_is_read_through_every_paging_mode;
    Each AnyKvm a_vcpu_stops_and_steps_in_every_mode;
    Gdb AnyKvm a_user_may_tell_gdb_of_another_architecture;
}

/// While the debugger uses slots, KVM on some processors does not tell when a guest writes a debug
/// register, and what the guest puts there comes into force some milliseconds later. This guest counts
/// on it at once, so there is a stop of ours after each of its writes.
fn a_guests_own_debug_registers_work_beside_the_debuggers(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&OWN_DEBUG)?;
    let hard = debugger.hbreak(&guest.symbol("own_icebp")?.into())?;
    let watch = debugger.watch(guest.symbol("bp_count")?, 8, Watch::Write)?;
    let mut places = vec![guest.symbol("exec_target")? - 2];
    for label in ["watch_write", "watch_read", "watch_two"] {
        places.push(guest.symbol(label)?);
    }
    for round in 0..3 {
        if round > 0 {
            // `bp_count` is set back to 0.
            debugger.cont_to(watch)?;
        }
        for &place in &places {
            // One at a time: under QEMU's emulator a software breakpoint takes a slot. The guest has
            // up to two in use when it goes on from here.
            let point = debugger.break_at(&place.into())?;
            let stop = debugger.cont_to(point)?;
            ensure!(stop.pc == place, "{stop:?}");
            debugger.delete(point)?;
        }
        for count in 1..=2 {
            debugger.cont_to(watch)?;
            ensure!(debugger.read_u64(guest.symbol("bp_count")?)? == count);
        }
        debugger.cont_to(hard)?;
    }
    debugger.delete(hard)?;
    debugger.delete(watch)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

/// Nothing but the debugger's own looks brings the vCPU out while the guest waits for its breakpoints.
fn what_a_busy_guest_sets_in_its_debug_registers_comes_into_force(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&OWN_DEBUG_BUSY)?;
    let ours = debugger.hbreak(&guest.symbol("round_end")?.into())?;
    for _ in 0..3 {
        let stop = debugger.cont_to(ours)?;
        ensure!(stop.pc == guest.symbol("round_end")?, "{stop:?}");
    }
    debugger.delete(ours)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_guests_own_int3_reaches_the_guest(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&FLAGS)?;
    // One of ours stands right after the guest's own.
    let point = debugger.break_at(&guest.symbol("after_int3")?.into())?;
    debugger.cont_to(point)?;
    debugger.cont_to(point)?;
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn the_kernel_is_readable_from_user_mode_with_isolated_tables(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&KPTI)?;
    let point = debugger.break_at(&guest.symbol("user_after_syscall")?.into())?;
    for calls in 1..=3 {
        debugger.cont_to(point)?;
        ensure!(debugger.read(guest.symbol("kernel_secret")?, 11)?.bytes == b"kernel only");
        ensure!(debugger.read_u64(guest.symbol("kernel_calls")?)? == calls);
    }
    debugger.delete(point)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_breakpoint_in_the_kernel_set_from_user_mode_hits(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&KPTI)?;
    let user = debugger.hbreak(&guest.symbol("user_after_syscall")?.into())?;
    debugger.cont_to(user)?;
    let kernel = debugger.break_at(&guest.symbol("kernel_syscall")?.into())?;
    for _ in 0..3 {
        let stop = debugger.cont_to(kernel)?;
        ensure!(
            stop.function.as_deref() == Some("kernel_syscall"),
            "{stop:?}"
        );
        debugger.cont_to(user)?;
    }
    debugger.delete(kernel)?;
    debugger.delete(user)?;
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn memory_is_read_through_every_paging_mode(stage: &Stage) -> Result<()> {
    const MAGIC: [u8; 8] = 0x1bad_b002_cafe_f00d_u64.to_le_bytes();
    let (mut guest, mut debugger) = stage.held(&PAGING)?;
    let cell = guest.symbol("cell")?;
    // The guest has found out by then what its processor has.
    let start = debugger.hbreak(&guest.symbol("in_4level")?.into())?;
    debugger.cont_to(start)?;
    debugger.delete(start)?;
    let has_5level = debugger.read_u64(guest.symbol("has_5level")?)? != 0;
    let has_lam = debugger.read_u64(guest.symbol("has_lam")?)? != 0;
    let four: &[u64] = &[0x100_0000_0000 + cell, 0xffff_8000_0000_0000];
    let five: &[u64] = &[0x1_0000_0000_0000 + cell, 0xffff_8000_0000_0000];
    let cases = [
        ("in_4level", four),
        ("in_paging32", &[0x4000_0000 + cell, 0x8000_0000]),
        ("in_pae", &[0x4000_0000 + cell, 0x8000_0000]),
        ("in_5level", five),
    ];
    for (label, addresses) in cases {
        if label == "in_5level" && !has_5level {
            continue;
        }
        let point = debugger.hbreak(&guest.symbol(label)?.into())?;
        if debugger.register("rip")? != guest.symbol(label)? {
            debugger.cont_to(point)?;
        }
        for &address in addresses {
            let found = debugger.read(address, 8)?.bytes;
            ensure!(found == MAGIC, "{label}: {address:#x}: {found:x?}");
        }
        debugger.delete(point)?;
    }
    if has_lam {
        let point = debugger.hbreak(&guest.symbol("in_lam")?.into())?;
        debugger.cont_to(point)?;
        ensure!(debugger.read(0xd5ff_8000_0000_0000, 8)?.bytes == MAGIC);
        debugger.delete(point)?;
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_vcpu_stops_and_steps_in_every_mode(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&MODES)?;
    for label in [
        "in_compat",
        "in_protected",
        "in_protected16",
        "in_real",
        "in_protected_again",
        "in_64",
    ] {
        let address = guest.symbol(label)?;
        let point = debugger.hbreak(&address.into())?;
        let stop = debugger.cont()?;
        debugger.delete(point)?;
        // In the 16-bit modes the segment's base is 0x10000.
        let pc = debugger.register("rip")?;
        let linear = [pc, pc + 0x10000];
        ensure!(linear.contains(&address), "{label}: {address:#x} {stop:?}");
        let here = debugger.read(address, 4)?.bytes;
        ensure!(here.len() == 4, "{label}");
        let stop = debugger.step()?;
        ensure!(debugger.register("rip")? > pc, "{label}: {stop:?}");
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}

fn a_user_may_tell_gdb_of_another_architecture(stage: &Stage) -> Result<()> {
    let (mut guest, mut debugger) = stage.held(&MODES)?;
    let point = debugger.hbreak(&guest.symbol("in_real")?.into())?;
    debugger.cont()?;
    debugger.delete(point)?;
    for architecture in ["i8086", "i386", "i386:x86-64", "auto"] {
        let printed = debugger.console(&format!("set architecture {architecture}"));
        let registers = debugger.console("info registers");
        for text in [printed, registers] {
            let text = text.unwrap_or_else(|error| error.to_string());
            ensure!(!text.contains("too long"), "{architecture}: {text}");
            ensure!(!text.contains("Truncated"), "{architecture}: {text}");
        }
    }
    debugger.cont_to_end()?;
    guest.expect_passed()
}
