//! Assembles the firmware from which QEMU's guest starts, and the program that an arm64 guest is measured by.
//!
//! For an architecture that is not this computer's a cross compiler is used, by the name that Debian gives
//! it. The environment variables `TRAPLINE_X86_64_CC` and `TRAPLINE_AARCH64_CC` name others. Without a
//! compiler for `AArch64` its program is empty.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a build script ends by panicking"
)]

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=asm");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    let x86 = compiler("x86_64", "TRAPLINE_X86_64_CC", "x86_64-linux-gnu-gcc");
    let options = [
        "-m64",
        "-Wl,-Ttext=0xf0000",
        "-Wl,--oformat=binary",
        "-Wl,-estart",
    ];
    assemble(&x86, &options, "asm/start.S", &out.join("start.bin"));
    let arm = compiler("aarch64", "TRAPLINE_AARCH64_CC", "aarch64-linux-gnu-gcc");
    let work = out.join("work");
    if is_there(&arm) {
        assemble(&arm, &["-mgeneral-regs-only"], "asm/work.S", &work);
    } else {
        fs::write(&work, []).expect("a writable output folder");
    }
}

/// The compiler that `variable` names, or else the one that is usual.
fn compiler(architecture: &str, variable: &str, cross: &str) -> String {
    println!("cargo::rerun-if-env-changed={variable}");
    let native = env::consts::ARCH == architecture;
    let default = if native { "cc" } else { cross };
    env::var(variable).unwrap_or_else(|_| default.to_owned())
}

fn is_there(compiler: &str) -> bool {
    let output = Command::new(compiler).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// Makes `to` of `source`.
fn assemble(compiler: &str, options: &[&str], source: &str, to: &Path) {
    let status = Command::new(compiler)
        .args(options)
        .args(["-nostdlib", "-static", "-no-pie"])
        .args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-o"])
        .arg(to)
        .arg(source)
        .status()
        .unwrap_or_else(|error| {
            panic!(
                "cannot start {compiler} to assemble {source}: {error}; install an x86-64 C \
                 compiler (Debian: gcc, or gcc-x86-64-linux-gnu on another architecture)"
            )
        });
    assert!(
        status.success(),
        "{compiler} could not assemble {source}: {status}"
    );
}
