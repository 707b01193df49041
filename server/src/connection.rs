//! One client's byte stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use trapline_engine::Access;

/// A client's byte stream, in non-blocking mode.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Serial(File),
}

impl Stream {
    /// Reads what is there. `Ok(None)` means nothing now; `Ok(Some(0))` that the client is gone.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match self {
            Self::Unix(stream) => (&*stream).read(buffer),
            Self::Tcp(stream) => (&*stream).read(buffer),
            Self::Serial(file) => (&*file).read(buffer),
        };
        unless_blocked(read)
    }

    /// Writes as much as the stream takes now.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Unix(stream) => (&*stream).write(bytes),
            Self::Tcp(stream) => (&*stream).write(bytes),
            Self::Serial(file) => (&*file).write(bytes),
        };
        Ok(unless_blocked(written)?.unwrap_or(0))
    }

    /// Whether the stream outlives a client's session: nobody hangs up on a serial line.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Serial(_))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Serial(file) => file.as_fd(),
        }
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A client: its stream, and how it stands.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Arc<Stream>,
    pub(crate) access: Access,
    /// A write was cut short: the rest is sent when the stream is ready.
    pub(crate) is_blocked: bool,
    /// The stream failed or its session is over: it is to be closed.
    pub(crate) is_broken: bool,
    /// The event loop waits for the client's input.
    pub(crate) is_polled: bool,
}

impl Connection {
    pub(crate) fn new(stream: Arc<Stream>, access: Access) -> Self {
        Self {
            stream,
            access,
            is_blocked: false,
            is_broken: false,
            is_polled: false,
        }
    }
}
