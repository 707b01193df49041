//! Sockets that clients connect to, and who may.

use core::net::SocketAddr;
use std::io;
use std::net::{TcpListener, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::ListenAddress;
use crate::connection::Stream;
use crate::error::ServerError;
use crate::server::Exposure;

/// How many clients may wait to be let in.
const BACKLOG: i32 = 16;

/// A socket that clients connect to.
#[derive(Debug)]
pub(crate) enum Listener {
    Unix { socket: UnixListener, path: PathBuf },
    Tcp(TcpListener),
}

impl Listener {
    /// Accepts a client, if one waits that may come in.
    pub(crate) fn accept(&self) -> io::Result<Option<Stream>> {
        match self {
            Self::Unix { socket, .. } => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                Ok(is_same_user(&stream).then_some(Stream::Unix(stream)))
            }
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Some(Stream::Tcp(stream)))
            }
        }
    }

    /// Returns where the socket listens, with the port that the system chose.
    pub(crate) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Unix { path, .. } => Ok(ListenAddress::Unix(path.clone())),
            Self::Tcp(socket) => {
                let address = socket.local_addr()?;
                Ok(ListenAddress::Tcp {
                    host: address.ip().to_string(),
                    port: address.port(),
                })
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix { socket, .. } => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // The server is going down; a path left behind is found stale by the next one.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The socket's mode lets nobody else connect; a descriptor that was handed on does, so the other
/// end's user is looked at too (rule A1).
fn is_same_user(stream: &UnixStream) -> bool {
    let Ok(peer) = socket_peercred(stream) else {
        return false;
    };
    peer.uid == rustix::process::geteuid() || peer.uid.is_root()
}

/// Makes a Unix socket that only this user can connect to.
pub(crate) fn listen_unix(path: &Path) -> Result<Listener, ServerError> {
    remove_stale(path)?;
    let unix = |source| ServerError::Unix {
        path: path.to_owned(),
        source,
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(unix)?;
    socket
        .bind(&SockAddr::unix(path).map_err(unix)?)
        .map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                ServerError::PathInUse {
                    path: path.to_owned(),
                }
            } else {
                unix(source)
            }
        })?;
    // Nobody can connect before `listen`, so there is no moment at which others could.
    let permissions = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, permissions).map_err(unix)?;
    socket.listen(BACKLOG).map_err(unix)?;
    socket.set_nonblocking(true).map_err(unix)?;
    Ok(Listener::Unix {
        socket: UnixListener::from(OwnedFd::from(socket)),
        path: path.to_owned(),
    })
}

/// Removes a socket that no server listens on any more.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let unix = |source| ServerError::Unix {
        path: path.to_owned(),
        source,
    };
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ServerError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(unix)
        }
        _ => Err(ServerError::PathInUse {
            path: path.to_owned(),
        }),
    }
}

/// Makes a TCP socket, on addresses of this machine alone unless the user said otherwise.
pub(crate) fn listen_tcp(
    host: &str,
    port: u16,
    exposure: Exposure,
) -> Result<Listener, ServerError> {
    let tcp = |source| ServerError::Tcp {
        host: host.to_owned(),
        port,
        source,
    };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(tcp)?.collect();
    if exposure == Exposure::Loopback && addresses.iter().any(|address| !address.ip().is_loopback())
    {
        return Err(ServerError::NotLoopback {
            host: host.to_owned(),
            port,
        });
    }
    let socket = TcpListener::bind(addresses.as_slice()).map_err(tcp)?;
    socket.set_nonblocking(true).map_err(tcp)?;
    Ok(Listener::Tcp(socket))
}
