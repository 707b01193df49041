//! Assembles and links the tiny guests with the system's C compiler driver.
//!
//! For an architecture that is not this computer's a cross compiler is used, by the name that Debian gives
//! it. The environment variables `TRAPLINE_X86_64_CC` and `TRAPLINE_AARCH64_CC` name others. Without a
//! compiler for AArch64 its guests are left out: their images are empty.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a build script ends by panicking"
)]

use std::{env, fs, path::Path, process::Command};

/// How the guests of one architecture are made.
struct Target {
    /// Rust's name of the architecture.
    name: &'static str,
    /// The folder of the sources.
    folder: &'static str,
    /// The environment variable that names the compiler.
    variable: &'static str,
    /// What Debian calls the compiler on computers of another architecture.
    cross: &'static str,
    /// What the compiler is told besides.
    options: &'static [&'static str],
    /// Whether everything depends on them.
    is_required: bool,
    /// What is made besides the guests, by its path in the folder.
    parts: &'static [(&'static str, Product)],
}

/// What is made of a source.
#[derive(Clone, Copy)]
enum Product {
    /// An image by the folder's layout.
    Image,
    /// What is still to be linked.
    Object,
}

const TARGETS: [Target; 2] = [
    Target {
        name: "x86_64",
        folder: "asm",
        variable: "TRAPLINE_X86_64_CC",
        cross: "x86_64-linux-gnu-gcc",
        options: &["-m64"],
        is_required: true,
        parts: &[],
    },
    Target {
        name: "aarch64",
        folder: "asm/aarch64",
        variable: "TRAPLINE_AARCH64_CC",
        cross: "aarch64-linux-gnu-gcc",
        options: &["-mgeneral-regs-only"],
        is_required: false,
        parts: &[
            ("mach/boot", Product::Image),
            ("mach/kernel", Product::Object),
        ],
    },
];

fn main() {
    println!("cargo::rerun-if-changed=asm");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    for target in &TARGETS {
        println!("cargo::rerun-if-env-changed={}", target.variable);
        let native = env::consts::ARCH == target.name;
        let default = if native { "cc" } else { target.cross };
        let compiler = env::var(target.variable).unwrap_or_else(|_| default.to_owned());
        let out = Path::new(&out).join(target.name);
        let has_compiler = target.is_required || is_there(&compiler);
        let assemble = |source: &Path, to: &Path, product: Product| {
            fs::create_dir_all(to.parent().unwrap_or(to)).expect("a writable output folder");
            if has_compiler {
                assemble(&compiler, target, source, to, product);
            } else {
                fs::write(to, []).expect("a writable output folder");
            }
        };
        for entry in fs::read_dir(target.folder).expect("the sources are part of the package") {
            let path = entry.expect("a folder entry").path();
            if path.extension().is_some_and(|extension| extension == "S") {
                let name = path.file_stem().expect("a source file has a name");
                assemble(&path, &out.join(name).with_extension("elf"), Product::Image);
            }
        }
        for (name, product) in target.parts {
            let source = Path::new(target.folder).join(name).with_extension("S");
            assemble(&source, &out.join(name).with_extension("elf"), *product);
        }
    }
}

fn is_there(compiler: &str) -> bool {
    let output = Command::new(compiler).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// Makes the ELF file `to` of `source`.
fn assemble(compiler: &str, target: &Target, source: &Path, to: &Path, product: Product) {
    let folder = target.folder;
    let mut command = Command::new(compiler);
    command.args(target.options).arg(format!("-I{folder}"));
    match product {
        Product::Image => command
            .args(["-g", "-nostdlib", "-static", "-no-pie"])
            .arg(format!("-Wl,-T,{folder}/link.ld"))
            .args(["-Wl,--build-id=none", "-Wl,-z,noexecstack"])
            .arg("-Wl,--no-warn-rwx-segments"),
        Product::Object => command.arg("-c"),
    };
    let status = command.arg("-o").arg(to).arg(source).status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{compiler} could not assemble {}: {status}",
            source.display()
        ),
        Err(error) => panic!(
            "cannot start {compiler} to assemble the tiny guests: {error}; install a C compiler for \
             {} (Debian: gcc, or {} on another architecture)",
            target.name, target.cross
        ),
    }
}
