//! The byte stream to a server.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use trapline_server::ListenAddress;

use super::error::ClientError;

/// How long a host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) fn connect(address: &ListenAddress) -> Result<Self, ClientError> {
        match address {
            ListenAddress::Unix(path) => connect_unix(path, address).map(Self::Unix),
            ListenAddress::Tcp { host, port } => connect_tcp(host, *port)
                .map(Self::Tcp)
                .map_err(|error| explain(error, address)),
            ListenAddress::Serial { .. } => Err(ClientError::Serial {
                address: address.clone(),
            }),
        }
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    /// Limits how long a read waits.
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// Ends the connection, also for a thread that waits in a read.
    pub(super) fn shutdown(&self) {
        // If it has ended already there is nothing left to do.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connect_unix(path: &Path, address: &ListenAddress) -> Result<UnixStream, ClientError> {
    // `connect` says "connection refused" of any file; what the file is makes the difference.
    let metadata = std::fs::metadata(path).map_err(|error| explain(error, address))?;
    if !metadata.file_type().is_socket() {
        return Err(ClientError::NotASocket {
            path: path.to_owned(),
        });
    }
    UnixStream::connect(path).map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => ClientError::Stale {
            address: address.clone(),
        },
        io::ErrorKind::PermissionDenied => ClientError::Denied {
            address: address.clone(),
            owner: format!(" (user {})", metadata.uid()),
        },
        _ => explain(error, address),
    })
}

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn explain(error: io::Error, address: &ListenAddress) -> ClientError {
    let address = address.clone();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NoServer { address }
        }
        io::ErrorKind::PermissionDenied => ClientError::Denied {
            address,
            owner: String::new(),
        },
        _ => ClientError::Connect {
            address,
            source: error,
        },
    }
}
