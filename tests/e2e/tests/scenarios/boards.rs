//! The hypervisor for EL2 on boards of several kinds, and on some that are no good.

use core::time::Duration;
use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use trapline_e2e::{
    Debugger, GuestBuilder, Image, Kind, LIMIT, RawClient, Reason, RunningGuest, Stage,
};
use trapline_guests::aarch64::{COUNTER, LATE_CPU, SMP_PING_PONG, SUSPEND, TRESPASS};
use trapline_test_machine::{
    Architecture, Board, Environment, Gic, GuestImage, Monitor, StartLevel,
};

use crate::stock;

crate::scenarios! {
    Each El2 a_stock_kernel_on_one_old_processor_with_gicv2_is_debugged;
    Gdb El2 a_stock_kernel_on_four_processors_with_gicv2_is_debugged;
    Each El2 a_stock_kernel_on_four_processors_is_debugged;
    Neither El2 a_board_without_el2_is_told;
    Neither El2 a_board_with_one_serial_port_is_told;
    Neither El2 a_board_without_room_is_told;
    Neither El2 an_interrupt_controller_that_is_not_supported_is_told;
    Neither El2 a_hypervisor_without_a_bundle_says_so;
    Neither El2 a_bundle_that_was_cut_short_is_told;
    Neither El2 the_hypervisors_memory_is_out_of_reach;
    Neither El2 a_processor_that_goes_off_in_a_step_has_stepped;
    Neither El2 a_processor_with_gicv2_sleeps_until_an_interrupt;
    Neither El2 a_failure_of_the_hypervisor_stops_its_processor_alone;
    Neither El2 a_failure_on_the_only_processor_can_be_looked_at;
    Neither El2 noise_on_the_line_stops_nobody;
    Each El2 two_links_share_the_guest;
}

/// How long a stock kernel may take to its first heartbeat on a busy computer.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// Neither virtualization host extensions nor signed pointers.
fn a_stock_kernel_on_one_old_processor_with_gicv2_is_debugged(stage: &Stage) -> Result<()> {
    is_debugged(stage, 1, |board| {
        board.gic = Gic::V2;
        board.processor = "cortex-a72".to_owned();
    })
}

fn a_stock_kernel_on_four_processors_with_gicv2_is_debugged(stage: &Stage) -> Result<()> {
    is_debugged(stage, 4, |board| board.gic = Gic::V2)
}

fn a_stock_kernel_on_four_processors_is_debugged(stage: &Stage) -> Result<()> {
    is_debugged(stage, 4, |_| {})
}

fn stock_kernel(stage: &Stage, directory: &Path) -> Result<GuestBuilder> {
    let contents = GuestImage {
        architecture: Architecture::Arm64,
        ..GuestImage::default()
    };
    let (kernel, initrd) = stock::files(stage, directory, &contents)?;
    let image = Image::Files(kernel, initrd);
    let builder = GuestBuilder::new(stage.place().clone(), image, stage.transcript().clone());
    Ok(builder.cmdline("console=ttyAMA0 panic=0").running())
}

/// What every session does: names, a breakpoint, registers, steps, Ctrl-C, detach.
fn is_debugged(stage: &Stage, cpus: u32, change: fn(&mut Board)) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let builder = stock_kernel(stage, directory.path())?
        .cpus(cpus)
        .board(change);
    let guest = builder.start_until("heartbeat 2", BOOT_LIMIT)?;
    let mut debugger = stage.debugger()?;
    if stage.kind() == Kind::Lldb {
        debugger.symbols(&stock::symbol_file(stage, &guest, directory.path())?, 0)?;
    }
    debugger.connect(guest.socket())?;
    ensure!(debugger.threads()?.len() == usize::try_from(cpus)?);
    let point = debugger.break_at(&"do_sys_openat2".into())?;
    let stop = debugger.cont_to(point)?;
    debugger.delete(point)?;
    ensure!(debugger.register(stage.names().pc)? == stop.pc, "{stop:?}");
    for _ in 0..20 {
        let stop = debugger.step()?;
        ensure!(stop.reason == Reason::Step, "{stop:?}");
    }
    debugger.resume()?;
    stock::goes_on(&guest)?;
    interrupt(&mut *debugger)?;
    debugger.detach()?;
    stock::goes_on(&guest)
}

fn interrupt(debugger: &mut dyn Debugger) -> Result<()> {
    debugger.interrupt()?;
    let stop = debugger.wait_stop(LIMIT)?;
    ensure!(stop.reason == Reason::Signal("SIGINT".into()), "{stop:?}");
    Ok(())
}

fn a_board_without_el2_is_told(stage: &Stage) -> Result<()> {
    says(stage, "needs EL2", |board| board.level = StartLevel::El1)
}

/// It is the guest's console, unless the user decides otherwise.
fn a_board_with_one_serial_port_is_told(stage: &Stage) -> Result<()> {
    let why = "choose one with 'trapline bundle --debug-uart'";
    says(stage, why, |board| board.has_debug_link = false)
}

/// The hypervisor and its bundle fit, and the guest's kernel.
fn a_board_without_room_is_told(stage: &Stage) -> Result<()> {
    let why = "there is no free memory for 2097152 bytes of the guest's device tree";
    says(stage, why, |board| board.memory_mib = 7)
}

fn an_interrupt_controller_that_is_not_supported_is_told(stage: &Stage) -> Result<()> {
    says(stage, "no interrupt controller of a kind", |board| {
        board.change_tree = Some(|tree| {
            let (name, other) = (b"arm,gic-v3", b"arm,gic-v9");
            let at = tree.windows(name.len()).position(|bytes| bytes == name);
            let place = at.and_then(|at| tree.get_mut(at..at + name.len()));
            if let Some(place) = place {
                place.copy_from_slice(other);
            }
        });
    })
}

fn a_hypervisor_without_a_bundle_says_so(stage: &Stage) -> Result<()> {
    says(stage, "there is no bundle behind the hypervisor", |board| {
        if let Ok(image) = Environment::el2_image() {
            board.image = image;
        }
    })
}

fn a_bundle_that_was_cut_short_is_told(stage: &Stage) -> Result<()> {
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 10_000);
    let guest = stage.guest(&COUNTER).bundle_bytes(cut).switch_on()?;
    guest.expect("the bundle is damaged", LIMIT)
}

/// The hypervisor says on the console why it does not start the guest.
fn says(stage: &Stage, why: &str, change: fn(&mut Board)) -> Result<()> {
    let guest = stage.guest(&COUNTER).board(change).switch_on()?;
    guest.expect(why, LIMIT)
}

fn the_hypervisors_memory_is_out_of_reach(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&TRESPASS).running().start()?;
    for what in ["read", "write", "execute"] {
        let message = format!("the guest was not let {what} physical 0x402000");
        guest.expect(&message, LIMIT)?;
    }
    guest.expect_passed()
}

/// The step of the call by which it goes off is a step, and the debugger goes on.
fn a_processor_that_goes_off_in_a_step_has_stepped(stage: &Stage) -> Result<()> {
    let mut guest = stage.guest(&LATE_CPU).cpus(2).start()?;
    let mut client = stage.client(&guest)?;
    let off = guest.symbol("late_off")?;
    // In a slot: the guest looks at the end whether its code is what it was at the start.
    ensure!(client.ask(&format!("Z1,{off:x},4"))? == "OK");
    for _ in 0..2 {
        let stop = client.resume("vCont;c")?;
        ensure!(stop.contains("thread:2;"), "{stop}");
        let mut is_off = false;
        for _ in 0..20 {
            let stop = client.resume("vCont;s:2")?;
            ensure!(stop.starts_with("T05thread:2;"), "{stop}");
            let vcpus = client.monitor("vcpus")?;
            if vcpus.contains("waiting to be started") {
                is_off = true;
                break;
            }
        }
        ensure!(is_off, "the processor did not go off");
    }
    ensure!(client.ask("D")? == "OK");
    guest.expect_passed()
}

fn a_processor_with_gicv2_sleeps_until_an_interrupt(stage: &Stage) -> Result<()> {
    let mut guest = stage
        .guest(&SUSPEND)
        .board(|board| board.gic = Gic::V2)
        .running()
        .start()?;
    guest.expect_passed()
}

/// The emulator's own debug server puts an instruction that is none where exceptions from the guest enter. The end of a step is
/// such an exception; Ctrl-C is an interrupt, which enters elsewhere.
fn a_failure_of_the_hypervisor_stops_its_processor_alone(stage: &Stage) -> Result<()> {
    let builder = stage.guest(&SMP_PING_PONG).cpus(2).cmdline("endless");
    let guest = builder.start()?;
    let mut client = stage.client(&guest)?;
    let point = format!("0,{:x},4", guest.symbol("meet")?);
    ensure!(client.ask(&format!("Z{point}"))? == "OK");
    client.resume("vCont;c")?;
    ensure!(client.ask(&format!("z{point}"))? == "OK");
    break_synchronous_exceptions(stage, &guest)?;
    let stop = client.resume("vCont;s:1")?;
    ensure!(stop.starts_with("T06thread:1;"), "{stop}");
    let log = client.monitor("log")?;
    ensure!(log.contains("failure in the hypervisor: "), "{log}");
    for thread in [1, 2] {
        ensure!(client.ask(&format!("Hg{thread}"))? == "OK");
        let pc = client.ask("p20")?;
        let pc = u64::from_str_radix(&pc, 16)?.swap_bytes();
        // It is the guest's, whose code is readable there.
        ensure!(client.ask(&format!("m{pc:x},4"))?.len() == 8, "{pc:#x}");
    }
    client.packet("vCont;c:2")?;
    client.send(b"\x03")?;
    let stop = client.answer()?;
    ensure!(stop.starts_with("T02thread:2;"), "{stop}");
    Ok(())
}

fn a_failure_on_the_only_processor_can_be_looked_at(stage: &Stage) -> Result<()> {
    let guest = stage.guest(&COUNTER).start()?;
    let mut client = stage.client(&guest)?;
    let start = client.ask("p20")?;
    let sp = client.ask("p1f")?;
    break_synchronous_exceptions(stage, &guest)?;
    let stop = client.resume("vCont;s:1")?;
    ensure!(stop.starts_with("T06thread:1;"), "{stop}");
    let log = client.monitor("log")?;
    ensure!(log.contains("failure in the hypervisor: "), "{log}");
    // It failed before it had saved any, so they are those before the step.
    ensure!(client.ask("p20")? == start && client.ask("p1f")? == sp);
    let code = guest.symbol("_start")?;
    ensure!(client.ask(&format!("m{code:x},10"))?.len() == 32);
    // A second client, when the first is gone without a word.
    drop(client);
    let mut client = RawClient::take_over(guest.socket(), stage.transcript())?;
    ensure!(client.monitor("log")?.contains("failure"));
    Ok(())
}

fn break_synchronous_exceptions(stage: &Stage, guest: &RunningGuest) -> Result<()> {
    /// Of those from the guest, from the vector base.
    const OFFSET: u32 = 0x400;
    let socket = guest.socket().with_file_name("emulator");
    let mut monitor = Monitor::connect(&guest.socket().with_file_name(Board::MONITOR))?;
    let address = format!("unix:{},server=on,wait=off", socket.display());
    monitor.human(&format!("gdbserver {address}"))?;
    let mut emulator = stage.gdb()?;
    emulator.connect(&socket)?;
    emulator.console("maintenance packet Qqemu.PhyMemMode:1")?;
    emulator.console(&format!("set {{unsigned int}}($VBAR_EL2 + {OFFSET}) = 0"))?;
    emulator.detach()
}

/// Before a session, and in one. The byte that asks for an interrupt is no noise once a packet has begun.
fn noise_on_the_line_stops_nobody(stage: &Stage) -> Result<()> {
    let is_junk = |byte: &u8| !b"$\x03".contains(byte);
    let junk: Vec<u8> = (0..=u8::MAX).filter(is_junk).collect();
    let noise = [&junk[..], b"$m0,#zz$$$Z0,1#00"].concat();
    let directory = tempfile::tempdir()?;
    let guest = stock_kernel(stage, directory.path())?.start_until("heartbeat 2", BOOT_LIMIT)?;
    let mut line = RawClient::connect(guest.socket(), stage.transcript())?;
    line.send(b"\x03\x03")?;
    for _ in 0..20 {
        line.send(&noise)?;
    }
    stock::goes_on(&guest)?;
    drop(line);
    let mut client = stage.client(&guest)?;
    ensure!(client.ask("?")?.starts_with('T'));
    let registers = client.ask("g")?;
    client.send(&junk)?;
    ensure!(client.ask("qC")?.contains("QC"));
    ensure!(client.ask("g")? == registers);
    ensure!(client.ask("D")? == "OK");
    stock::goes_on(&guest)
}

/// What one changes the other sees, and what one stops is stopped for both; the guest runs while one looks. This
/// guest does not write on its console, which it does not have.
fn two_links_share_the_guest(stage: &Stage) -> Result<()> {
    let builder = stage.guest(&SMP_PING_PONG).cpus(2).cmdline("endless");
    let mut guest = builder.two_links().switch_on()?;
    let mut client = first_client(stage, guest.second_socket())?;
    let pc = client.ask("p20")?;
    guest.starts_at(u64::from_str_radix(&pc, 16)?.swap_bytes())?;
    let mut debugger = stage.attach(&guest)?;
    if stage.kind() == Kind::Gdb {
        debugger.console("set breakpoint always-inserted on")?;
    }
    let (meet, meetings) = (guest.symbol("meet")?, guest.symbol("meetings")?);
    let unused = meetings + 56;
    let point = debugger.break_at(&meet.into())?;
    let stop = debugger.cont_to(point)?;
    let points = client.monitor("breakpoints")?;
    ensure!(points.contains(&format!("{meet:x}")), "{points}");
    // What the client writes, the debugger reads, and the other way.
    ensure!(client.ask(&format!("M{unused:x},8:2a00000000000000"))? == "OK");
    ensure!(debugger.read_u64(unused)? == 42);
    debugger.set_register("x25", 0x4c1)?;
    ensure!(client.ask(&format!("Hg{:x}", stop.thread))? == "OK");
    ensure!(client.ask("p19")? == "c104000000000000");
    debugger.delete(point)?;
    debugger.resume()?;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let now = client.ask(&format!("m{meetings:x},8"))?;
        ensure!(now.len() == 16, "a read of a running guest: {now}");
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
    ensure!(client.ask(&format!("Z0,{meet:x},4"))? == "OK");
    let stop = debugger.wait_stop(LIMIT)?;
    ensure!(stop.pc == meet, "{stop:?}");
    ensure!(client.ask(&format!("z0,{meet:x},4"))? == "OK");
    debugger.resume()?;
    interrupt(&mut *debugger)?;
    debugger.detach()
}

/// A client on a port on which nobody has said that debuggers are served there: what comes before the hypervisor does
/// is lost.
fn first_client(stage: &Stage, socket: &Path) -> Result<RawClient> {
    let start = Instant::now();
    loop {
        match RawClient::take_over(socket, stage.transcript()) {
            Ok(client) => return Ok(client),
            Err(error) if start.elapsed() > LIMIT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
