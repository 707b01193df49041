//! A distribution's own kernel, with KASLR, debugged with no file at all.
//!
//! One boot serves all checks of a debugger, in sequence: it takes most of the time.

use core::time::Duration;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use trapline_e2e::{
    Debugger, GuestBuilder, Image, Kind, LIMIT, RawClient, Reason, RunningGuest, Stage, Watch,
};
use trapline_test_machine::{Architecture, Environment, GuestImage, guest_initramfs};

crate::scenarios! {
    Each Hardware a_stock_kernel_is_debugged_and_goes_on;
    Gdb [KvmArm64 El2] a_stock_kernel_is_debugged_and_goes_on;
}

/// How long a stock kernel may take to its first heartbeat, in an emulated machine on a busy
/// computer.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// How long the guest is held once, which must not make it complain.
const LONG_STOP: Duration = Duration::from_secs(30);
/// What the program in the guest that uses debug registers says.
const OWN_DEBUG: &str = "own debug ";
/// What a kernel says of time that it lost.
const COMPLAINTS: [&str; 7] = [
    "soft lockup",
    "hard LOCKUP",
    "rcu_sched detected stalls",
    "rcu: INFO",
    "clocksource: timekeeping watchdog",
    "hung_task",
    "Call Trace",
];

fn a_stock_kernel_is_debugged_and_goes_on(stage: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let architecture = stage.place().architecture();
    let mut contents = GuestImage {
        architecture,
        ..GuestImage::default()
    };
    let has_own_debug = stage.place().shares_slots_at_once();
    if has_own_debug {
        let program = Environment::program_for(architecture, "trapline-own-debug")?;
        contents.files = vec![("/trapline/program".into(), program)];
    }
    let (kernel, initrd) = files(stage, directory.path(), &contents)?;
    let image = Image::Files(kernel, initrd);
    let builder = GuestBuilder::new(stage.place().clone(), image, stage.transcript().clone());
    let guest = builder
        .cpus(2)
        .cmdline(&format!("console={} panic=0", stage.place().console()))
        .options(&["--console", "stdio", "--memory", "512M"])
        .running()
        .start_until("heartbeat 2", BOOT_LIMIT)?;
    let mut debugger = stage.debugger()?;
    if stage.kind() == Kind::Lldb {
        debugger.symbols(&symbol_file(stage, &guest, directory.path())?, 0)?;
    }
    debugger.connect(guest.socket())?;
    every_vcpu_has_a_name(&mut *debugger)?;
    breakpoints_hit(stage, &mut *debugger)?;
    frames_below_an_interrupt_are_shown(stage, &mut *debugger)?;
    steps_stay_out_of_handlers(stage, &mut *debugger)?;
    a_variable_is_watched(stage, &mut *debugger)?;
    debugger.resume()?;
    if has_own_debug {
        the_kernels_own_watchpoints_fire(&mut *debugger, &guest)?;
        debugger.resume()?;
    }
    goes_on(&guest)?;
    debugger.interrupt()?;
    let stop = debugger.wait_stop(LIMIT)?;
    ensure!(stop.reason == Reason::Signal("SIGINT".into()), "{stop:?}");
    debugger.detach()?;
    goes_on(&guest)?;
    // The debugger has no part in that, so once is enough.
    match stage.kind() {
        Kind::Gdb if stage.place().holds_time() => a_long_stop_is_not_noticed(stage, &guest),
        Kind::Gdb | Kind::Lldb => Ok(()),
    }
}

/// The paths of the kernel and of a small root file system where the guest runs.
pub(crate) fn files(
    stage: &Stage,
    directory: &std::path::Path,
    image: &GuestImage,
) -> Result<(String, String)> {
    let environment = stage.environment();
    match stage.place().remote() {
        Some(machine) => {
            let (kernel, initrd) = machine.put_guest(environment, image)?;
            Ok((kernel.to_owned(), initrd.to_owned()))
        }
        None => {
            let initrd = directory.join("initrd");
            std::fs::write(&initrd, guest_initramfs(environment, image)?)?;
            let kernel = environment
                .kernel_for(image.architecture)?
                .display()
                .to_string();
            Ok((kernel, initrd.display().to_string()))
        }
    }
}

/// LLDB takes no file from a server, so `trapline symbols` makes it.
pub(crate) fn symbol_file(
    stage: &Stage,
    guest: &RunningGuest,
    directory: &std::path::Path,
) -> Result<PathBuf> {
    let path = directory.join("kernel.elf");
    let program = Environment::program("trapline")?;
    let mut command = std::process::Command::new(program);
    command
        .arg("symbols")
        .arg(format!("unix:{}", guest.socket().display()))
        .arg("-o")
        .arg(&path);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    stage.transcript().say("symbols", &said);
    ensure!(output.status.success(), "trapline symbols: {said}");
    Ok(path)
}

fn every_vcpu_has_a_name(debugger: &mut dyn Debugger) -> Result<()> {
    let threads = debugger.threads()?;
    ensure!(threads.len() == 2, "{threads:?}");
    for thread in &threads {
        ensure!(thread.function.is_some(), "{thread:?}");
    }
    Ok(())
}

fn breakpoints_hit(stage: &Stage, debugger: &mut dyn Debugger) -> Result<()> {
    let open = debugger.break_at(&"do_sys_openat2".into())?;
    let stop = debugger.cont_to(open)?;
    ensure!(
        stop.function.as_deref() == Some("do_sys_openat2"),
        "{stop:?}"
    );
    let frames = debugger.backtrace(12)?;
    let names: Vec<_> = frames
        .iter()
        .filter_map(|frame| frame.function.as_deref())
        .collect();
    ensure!(
        names.len() >= 2 && names.contains(&stage.names().system_call),
        "{names:?}"
    );
    debugger.delete(open)?;
    let read = debugger.hbreak(&"vfs_read".into())?;
    let stop = debugger.cont_to(read)?;
    ensure!(stop.function.as_deref() == Some("vfs_read"), "{stop:?}");
    debugger.delete(read)?;
    // AT_FDCWD, as every open by path has.
    let open = debugger.break_at(&"do_sys_openat2".into())?;
    let argument = stage.names().argument;
    debugger.condition(open, &format!("(int)${argument} == -100"))?;
    let before = debugger.packets()?.matches("$T05").count();
    debugger.cont_to(open)?;
    if debugger.kind() == Kind::Gdb {
        let stops = debugger.packets()?.matches("$T05").count() - before;
        ensure!(stops == 1, "{stops} stops for one true condition");
    }
    let directory = debugger.register(argument)? & 0xffff_ffff;
    ensure!(directory == 0xffff_ff9c, "{directory:#x}");
    debugger.delete(open)
}

/// From a timer's handler through the interrupt's frame to what was interrupted.
fn frames_below_an_interrupt_are_shown(stage: &Stage, debugger: &mut dyn Debugger) -> Result<()> {
    let timer = debugger.break_at(&"hrtimer_interrupt".into())?;
    debugger.cont_to(timer)?;
    debugger.delete(timer)?;
    let frames = debugger.backtrace(30)?;
    let names: Vec<_> = frames
        .iter()
        .map(|frame| frame.function.as_deref().unwrap_or("?"))
        .collect();
    // GDB has no name for the frame that the processor pushed.
    let is_entry = |name: &&str| is_interrupt_entry(stage, name) || name.starts_with("<signal");
    let entry = names.iter().rposition(is_entry);
    let below = entry.and_then(|entry| frames.get(entry + 1..));
    let is_whole = below.is_some_and(|below| match below.first() {
        // The kernel's tables know nothing of user mode.
        None => true,
        Some(frame) => frame.pc >> 63 == 0 || below.len() >= 2,
    });
    ensure!(is_whole, "{names:?}");
    Ok(())
}

/// From where an open was called, so in no handler at the start.
fn steps_stay_out_of_handlers(stage: &Stage, debugger: &mut dyn Debugger) -> Result<()> {
    // LLDB itself steps on until the program counter changes, which for each repeated string
    // instruction that clears a page is 4,096 times.
    let steps = match debugger.kind() {
        Kind::Gdb if stage.place().holds_interrupts() => 1000,
        Kind::Gdb | Kind::Lldb => 150,
    };
    for count in 0..steps {
        let stop = debugger.step()?;
        ensure!(stop.reason == Reason::Step, "step {count}: {stop:?}");
        let function = stop.function.as_deref().unwrap_or_default();
        let may_be_here = !stage.place().holds_interrupts() || !is_interrupt_entry(stage, function);
        ensure!(may_be_here, "step {count}: {stop:?}");
    }
    Ok(())
}

fn is_interrupt_entry(stage: &Stage, function: &str) -> bool {
    let mut entries = stage.names().interrupt_entries.iter();
    entries.any(|entry| function.contains(entry))
}

fn a_variable_is_watched(stage: &Stage, debugger: &mut dyn Debugger) -> Result<()> {
    let address = match stage.place().architecture() {
        Architecture::X86_64 => address_of(debugger, "jiffies_64")?,
        Architecture::Arm64 => next_event(debugger)?,
    };
    let before = debugger.read_u64(address)?;
    let point = debugger.watch(address, 8, Watch::Write)?;
    let stop = debugger.cont_to(point)?;
    // Several ticks may have been missed while the guest was stopped.
    ensure!(debugger.read_u64(address)? > before, "{stop:?}");
    debugger.delete(point)
}

fn address_of(debugger: &mut dyn Debugger, variable: &str) -> Result<u64> {
    let address = match debugger.kind() {
        Kind::Gdb => debugger.console(&format!("print/x (unsigned long)&{variable}"))?,
        Kind::Lldb => {
            debugger.console(&format!("expression -f x -- (unsigned long)&{variable}"))?
        }
    };
    let digits = address.split("0x").nth(1);
    let digits = digits.with_context(|| format!("no address of {variable}"))?;
    Ok(u64::from_str_radix(digits.trim(), 16)?)
}

/// Where a timer's next event stands, which its handler moves to the end of time first of all. Debian's arm64 kernel
/// keeps no names of variables, so this one is found by the handler's argument.
fn next_event(debugger: &mut dyn Debugger) -> Result<u64> {
    /// Of `next_event` in `struct clock_event_device`, after three pointers.
    const OFFSET: u64 = 24;
    let timer = debugger.break_at(&"hrtimer_interrupt".into())?;
    debugger.cont_to(timer)?;
    debugger.delete(timer)?;
    Ok(debugger.register("x0")?.wrapping_add(OFFSET))
}

/// A program in the guest counts by a perf event how often it writes a variable, and has another one stopped by ptrace
/// when that writes one; it says each time that all were there.
fn the_kernels_own_watchpoints_fire(
    debugger: &mut dyn Debugger,
    guest: &RunningGuest,
) -> Result<()> {
    guest.expect_anew(OWN_DEBUG, LIMIT)?;
    debugger.interrupt()?;
    debugger.wait_stop(LIMIT)?;
    // Beside points that hit.
    let event = next_event(debugger)?;
    let watched = debugger.watch(event, 8, Watch::Write)?;
    debugger.cont_to(watched)?;
    let read = debugger.hbreak(&"vfs_read".into())?;
    debugger.delete(watched)?;
    let code = debugger.cont_to(read)?.pc & !7;
    debugger.delete(read)?;
    // Beside points that do not.
    let panic = debugger.hbreak(&"panic".into())?;
    let unwritten = debugger.watch(code, 8, Watch::Write)?;
    debugger.resume()?;
    for _ in 0..5 {
        guest.expect_anew(OWN_DEBUG, LIMIT)?;
    }
    debugger.interrupt()?;
    debugger.wait_stop(LIMIT)?;
    debugger.delete(panic)?;
    debugger.delete(unwritten)?;
    let console = guest.output();
    ensure!(!console.contains("own debug fails"), "{console}");
    Ok(())
}

/// The guest says something again, twice.
pub(crate) fn goes_on(guest: &RunningGuest) -> Result<()> {
    guest.expect_anew("heartbeat", LIMIT)?;
    guest.expect_anew("heartbeat", LIMIT)
}

fn a_long_stop_is_not_noticed(stage: &Stage, guest: &RunningGuest) -> Result<()> {
    let mut client = RawClient::without_acks(guest.socket(), stage.transcript())?;
    ensure!(client.ask("?")?.starts_with('T'));
    // Nothing is to come; the wait is what this is about.
    ensure!(client.receive(LONG_STOP).is_err());
    ensure!(client.ask("D")? == "OK");
    drop(client);
    goes_on(guest)?;
    goes_on(guest)?;
    let console = guest.output();
    for complaint in COMPLAINTS {
        ensure!(
            !console.contains(complaint),
            "the guest complains of {complaint:?}:\n{console}"
        );
    }
    Ok(())
}
