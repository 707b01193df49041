//! `./x demo`: a stock kernel under Trapline, and a debugger's session with it.
//!
//! Where this computer's KVM uses VMX or SVM, `trapline` runs here. Where it does not, the same program runs
//! inside an emulated machine, and its socket is brought out; the debugger runs here either way. On the other hosts
//! the guest is always in an emulated computer: under KVM on arm64 as just told, or under the hypervisor for EL2,
//! whose second serial port is the socket.

mod board;
mod place;
mod session;

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use trapline_test_machine::Architecture;

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

/// What the debug server is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Host {
    /// `trapline` on KVM on x86-64.
    Kvm,
    /// `trapline` on KVM on arm64.
    KvmArm64,
    /// The hypervisor at EL2.
    El2,
}

impl Host {
    /// The architecture of its guests.
    pub(crate) fn architecture(self) -> Architecture {
        match self {
            Self::Kvm => Architecture::X86_64,
            Self::KvmArm64 | Self::El2 => Architecture::Arm64,
        }
    }
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
pub(crate) fn run(host: Host, debugger: Debugger, mode: Mode) -> Result<ExitCode> {
    println!("1. What is needed from outside");
    let environment = setup::run(&setup::Needs::demo(debugger, host))?;
    println!("2. Building trapline");
    let programs = programs::build()?;
    println!("3. Booting the distribution's kernel under it");
    let place = Place::prepare(host, &environment, &programs)?;
    println!("   {}", place.describe());
    let guest = place.boot(&environment, &programs)?;
    println!(
        "   The guest runs. Its console said: {}",
        guest.first_heartbeat.trim()
    );
    println!("4. The session");
    let session = session::Session {
        environment: &environment,
        programs: &programs,
        host,
        debugger,
        mode,
    };
    let status = session.run(&guest)?;
    let heartbeat = guest.next_heartbeat()?;
    println!(
        "5. The debugger has gone, and the guest goes on: {}",
        heartbeat.trim()
    );
    session.explain();
    Ok(status)
}
