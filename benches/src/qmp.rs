//! QEMU's monitor, to see guest memory beside GDB.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::client::connect_soon;

/// A connection to QEMU's machine protocol (QEMU, "QEMU Machine Protocol Specification").
pub(crate) struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to QEMU as soon as it listens.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let mut qmp = Self {
            stream: BufReader::new(connect_soon(path)?),
        };
        qmp.receive()?;
        qmp.execute(&json!({ "execute": "qmp_capabilities" }))?;
        Ok(qmp)
    }

    /// Reads a 64-bit variable of the guest by its guest-physical address, while the guest runs.
    pub(crate) fn read_u64(&mut self, address: u64) -> Result<u64> {
        let answer = self.execute(&json!({
            "execute": "human-monitor-command",
            "arguments": { "command-line": format!("xp /1gx {address:#x}") },
        }))?;
        let text = answer.as_str().unwrap_or_default();
        let value = text.trim().rsplit("0x").next().unwrap_or_default();
        u64::from_str_radix(value, 16).with_context(|| format!("QEMU said {text:?}"))
    }

    fn execute(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.stream.get_mut(), "{command}")?;
        loop {
            let mut message = self.receive()?;
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            // Events come between.
            if message.get("error").is_some() {
                bail!("QEMU refuses {command}: {message}");
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        serde_json::from_str(&line).context("QEMU's monitor does not answer")
    }
}
