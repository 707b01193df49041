//! The console: where the guest's serial line leads.
//!
//! A vCPU never waits for a terminal: what the guest writes goes into a bounded queue, which a thread
//! of the console empties. If the reader stays behind, the vCPU waits for room once, for
//! [`PATIENCE`]; from then on bytes are dropped until there is room again. Otherwise a paused terminal
//! would hold a vCPU where no debugger could stop it.

mod queue;
mod terminal;
#[cfg(test)]
mod tests;
mod thread;

use core::time::Duration;
use std::{fs::File, io, path::PathBuf};

pub(crate) use queue::Output;
pub use terminal::restore as restore_terminal;
pub(crate) use thread::{ConsoleThread, Ends};

use crate::Console;

/// How long a vCPU waits for room in the output queue before it begins to drop bytes.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

/// Why a console could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// The file for the guest's output could not be made.
    #[error("cannot write {}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host gave no pseudo-terminal.
    #[error("the host gave no pseudo-terminal")]
    Pty(#[source] io::Error),
    /// The terminal did not take raw mode.
    #[error("standard input is a terminal that does not take raw mode")]
    RawMode(#[source] io::Error),
    /// The host refused a thread or an event descriptor.
    #[error("the host refused a thread or an event descriptor")]
    Host(#[from] io::Error),
}

/// Opens both ends of a console.
pub(crate) fn open(console: &Console) -> Result<Ends, ConsoleError> {
    match console {
        Console::None => Ok(Ends::default()),
        Console::File(path) => {
            let file = File::create(path).map_err(|source| ConsoleError::File {
                path: path.clone(),
                source,
            })?;
            Ok(Ends {
                output: Some(file),
                ..Ends::default()
            })
        }
        Console::Pty => terminal::open_pty().map_err(ConsoleError::Pty),
        Console::Stdio => terminal::open_stdio(),
    }
}
