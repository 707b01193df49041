//! A guest's own use of debug registers through Linux, round after round: a perf event counts the writes of a
//! variable, and a traced process is stopped by watchpoints on one.
//!
//! Each round in which every write was counted and every watchpoint hit is a line on the standard output,
//! `trapline-guest: own debug N`. What goes wrong ends it, with `trapline-guest: own debug fails: ` and why.

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod rounds;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod traced;

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
fn main() -> std::process::ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some(traced::ARGUMENT) => traced::be_traced(),
        _ => rounds::run(),
    };
    let Err(error) = outcome else {
        return std::process::ExitCode::SUCCESS;
    };
    println!("trapline-guest: own debug fails: {error:#}");
    std::process::ExitCode::FAILURE
}

#[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
fn main() -> std::process::ExitCode {
    eprintln!("trapline-own-debug is for guests on AArch64");
    std::process::ExitCode::FAILURE
}
