//! `./x demo`.
use crate::{programs, setup};
use anyhow::{Result, bail};
use std::process::ExitCode;
/// Which debugger the demo drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Debugger {
    Gdb,
    Lldb,
}
/// Who types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Scripted,
    Interactive,
}
pub(crate) fn run(debugger: Debugger, _mode: Mode) -> Result<ExitCode> {
    setup::run(&setup::Needs::demo(debugger))?;
    let _ = programs::build()?;
    bail!("not yet")
}
