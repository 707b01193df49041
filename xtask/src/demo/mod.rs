//! `./x demo`: a stock kernel under Trapline, and a debugger's session with it.
//!
//! Where this computer's KVM uses VMX or SVM, `trapline` runs here. Where it does not, the same program runs
//! inside an emulated machine, and its socket is brought out; the debugger runs here either way.

mod place;
mod session;

use std::process::ExitCode;

use anyhow::Result;

use crate::{programs, setup};
use place::Place;

/// Which debugger the demo drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Debugger {
    /// GDB.
    Gdb,
    /// LLDB.
    Lldb,
}

/// Who types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A script does, and the demo explains.
    Scripted,
    /// The user does.
    Interactive,
}

/// Sets up, builds, boots, and debugs.
///
/// # Errors
/// When any of these fails.
pub(crate) fn run(debugger: Debugger, mode: Mode) -> Result<ExitCode> {
    println!("1. What is needed from outside");
    let environment = setup::run(&setup::Needs::demo(debugger))?;
    println!("2. Building trapline");
    let programs = programs::build()?;
    println!("3. Booting the distribution's kernel under it");
    let place = Place::prepare(&environment, &programs)?;
    println!("   {}", place.describe());
    let guest = place.boot(&environment, &programs)?;
    println!(
        "   The guest runs. Its console said: {}",
        guest.first_heartbeat.trim()
    );
    println!("4. The session");
    let status = session::run(&environment, &programs, debugger, mode, &guest)?;
    let heartbeat = guest.next_heartbeat()?;
    println!(
        "5. The debugger has gone, and the guest goes on: {}",
        heartbeat.trim()
    );
    session::explain(&environment);
    Ok(status)
}
