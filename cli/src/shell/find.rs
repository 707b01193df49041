//! Finding the user's server when no address is given.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::bail;
use trapline_server::ListenAddress;

/// Returns the address of the one server of this user's that runs.
///
/// # Errors
/// A text that lists the servers if there are several, or tells how to start one.
pub(crate) fn only_server(folder: &Path) -> anyhow::Result<ListenAddress> {
    let mut sockets = sockets(folder);
    match (sockets.pop(), sockets.is_empty()) {
        (Some(only), true) => Ok(ListenAddress::Unix(only)),
        (None, _) => bail!(
            "no server of yours is running (there is no socket of one in {}); start one with \
             'trapline run --kernel IMAGE', or give its address: trapline shell ADDRESS",
            folder.display()
        ),
        (Some(last), false) => {
            sockets.push(last);
            let list: Vec<String> = sockets.iter().map(|socket| describe(socket)).collect();
            bail!(
                "several servers are running; give the address of one:\n{}",
                list.join("\n")
            );
        }
    }
}

/// Returns the sockets in the folder, in the order of their names; if there are several, those that
/// somebody listens on.
fn sockets(folder: &Path) -> Vec<PathBuf> {
    // Another user could have made a folder of this name in a place open to all.
    let is_own = std::fs::metadata(folder)
        .is_ok_and(|metadata| metadata.uid() == rustix::process::geteuid().as_raw());
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut sockets: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            is_own
                && path
                    .extension()
                    .is_some_and(|extension| extension == "sock")
        })
        .collect();
    // To connect is the only way to know, but it costs the guest a pause.
    if sockets.len() > 1 {
        sockets.retain(|path| UnixStream::connect(path).is_ok());
    }
    sockets.sort();
    sockets
}

/// Returns a line with the socket's address and its server's command line, if that can be seen: a
/// socket is named for its process.
fn describe(socket: &Path) -> String {
    let address = ListenAddress::Unix(socket.to_owned());
    let process = socket.file_stem().and_then(|stem| stem.to_str());
    let command = process
        .filter(|process| process.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|process| std::fs::read(format!("/proc/{process}/cmdline")).ok())
        .map(|bytes| {
            let words: Vec<String> = bytes
                .split(|&byte| byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect();
            words.join(" ")
        })
        .unwrap_or_default();
    format!("  {address}  {command}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_one_that_answers_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let error = only_server(folder.path()).unwrap_err().to_string();
        assert!(error.contains("trapline run"), "{error}");

        let path = folder.path().join("1.sock");
        let _server = UnixListener::bind(&path).unwrap();
        drop(UnixListener::bind(folder.path().join("2.sock")).unwrap());
        std::fs::write(folder.path().join("note"), "").unwrap();
        let found = only_server(folder.path()).unwrap();
        assert_eq!(found, ListenAddress::Unix(path));
    }

    #[test]
    fn several_are_listed_with_their_command_lines() {
        let folder = tempfile::tempdir().unwrap();
        let own = format!("{}.sock", std::process::id());
        let servers = ["a.sock", &own].map(|name| UnixListener::bind(folder.path().join(name)));
        assert!(servers.iter().all(Result::is_ok));
        let error = only_server(folder.path()).unwrap_err().to_string();
        let lines: Vec<&str> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        let program = std::env::args().next().unwrap();
        assert!(error.contains(&format!("{own}  {program}")), "{error}");
        assert!(lines.iter().any(|line| line.ends_with("a.sock")), "{error}");
    }
}
