//! Finds what Trapline's demo, tests and benchmarks need from outside, and fetches what is missing.
//!
//! Programs are installed with the distribution's package manager. The kernel that is debugged and the
//! busybox for its root file system are unpacked below `target/trapline` and not installed. What is found
//! is recorded there for [`Environment`]; when all of it is still in place, nothing is run or fetched.

mod apt;
mod packages;
mod sources;
mod tools;

use std::{
    fs::{self, File},
    io::Write,
};

use anyhow::{Context, Result, bail};
use trapline_test_machine::{Environment, HostKvm};

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

/// What a task needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    qemu: Need,
    gdb: Need,
    lldb: Need,
    mke2fs: Need,
    gdb_multiarch: Need,
    cxx: Need,
}

impl Needs {
    /// For tests and benchmarks: all of it. QEMU may be absent where this computer's own KVM does.
    pub(crate) fn everything() -> Self {
        let on_hardware = HostKvm::probe().runs_stock_kernel();
        let qemu = if on_hardware {
            Need::Wanted
        } else {
            Need::Required
        };
        Self {
            qemu,
            gdb: Need::Required,
            lldb: Need::Required,
            mke2fs: Need::Required,
            gdb_multiarch: Need::Wanted,
            cxx: Need::Required,
        }
    }

    /// For the demo with one debugger.
    pub(crate) fn demo(debugger: crate::demo::Debugger) -> Self {
        let on_hardware = HostKvm::probe().runs_stock_kernel();
        let (gdb, lldb) = match debugger {
            crate::demo::Debugger::Gdb => (Need::Required, Need::Unused),
            crate::demo::Debugger::Lldb => (Need::Unused, Need::Required),
        };
        Self {
            qemu: if on_hardware {
                Need::Unused
            } else {
                Need::Required
            },
            gdb,
            lldb,
            mke2fs: Need::Unused,
            gdb_multiarch: Need::Unused,
            cxx: Need::Unused,
        }
    }

    fn of(&self, tool: Tool) -> Need {
        match tool {
            Tool::Qemu => self.qemu,
            Tool::Gdb => self.gdb,
            Tool::Lldb => self.lldb,
            Tool::Mke2fs => self.mke2fs,
            Tool::GdbMultiarch => self.gdb_multiarch,
            Tool::Cxx => self.cxx,
            Tool::Kernel | Tool::Busybox => Need::Required,
        }
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
