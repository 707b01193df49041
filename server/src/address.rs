//! Where a server listens, as users write it.

use core::fmt;
use core::str::FromStr;
use std::path::PathBuf;

use thiserror::Error;

/// The rate of a serial line whose user names none, in bits per second.
const DEFAULT_BAUD: u32 = 115_200;

/// Where to listen for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A Unix socket, `unix:PATH`.
    Unix(PathBuf),
    /// A TCP port, `tcp:HOST:PORT`. Port 0 is one of the system's choice.
    Tcp {
        /// A name or an address; IPv6 without brackets here.
        host: String,
        /// The port.
        port: u16,
    },
    /// A serial device, `serial:DEVICE` or `serial:DEVICE@BAUD`: one client at a time, always
    /// connected.
    Serial {
        /// The device's file.
        path: PathBuf,
        /// Bits per second.
        baud: u32,
    },
}

/// Why an address cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It starts with none of the known kinds.
    #[error(
        "'{0}' is no address to listen on; write unix:PATH, tcp:HOST:PORT or serial:DEVICE[@BAUD]"
    )]
    UnknownKind(String),
    /// The path or device is empty.
    #[error("'{0}' names no file")]
    NoPath(String),
    /// The TCP address has no host, no port, or a port that is no number below 65,536.
    #[error("'{0}' needs a host and a port number, as in tcp:localhost:1234")]
    NoPort(String),
    /// The rate is no number.
    #[error(
        "'{0}' has a rate that is no number of bits per second, as in serial:/dev/ttyS1@115200"
    )]
    BadBaud(String),
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (kind, rest) = text
            .split_once(':')
            .ok_or_else(|| AddressError::UnknownKind(text.to_owned()))?;
        if rest.is_empty() {
            return Err(AddressError::NoPath(text.to_owned()));
        }
        match kind {
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" => parse_tcp(text, rest),
            "serial" => parse_serial(text, rest),
            _ => Err(AddressError::UnknownKind(text.to_owned())),
        }
    }
}

fn parse_tcp(text: &str, rest: &str) -> Result<ListenAddress, AddressError> {
    let no_port = || AddressError::NoPort(text.to_owned());
    let (host, port) = rest.rsplit_once(':').ok_or_else(no_port)?;
    let port = port.parse().map_err(|_| no_port())?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let host = if bare.is_empty() { "localhost" } else { bare };
    Ok(ListenAddress::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn parse_serial(text: &str, rest: &str) -> Result<ListenAddress, AddressError> {
    let (path, baud) = match rest.rsplit_once('@') {
        Some((path, baud)) => {
            let baud = baud
                .parse()
                .map_err(|_| AddressError::BadBaud(text.to_owned()))?;
            (path, baud)
        }
        None => (rest, DEFAULT_BAUD),
    };
    if path.is_empty() {
        return Err(AddressError::NoPath(text.to_owned()));
    }
    Ok(ListenAddress::Serial {
        path: path.into(),
        baud,
    })
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Serial { path, baud } => write!(f, "serial:{}@{baud}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in [
            "unix:/run/trapline.sock",
            "tcp:localhost:1234",
            "tcp:[::1]:0",
            "serial:/dev/ttyS1@9600",
        ] {
            assert_eq!(
                text.parse::<ListenAddress>()
                    .map(|address| address.to_string()),
                Ok(text.into())
            );
        }
    }

    #[test]
    fn a_port_alone_means_loopback() {
        let address: ListenAddress = "tcp::1234".parse().unwrap();
        assert_eq!(
            address,
            ListenAddress::Tcp {
                host: "localhost".into(),
                port: 1234
            }
        );
    }

    #[test]
    fn wrong_addresses_say_what_to_write() {
        let error = |text: &str| text.parse::<ListenAddress>().unwrap_err().to_string();
        assert!(error("1234").contains("tcp:HOST:PORT"));
        assert!(error("tcp:localhost").contains("port number"));
        assert!(error("tcp:localhost:70000").contains("port number"));
        assert!(error("unix:").contains("names no file"));
        assert!(error("serial:/dev/x@fast").contains("bits per second"));
    }
}
