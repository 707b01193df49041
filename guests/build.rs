//! Assembles and links the tiny guests with the system's C compiler driver.
//!
//! On a host that is not x86-64 a cross compiler is used, by the name that Debian gives it. The
//! environment variable `TRAPLINE_X86_64_CC` names another.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a build script ends by panicking"
)]

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=asm");
    println!("cargo::rerun-if-env-changed=TRAPLINE_X86_64_CC");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let native = env::consts::ARCH == "x86_64";
    let default = if native { "cc" } else { "x86_64-linux-gnu-gcc" };
    let compiler = env::var("TRAPLINE_X86_64_CC").unwrap_or_else(|_| default.to_owned());
    for entry in fs::read_dir("asm").expect("the folder asm is part of the package") {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_some_and(|extension| extension == "S") {
            assemble(&compiler, &path, Path::new(&out));
        }
    }
}

/// Makes `name.elf` in the output folder of `asm/name.S`.
fn assemble(compiler: &str, source: &Path, out: &Path) {
    let name = source.file_stem().expect("a source file has a name");
    let target = out.join(name).with_extension("elf");
    let status = Command::new(compiler)
        .args(["-m64", "-g", "-nostdlib", "-static", "-no-pie"])
        .args([
            "-Iasm",
            "-Wl,-T,asm/link.ld",
            "-Wl,--build-id=none",
            "-Wl,-z,noexecstack",
        ])
        .args(["-Wl,--no-warn-rwx-segments", "-o"])
        .arg(&target)
        .arg(source)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{compiler} could not assemble {}: {status}",
            source.display()
        ),
        Err(error) => panic!(
            "cannot start {compiler} to assemble the tiny guests: {error}; install an x86-64 C \
             compiler (Debian: gcc, or gcc-x86-64-linux-gnu on another architecture)"
        ),
    }
}
