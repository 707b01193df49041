//! Finds what Trapline's demo, tests and benchmarks need from outside, and fetches what is missing.
//!
//! Programs are installed with the distribution's package manager. The kernel that is debugged and the
//! busybox for its root file system are unpacked below `target/trapline` and not installed. What is found
//! is recorded there for [`Environment`]; when all of it is still in place, nothing is run or fetched.

mod apt;
mod packages;
mod rust;
mod sources;
mod tools;

use std::{
    fs::{self, File},
    io::Write,
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Architecture, Environment, HostKvm};

use crate::{demo, toolchain::Target};
use apt::Apt;
use tools::Tool;

/// How badly something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing works without it.
    Required,
    /// Without it something is left out, and that is said.
    Wanted,
    /// Not looked for.
    Unused,
}

/// What a task needs; what is not listed is not looked for.
#[derive(Clone, Debug)]
pub(crate) struct Needs(Vec<(Tool, Need)>);

impl Needs {
    /// For tests and benchmarks: all of it. QEMU may be absent where this computer's own KVM does, and without
    /// what only Arm guests need their part is left out.
    pub(crate) fn everything() -> Self {
        let required = [Tool::Gdb, Tool::Lldb, Tool::Mke2fs, Tool::Cxx];
        let need = |tool: Tool| match tool {
            Tool::Kernel(Architecture::X86_64) | Tool::Busybox(Architecture::X86_64) => {
                Need::Required
            }
            Tool::Qemu(Architecture::X86_64) if !HostKvm::probe().runs_stock_kernel() => {
                Need::Required
            }
            tool if required.contains(&tool) => Need::Required,
            _ => Need::Wanted,
        };
        Self(Tool::ALL.map(|tool| (tool, need(tool))).to_vec())
    }

    /// For the demo with one debugger on one host.
    pub(crate) fn demo(debugger: demo::Debugger, host: demo::Host) -> Self {
        let architecture = host.architecture();
        let mut tools = vec![Tool::Kernel(architecture), Tool::Busybox(architecture)];
        tools.push(match (debugger, architecture) {
            (demo::Debugger::Gdb, Architecture::X86_64) => Tool::Gdb,
            (demo::Debugger::Gdb, Architecture::Arm64) => Tool::GdbMultiarch,
            (demo::Debugger::Lldb, _) => Tool::Lldb,
        });
        if host != demo::Host::Kvm || !HostKvm::probe().runs_stock_kernel() {
            tools.push(Tool::Qemu(architecture));
        }
        match host {
            demo::Host::Kvm => {}
            demo::Host::KvmArm64 => tools.push(Tool::Rust(Target::LinuxArm)),
            demo::Host::El2 => tools.push(Tool::Rust(Target::BareArm)),
        }
        let required = tools.into_iter().map(|tool| (tool, Need::Required));
        Self(required.collect())
    }

    fn of(&self, tool: Tool) -> Need {
        let need = self.0.iter().find(|(needed, _)| *needed == tool);
        need.map_or(Need::Unused, |(_, need)| *need)
    }
}

/// Makes sure that what is needed is there, and yields where.
///
/// # Errors
/// When something required is missing and cannot be installed; the message says what to do by hand.
pub(crate) fn run(needs: &Needs) -> Result<Environment> {
    if let Some((variable, path)) = Environment::wrong_overrides().first() {
        bail!("{variable} names {}, which does not exist", path.display());
    }
    let directory = Environment::directory();
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    // Two runs at once take turns here; the second finds everything in place.
    let _turn = take_turn()?;
    let mut environment = Environment::load();
    let missing = look(&mut environment, needs);
    if !missing.is_empty() {
        install(&mut environment, needs, &missing)?;
    }
    environment.save()?;
    Ok(environment)
}

/// Records what is there already and yields what is not.
fn look(environment: &mut Environment, needs: &Needs) -> Vec<Tool> {
    let needed = Tool::ALL
        .into_iter()
        .filter(|&tool| needs.of(tool) != Need::Unused);
    needed.filter(|tool| !tool.find(environment)).collect()
}

fn install(environment: &mut Environment, needs: &Needs, missing: &[Tool]) -> Result<()> {
    let names: Vec<_> = missing.iter().map(|tool| tool.description()).collect();
    println!("Not on this computer yet: {}.", names.join("; "));
    let Some(apt) = Apt::detect()? else {
        bail!(
            "this is neither Debian nor Ubuntu, so please install by hand:\n{}",
            by_hand(missing)
        );
    };
    apt.update();
    for &tool in missing {
        let installed = tool.install(&apt, environment).and_then(|()| {
            let found = tool.find(environment);
            found
                .then_some(())
                .with_context(|| format!("{} is still not there", tool.description()))
        });
        match (installed, needs.of(tool)) {
            (Ok(()), _) => {}
            (Err(error), Need::Required) => {
                return Err(error.context(format!("cannot set up {}", by_hand(&[tool]).trim())));
            }
            (Err(error), _) => println!("Going on without {}: {error:#}", tool.description()),
        }
    }
    Ok(())
}

/// What a user has to install, one line each.
fn by_hand(tools: &[Tool]) -> String {
    let lines = tools
        .iter()
        .map(|tool| format!("  {}\n    {}\n", tool.description(), tool.advice()));
    lines.collect()
}

/// Waits for other runs of this function to end, for as long as the result lives.
fn take_turn() -> Result<File> {
    let path = Environment::directory().join("setup.lock");
    let mut file = File::options().create(true).append(true).open(&path)?;
    if file.try_lock().is_err() {
        println!(
            "Waiting for another ./x to finish its setup ({})",
            path.display()
        );
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    file.flush()?;
    Ok(file)
}
