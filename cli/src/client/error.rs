//! Why a server cannot be reached, or does not do what it was asked.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use trapline_server::ListenAddress;

/// Why a server cannot be reached, or does not do what it was asked.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    /// There is nothing at the address.
    #[error(
        "{address}: no server is there; start one with \
         'trapline run --kernel IMAGE --listen {address}'"
    )]
    NoServer { address: ListenAddress },
    /// The socket's file is left over from a server that ended without tidying up.
    #[error(
        "{address}: the server that listened there has ended; start one with \
         'trapline run --kernel IMAGE --listen {address}'"
    )]
    Stale { address: ListenAddress },
    /// There is a file at the path that is no socket.
    #[error("{path}: this is no socket; the address is the one that 'trapline run' printed")]
    NotASocket { path: PathBuf },
    /// The operating system lets only another user in.
    #[error(
        "{address}: permission denied; only the user who started the server can connect{owner}"
    )]
    Denied {
        address: ListenAddress,
        /// Who that is, as a part of the sentence, if it is known.
        owner: String,
    },
    /// A serial line, which is for debuggers that can be set up for it.
    #[error(
        "{address}: the shell talks to servers over Unix sockets and TCP only; let the server \
         listen on one as well"
    )]
    Serial { address: ListenAddress },
    /// Connecting failed otherwise.
    #[error("{address}: cannot connect")]
    Connect {
        address: ListenAddress,
        source: io::Error,
    },
    /// The connection was closed before a word was said.
    #[error(
        "{address}: the server closed the connection at once; it has as many clients as it can \
         serve, or it belongs to another user"
    )]
    NotLetIn { address: ListenAddress },
    /// Whoever listens there does not answer as a debug server.
    #[error("{address}: something listens there, but it does not answer as a debug server does")]
    NotAServer { address: ListenAddress },
    /// Nothing has come from the server.
    #[error(
        "{address}: something listens there, but it has not answered in {seconds} seconds; it is \
         busy, or it is no debug server"
    )]
    Silent {
        address: ListenAddress,
        /// How long was waited.
        seconds: u64,
    },
    /// The connection has ended.
    #[error("{address}: the server is gone; the guest has ended, or the server was ended")]
    Gone { address: ListenAddress },
    /// The user did not want to wait any more.
    #[error("not waited for; the server has not answered yet")]
    Interrupted,
    /// The server refused the request.
    #[error("{text}")]
    Refused { text: String },
    /// The server does not have what was asked for.
    #[error("the server at {address} does not know '{request}'; it is no Trapline server")]
    Unsupported {
        address: ListenAddress,
        /// The request's name.
        request: &'static str,
    },
    /// The reply makes no sense.
    #[error("the server's answer to '{request}' cannot be understood: {reply}")]
    Malformed {
        /// The request's name.
        request: &'static str,
        /// The beginning of the reply.
        reply: String,
    },
}

impl ClientError {
    /// A reply that makes no sense.
    pub(super) fn malformed(request: &'static str, reply: &[u8]) -> Self {
        let start = reply.get(..reply.len().min(64)).unwrap_or_default();
        Self::Malformed {
            request,
            reply: format!("'{}'", start.escape_ascii()),
        }
    }
}
