//! Assembles the firmware from which QEMU's guest starts.
//!
//! On a host that is not x86-64 a cross compiler is used, by the name that Debian gives it. The
//! environment variable `TRAPLINE_X86_64_CC` names another.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a build script ends by panicking"
)]

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=asm");
    println!("cargo::rerun-if-env-changed=TRAPLINE_X86_64_CC");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let native = env::consts::ARCH == "x86_64";
    let default = if native { "cc" } else { "x86_64-linux-gnu-gcc" };
    let compiler = env::var("TRAPLINE_X86_64_CC").unwrap_or_else(|_| default.to_owned());
    let status = Command::new(&compiler)
        .args(["-m64", "-nostdlib", "-static", "-no-pie"])
        .args([
            "-Wl,-Ttext=0xf0000",
            "-Wl,--oformat=binary",
            "-Wl,--build-id=none",
        ])
        .args(["-Wl,-z,noexecstack", "-Wl,-estart", "-o"])
        .arg(Path::new(&out).join("start.bin"))
        .arg("asm/start.S")
        .status()
        .unwrap_or_else(|error| {
            panic!(
                "cannot start {compiler} to assemble the firmware: {error}; install an x86-64 C \
                 compiler (Debian: gcc, or gcc-x86-64-linux-gnu on another architecture)"
            )
        });
    assert!(
        status.success(),
        "{compiler} could not assemble asm/start.S: {status}"
    );
}
