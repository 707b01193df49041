//! Why a server cannot listen.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use trapline_engine::TooManySessions;

/// Why a server cannot listen, with what to do about it.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The path of a Unix socket is in use.
    #[error("{path}: another server listens there; end it, or choose another path")]
    PathInUse {
        /// The path.
        path: PathBuf,
    },
    /// There is a file at the path of a Unix socket that is no socket.
    #[error("{path}: there is a file that is no socket; remove it, or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path of a Unix socket cannot be used.
    #[error("{path}: cannot make a socket there")]
    Unix {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A TCP address cannot be used.
    #[error("tcp:{host}:{port}: cannot listen there")]
    Tcp {
        /// The host as given.
        host: String,
        /// The port as given.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A TCP address that others can reach, without the user's word for it (rule A1).
    #[error(
        "tcp:{host}:{port}: that address can be reached from other machines, and whoever reaches it \
         controls the guest; use a Unix socket or localhost, or add --allow-remote"
    )]
    NotLoopback {
        /// The host as given.
        host: String,
        /// The port as given.
        port: u16,
    },
    /// A serial device cannot be used.
    #[error("{path}: cannot use it as a serial line")]
    Serial {
        /// The device's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room for a serial line's client.
    #[error(transparent)]
    TooManySessions(#[from] TooManySessions),
    /// The operating system cannot wait for events.
    #[error("cannot wait for clients")]
    Poll(#[from] io::Error),
}
