//! Where to connect, as users write it.

use trapline_server::{AddressError, ListenAddress};

/// Reads an address: what `trapline run --listen` takes, or without a kind `PATH` or `HOST:PORT`.
///
/// # Errors
/// As [`AddressError`] says.
pub(crate) fn parse_address(text: &str) -> Result<ListenAddress, AddressError> {
    let has_kind = ["unix:", "tcp:", "serial:"]
        .iter()
        .any(|kind| text.starts_with(kind));
    if has_kind {
        return text.parse();
    }
    if text.is_empty() {
        return Err(AddressError::NoPath(text.to_owned()));
    }
    let is_port = |(_, port): (&str, &str)| port.parse::<u16>().is_ok();
    if !text.contains('/') && text.rsplit_once(':').is_some_and(is_port) {
        return format!("tcp:{text}").parse();
    }
    Ok(ListenAddress::Unix(text.into()))
}

/// Returns the address in the form that GDB's `target remote` takes.
pub(crate) fn gdb_target(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Unix(path) => path.display().to_string(),
        ListenAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        ListenAddress::Tcp { host, port } => format!("{host}:{port}"),
        ListenAddress::Serial { path, .. } => path.display().to_string(),
    }
}

/// Returns the LLDB command that connects to the address.
pub(crate) fn lldb_command(address: &ListenAddress) -> String {
    match address {
        // `gdb-remote` takes only TCP ports.
        ListenAddress::Unix(path) => format!("process connect unix-connect://{}", path.display()),
        other => format!("gdb-remote {}", gdb_target(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_needs_no_kind() {
        for text in ["/run/vm.sock", "vm.sock", "./a:1", "unix:/run/vm.sock"] {
            let address = parse_address(text).unwrap();
            let path = text.trim_start_matches("unix:");
            assert_eq!(address, ListenAddress::Unix(path.into()));
        }
    }

    #[test]
    fn a_host_and_port_need_no_kind() {
        for text in ["localhost:1234", "tcp:localhost:1234", ":1234"] {
            let address = parse_address(text).unwrap();
            assert_eq!(address.to_string(), "tcp:localhost:1234");
        }
        assert_eq!(gdb_target(&parse_address("[::1]:5").unwrap()), "[::1]:5");
    }

    #[test]
    fn wrong_addresses_are_refused() {
        assert!(parse_address("").is_err());
        assert!(parse_address("unix:").is_err());
        assert!(parse_address("tcp:localhost").is_err());
    }
}
