//! A kernel in Mach-O format, as Darwin's is, under LLDB.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use trapline_e2e::{
    Debugger, GuestBuilder, Image, LIMIT, Place, RunningGuest, Stage, harness::did_not_run,
};
use trapline_guests::mach::{self, Kernel};

crate::scenarios! {
    Lldb [KvmArm64 El2] lldb_finds_a_mach_o_kernel_by_itself;
}

const NAME: &str = "lldb_finds_a_mach_o_kernel_by_itself";

/// In turn: with no file; with a file that LLDB is to find by the UUID; and with the file given, where LLDB is
/// not allowed to look for a kernel in memory, so that all it knows it knows from the server.
fn lldb_finds_a_mach_o_kernel_by_itself(stage: &Stage) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Some(kernel) = link(stage, directory.path())? else {
        return Ok(());
    };
    let image = Image::Kernel(kernel.image.clone());
    let builder = GuestBuilder::new(stage.place().clone(), image, stage.transcript().clone());
    let guest = builder
        .cpus(2)
        .running()
        .options(&["--console", "stdio"])
        .start_until("the Mach-O kernel runs", LIMIT)?;
    without_a_file(stage, &guest, &kernel, directory.path())?;
    let directory = directory.path().display();
    let mut finds = stage.debugger()?;
    finds.console(&format!(
        "settings append target.exec-search-paths {directory}"
    ))?;
    is_debugged_by_name(stage, finds, &guest, &kernel)?;
    let mut is_told = stage.debugger()?;
    is_told.console("settings set plugin.dynamic-loader.darwin-kernel.scan-type none")?;
    is_told.symbols(&kernel.file, 0)?;
    is_debugged_by_name(stage, is_told, &guest, &kernel)
}

fn link(stage: &Stage, directory: &Path) -> Result<Option<Kernel>> {
    if !mach::is_assembled() {
        did_not_run(NAME, "there was no C compiler for AArch64");
        return Ok(None);
    }
    match stage.environment().mach_linker() {
        Ok(linker) => Ok(Some(Kernel::link(linker, directory)?)),
        Err(error) => {
            did_not_run(NAME, &error.to_string());
            Ok(None)
        }
    }
}

fn without_a_file(
    stage: &Stage,
    guest: &RunningGuest,
    kernel: &Kernel,
    directory: &Path,
) -> Result<()> {
    let mut debugger = stage.debugger()?;
    let log = directory.join("loader.log");
    debugger.console(&format!("log enable -f {} lldb dyld", log.display()))?;
    debugger.connect(guest.socket())?;
    the_target_is_a_darwin_kernel(&mut *debugger)?;
    every_vcpu_is_a_thread(&mut *debugger)?;
    let text = fs::read_to_string(&log)?;
    let found = format!("kernel binary image found at {:#x}", kernel.address);
    ensure!(
        text.contains(&found) && text.contains(&kernel.uuid),
        "{text}"
    );
    let symbols = debugger.monitor("symbols")?;
    ensure!(
        symbols.contains("Darwin") && symbols.contains(&kernel.uuid),
        "{symbols}"
    );
    debugger.detach()
}

fn is_debugged_by_name(
    stage: &Stage,
    mut debugger: Box<dyn Debugger>,
    guest: &RunningGuest,
    kernel: &Kernel,
) -> Result<()> {
    debugger.connect(guest.socket())?;
    the_target_is_a_darwin_kernel(&mut *debugger)?;
    let images = debugger.console("image list --uuid --header --fullpath")?;
    let address = format!("{:#018x}", kernel.address);
    let file = kernel.file.display().to_string();
    for part in [&kernel.uuid, &address, &file] {
        ensure!(images.contains(part), "no {part} in {images}");
    }
    for function in every_vcpu_is_a_thread(&mut *debugger)? {
        ensure!(function.is_some(), "a vCPU outside of every function");
    }
    let point = debugger.break_at(&"count_tick".into())?;
    let before = read_ticks(&mut *debugger, kernel)?;
    for round in 0..3 {
        let stop = debugger.cont_to(point)?;
        ensure!(Some(stop.pc) == kernel.symbol("_count_tick"), "{stop:?}");
        let ticks = read_ticks(&mut *debugger, kernel)?;
        ensure!(ticks >= before + round, "{ticks} after {before}");
    }
    signatures_are_stripped(stage, &mut *debugger, kernel)?;
    debugger.delete(point)?;
    debugger.detach()
}

/// On the board's processor the return address on the stack is a signed one.
fn signatures_are_stripped(
    stage: &Stage,
    debugger: &mut dyn Debugger,
    kernel: &Kernel,
) -> Result<()> {
    /// From `kernel_bootstrap` to behind its call of `clock_tick`.
    const BEHIND_THE_CALL: u64 = 60;
    let frames = debugger.backtrace(8)?;
    let names: Vec<_> = frames
        .iter()
        .filter_map(|frame| frame.function.as_deref())
        .collect();
    ensure!(
        names.starts_with(&["count_tick", "clock_tick", "kernel_bootstrap"]),
        "{names:?}"
    );
    let bootstrap = kernel.symbol("_kernel_bootstrap");
    let expected = bootstrap.context("no _kernel_bootstrap")? + BEHIND_THE_CALL;
    let frame = debugger.register("x29")?;
    let saved = debugger.read_u64(frame + 8)?;
    let shown = frames.get(2).map(|frame| frame.pc);
    ensure!(shown == Some(expected), "{saved:#x}: {frames:x?}");
    let is_signed = saved != expected;
    ensure!(
        is_signed || !matches!(stage.place(), Place::Board),
        "{saved:#x}"
    );
    Ok(())
}

fn the_target_is_a_darwin_kernel(debugger: &mut dyn Debugger) -> Result<()> {
    let targets = debugger.console("target list")?;
    ensure!(targets.contains("arm64-apple-macosx"), "{targets}");
    Ok(())
}

/// The function of each, if it has a name.
fn every_vcpu_is_a_thread(debugger: &mut dyn Debugger) -> Result<Vec<Option<String>>> {
    let threads = debugger.threads()?;
    let numbers: Vec<_> = threads.iter().map(|thread| thread.number).collect();
    ensure!(numbers == [1, 2], "{threads:?}");
    Ok(threads.into_iter().map(|thread| thread.function).collect())
}

fn read_ticks(debugger: &mut dyn Debugger, kernel: &Kernel) -> Result<u64> {
    let ticks = kernel.symbol("_ticks").context("no _ticks")?;
    debugger.read_u64(ticks)
}
