//! What the figures were taken on, and the emulated machine for computers without a KVM.

use core::time::Duration;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use trapline_test_machine::{Environment, HostKvm, Machine, MachineOptions, shared_libraries};

/// How long the figures may take where everything is emulated.
const LIMIT: Duration = Duration::from_secs(3600);
/// Where the programs are in the machine.
const PROGRAMS: &str = "/bench";
/// Where the figures are in the machine.
const RESULT: &str = "/bench-result.json";

/// Describes this computer and the programs that are compared: this QEMU, and GDB.
pub(crate) fn describe(environment: &Environment, qemu: Option<&Path>) -> Value {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|name| name.trim_start_matches(['\t', ' ', ':']).to_owned());
    let version = |program: Option<&Path>| {
        let output = Command::new(program?).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().next().map(str::to_owned)
    };
    json!({
        "cpu": cpu,
        "processors": thread::available_parallelism().map(usize::from).ok(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "kvm": HostKvm::probe().describe(),
        "qemu": version(qemu),
        "gdb": version(environment.gdb().ok()),
        "load_average": read("/proc/loadavg"),
    })
}

/// Runs this program inside an emulated machine and returns the figures that it wrote. What it
/// prints is printed.
pub(crate) fn run_inside(environment: &Environment, arguments: &[String]) -> Result<Value> {
    let mut options = MachineOptions::default()
        .file(
            &format!("{PROGRAMS}/trapline"),
            Environment::program("trapline")?,
        )
        .file(&format!("{PROGRAMS}/trapline-bench"), env::current_exe()?)
        .file(&format!("{PROGRAMS}/qemu"), environment.qemu()?)
        .file(&format!("{PROGRAMS}/gdb"), environment.gdb()?);
    options.memory_mib = 4096;
    for path in data_of_gdb(environment.gdb()?)? {
        options = options.file(&path.display().to_string(), &path);
    }
    let machine = Machine::boot(environment, &options)?;
    let command = format!(
        "export TMPDIR=/tmp TRAPLINE_PROGRAMS={PROGRAMS} TRAPLINE_QEMU={PROGRAMS}/qemu \
         TRAPLINE_GDB={PROGRAMS}/gdb; ip link set lo up; mkdir -p /tmp; \
         exec {PROGRAMS}/trapline-bench --json {RESULT} {}",
        arguments.join(" ")
    );
    let output = machine.run(&command, LIMIT)?;
    print!("{}", output.text());
    ensure!(
        output.status == 0,
        "the benchmark ended with status {} in the machine: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&machine.get(RESULT)?)?)
}

/// Returns the files without which GDB does not start: its own and those of its Python.
fn data_of_gdb(gdb: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(Path::new("/usr/share/gdb"), &mut files)?;
    let libraries = shared_libraries(gdb)?;
    let python = libraries.iter().find_map(|library| {
        let name = library.file_name()?.to_str()?;
        let version = name.strip_prefix("libpython")?.split(".so").next()?;
        Some(PathBuf::from(format!("/usr/lib/python{version}")))
    });
    if let Some(python) = python {
        for part in ["encodings", "importlib", "collections", "re"] {
            collect(&python.join(part), &mut files)?;
        }
        let modules = fs::read_dir(&python)?.filter_map(|entry| Some(entry.ok()?.path()));
        files.extend(modules.filter(|path| path.extension().is_some_and(|end| end == "py")));
    }
    Ok(files)
}

/// Adds the Python files in a directory and below.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|end| end == "py") {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns an error that names the program that lacks, if one does.
pub(crate) fn check(environment: &Environment) -> Result<()> {
    environment.qemu()?;
    environment.gdb()?;
    Ok(())
}
