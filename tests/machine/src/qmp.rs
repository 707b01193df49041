//! QEMU's monitor.

use core::time::Duration;
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::{Value, json};

use crate::MachineError;

/// How long one monitor command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// A connection to QEMU's monitor (QMP), past its greeting.
#[derive(Debug)]
pub struct Monitor {
    input: BufReader<UnixStream>,
    output: UnixStream,
}

impl Monitor {
    /// Connects to the monitor's socket, which has one client at a time.
    ///
    /// # Errors
    /// When QEMU does not listen there or does not answer.
    pub fn connect(path: &Path) -> Result<Self, MachineError> {
        let output = UnixStream::connect(path)?;
        output.set_read_timeout(Some(COMMAND_LIMIT))?;
        let mut monitor = Self {
            input: BufReader::new(output.try_clone()?),
            output,
        };
        monitor.receive()?;
        monitor.command("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Forwards a free port of this computer's loopback to `guest_port`, and yields the free port.
    ///
    /// The system chooses the port while QEMU binds it, so no other process can take it in between.
    pub(crate) fn forward(&mut self, guest_port: u16) -> Result<u16, MachineError> {
        self.human(&format!("hostfwd_add net tcp:127.0.0.1:0-:{guest_port}"))?;
        let table = self.human("info usernet")?;
        forwarded_port(&table, guest_port).ok_or(MachineError::Monitor(table))
    }

    /// Has a command of the monitor for people carried out, and yields what it prints.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn human(&mut self, line: &str) -> Result<String, MachineError> {
        let answer = self.command("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn command(&mut self, name: &str, arguments: &Value) -> Result<Value, MachineError> {
        writeln!(
            self.output,
            "{}",
            json!({ "execute": name, "arguments": arguments })
        )?;
        loop {
            let message = self.receive()?;
            if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            }
            // Anything that is neither an answer nor an error is an event.
            if let Some(error) = message.get("error") {
                return Err(MachineError::Monitor(error.to_string()));
            }
        }
    }

    fn receive(&mut self) -> Result<Value, MachineError> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Err(MachineError::Monitor("QEMU closed its monitor".to_owned()));
        }
        serde_json::from_str(&line).map_err(|_| MachineError::Monitor(line))
    }
}

/// Reads the last forward to `guest_port` from the table of `info usernet`, whose rows are
/// `TCP[HOST_FORWARD] FD 127.0.0.1 PORT 10.0.2.15 GUEST_PORT …`.
fn forwarded_port(table: &str, guest_port: u16) -> Option<u16> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "TCP[HOST_FORWARD]").then_some(())?;
        let port = words.nth(2)?.parse().ok()?;
        (words.nth(1)?.parse() == Ok(guest_port)).then_some(port)
    };
    table.lines().rev().find_map(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_the_right_forward_is_found() {
        let table = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                     TCP[HOST_FORWARD]   3       127.0.0.1 43563       10.0.2.15  7001     0     0\r\n  \
                     TCP[ESTABLISHED]    4       127.0.0.1 43563       10.0.2.15  7001     0     0\r\n  \
                     TCP[HOST_FORWARD]   5       127.0.0.1 40001       10.0.2.15    23     0     0\r\n";
        assert_eq!(forwarded_port(table, 7001), Some(43563));
        assert_eq!(forwarded_port(table, 23), Some(40001));
        assert_eq!(forwarded_port(table, 24), None);
    }
}
