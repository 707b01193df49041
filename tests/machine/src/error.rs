//! What can go wrong with a machine, by cause.

use std::{io, path::PathBuf};

use core::time::Duration;

/// The reasons for which a machine cannot be booted or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// Something that `./x setup` provides is not there.
    #[error("{what} is not set up: run ./x setup, or set {variable} to its path")]
    NotSetUp {
        /// The missing thing, in words.
        what: &'static str,
        /// The environment variable that names it.
        variable: &'static str,
    },
    /// A program of this workspace has not been built.
    #[error("the program {0} has not been built: run ./x test, or cargo build")]
    NotBuilt(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A helper program could not be run or failed.
    #[error("{program}: {reason}")]
    Program {
        /// The program's name.
        program: String,
        /// What it said, or why it could not be started.
        reason: String,
    },
    /// The kernel has a module neither as a file nor built in.
    #[error("the kernel in {} has no module {name}", directory.display())]
    NoModule {
        /// The module's name.
        name: String,
        /// The kernel's module directory.
        directory: PathBuf,
    },
    /// The machine ended, or never came up.
    #[error("the machine ended: {reason}; the end of its console:\n{console}")]
    Ended {
        /// What was being waited for.
        reason: String,
        /// The last lines of its console.
        console: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {limit:?}; what was seen last:\n{seen}")]
    TimedOut {
        /// What was being waited for.
        what: String,
        /// The time it was given.
        limit: Duration,
        /// The output so far, shortened to its end.
        seen: String,
    },
    /// The agent inside the machine refused a request.
    #[error("the machine refused: {0}")]
    Refused(String),
    /// The connection to the machine failed.
    #[error("the connection to the machine failed: {0}")]
    Connection(#[from] io::Error),
    /// QEMU's monitor answered something unexpected.
    #[error("unexpected answer from QEMU's monitor: {0}")]
    Monitor(String),
}

impl MachineError {
    /// Ties an I/O error to the file it is about.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
