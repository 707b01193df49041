//! LLDB over a driver that runs inside it.
//!
//! LLDB has no machine interface that covers what the scenarios do, but its program carries Python.
//! `driver.py` runs there and takes requests over a Unix socket, so no console output is picked apart.

use core::time::Duration;
use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::channel,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use trapline_test_machine::Environment;

use crate::{
    Debugger, Frame, Kind, LIMIT, Location, Memory, Point, Reason, Stop, Thread, Transcript, Watch,
    json::{bytes, digits, number_at, text},
    process::LocalProcess,
};

/// What every session begins with.
const PREPARATION: [&str; 5] = [
    "settings set symbols.enable-external-lookup false",
    "settings set symbols.auto-download off",
    // An emulated machine on a busy computer is slow to answer.
    "settings set plugin.process.gdb-remote.packet-timeout 60",
    "settings set interpreter.prompt-on-quit false",
    "settings set auto-confirm true",
];

/// An LLDB process. Dropping it kills it.
#[derive(Debug)]
pub struct LldbSession {
    process: LocalProcess,
    stream: BufReader<UnixStream>,
    packets: PathBuf,
    transcript: Transcript,
    _directory: TempDir,
}

impl LldbSession {
    /// Starts LLDB without anybody's start-up files.
    ///
    /// # Errors
    /// When it is not there, does not start, or was built without Python.
    pub fn start(environment: &Environment, transcript: &Transcript) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let script = directory.path().join("driver.py");
        std::fs::write(&script, include_str!("driver.py"))?;
        let socket = directory.path().join("driver");
        let listener = UnixListener::bind(&socket)?;
        let mut command = Command::new(environment.lldb()?);
        command
            .args(["--no-lldbinit", "--batch", "-o"])
            .arg(format!("command script import {}", script.display()))
            .env("TRAPLINE_E2E_DRIVER", &socket)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let process = LocalProcess::start(&mut command, transcript, "lldb")?;
        let (sender, receiver) = channel();
        thread::spawn(move || sender.send(listener.accept()));
        let accepted = receiver
            .recv_timeout(LIMIT)
            .map_err(|_| anyhow!("lldb did not start its driver; it said: {}", process.text()))?;
        let (stream, _) = accepted?;
        let mut session = Self {
            process,
            stream: BufReader::new(stream),
            packets: PathBuf::new(),
            transcript: transcript.clone(),
            _directory: directory,
        };
        for command in PREPARATION {
            session.console(command)?;
        }
        let log = transcript.log("packets of lldb")?;
        session.console(&format!(
            "log enable -f {} gdb-remote packets",
            log.display()
        ))?;
        session.packets = log;
        Ok(session)
    }

    /// Has the driver carry out a request.
    fn request(&mut self, request: &Value, limit: Duration) -> Result<Value> {
        self.transcript.say("to lldb", request);
        let stream = self.stream.get_mut();
        writeln!(stream, "{request}").context("lldb is gone")?;
        stream.set_read_timeout(Some(limit))?;
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => bail!("lldb ended during {request}"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("lldb does not come to an end with {request}")
            }
            Err(error) => return Err(error.into()),
        }
        self.transcript.say("lldb", line.trim_end());
        let mut answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer.get("error") {
            bail!(
                "lldb refuses {request}: {}",
                error.as_str().unwrap_or_default()
            );
        }
        Ok(answer.get_mut("ok").map(Value::take).unwrap_or_default())
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        self.request(request, LIMIT)
    }
}

impl Debugger for LldbSession {
    fn kind(&self) -> Kind {
        Kind::Lldb
    }

    fn symbols(&mut self, image: &Path, slide: u64) -> Result<()> {
        self.ask(&json!({"verb": "symbols", "image": image, "slide": slide}))
            .map(drop)
    }

    fn connect(&mut self, socket: &Path) -> Result<Stop> {
        let limit = LIMIT.as_secs();
        stop(&self.request(
            &json!({"verb": "connect", "path": socket, "limit": limit}),
            LIMIT * 2,
        )?)
    }

    fn break_at(&mut self, location: &Location) -> Result<Point> {
        let request = match location {
            Location::Address(address) => json!({"verb": "break_address", "address": address}),
            Location::Function(name) => json!({"verb": "break_function", "name": name}),
        };
        number(&self.ask(&request)?).map(Point::Break)
    }

    fn hbreak(&mut self, location: &Location) -> Result<Point> {
        let arguments = match location {
            Location::Address(address) => format!("--address {address:#x}"),
            Location::Function(name) => format!("--name {name}"),
        };
        let made = self.ask(&json!({"verb": "hbreak", "arguments": arguments}))?;
        number(&made).map(Point::Break)
    }

    fn condition(&mut self, point: Point, expression: &str) -> Result<()> {
        let Point::Break(number) = point else {
            bail!("a condition on a watchpoint");
        };
        self.ask(&json!({"verb": "condition", "number": number, "expression": expression}))
            .map(drop)
    }

    fn watch(&mut self, address: u64, size_bytes: u8, watch: Watch) -> Result<Point> {
        let request = json!({
            "verb": "watch", "address": address, "size": size_bytes,
            "read": watch != Watch::Write, "write": watch != Watch::Read,
        });
        number(&self.ask(&request)?).map(Point::Watch)
    }

    fn delete(&mut self, point: Point) -> Result<()> {
        let request = match point {
            Point::Break(number) => json!({"verb": "delete_break", "number": number}),
            Point::Watch(number) => json!({"verb": "delete_watch", "number": number}),
        };
        self.ask(&request).map(drop)
    }

    fn resume(&mut self) -> Result<()> {
        self.ask(&json!({"verb": "resume"})).map(drop)
    }

    fn wait_stop(&mut self, limit: Duration) -> Result<Stop> {
        let request = json!({"verb": "wait_stop", "limit": limit.as_secs_f64()});
        stop(&self.request(&request, limit + LIMIT)?)
    }

    fn interrupt(&mut self) -> Result<()> {
        self.ask(&json!({"verb": "interrupt"})).map(drop)
    }

    fn step(&mut self) -> Result<Stop> {
        self.ask(&json!({"verb": "step"}))?;
        self.wait_stop(LIMIT)
    }

    fn step_many(&mut self, count: u32) -> Result<Stop> {
        let limit = LIMIT.as_secs();
        let request = json!({"verb": "step_many", "count": count, "limit": limit});
        stop(&self.request(&request, LIMIT * 2)?)
    }

    fn start_step(&mut self) -> Result<()> {
        self.ask(&json!({"verb": "step"})).map(drop)
    }

    fn start_next(&mut self) -> Result<()> {
        self.ask(&json!({"verb": "start_next"})).map(drop)
    }

    fn select(&mut self, thread: u64) -> Result<()> {
        self.ask(&json!({"verb": "select", "thread": thread}))
            .map(drop)
    }

    fn threads(&mut self) -> Result<Vec<Thread>> {
        let found = self.ask(&json!({"verb": "threads"}))?;
        let one = |value: &Value| {
            Ok(Thread {
                number: number_at(value, "number")?,
                pc: Some(number_at(value, "pc")?),
                function: function(value),
                details: text(value, "details")?.to_owned(),
            })
        };
        found.as_array().into_iter().flatten().map(one).collect()
    }

    fn backtrace(&mut self, limit: usize) -> Result<Vec<Frame>> {
        let found = self.ask(&json!({"verb": "backtrace", "limit": limit}))?;
        let one = |value: &Value| {
            Ok(Frame {
                pc: number_at(value, "pc")?,
                function: function(value),
            })
        };
        found.as_array().into_iter().flatten().map(one).collect()
    }

    fn register(&mut self, name: &str) -> Result<u64> {
        number(&self.ask(&json!({"verb": "register", "name": name}))?)
    }

    fn set_register(&mut self, name: &str, value: u64) -> Result<()> {
        self.ask(&json!({"verb": "set_register", "name": name, "value": value}))
            .map(drop)
    }

    fn read(&mut self, address: u64, length_bytes: usize) -> Result<Memory> {
        let request = json!({"verb": "read", "address": address, "length": length_bytes});
        let found = self.ask(&request)?;
        let bytes = bytes(found.as_str().context("no bytes")?)?;
        Ok(Memory { bytes })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let digits = digits(bytes);
        self.ask(&json!({"verb": "write", "address": address, "digits": digits}))
            .map(drop)
    }

    fn monitor(&mut self, command: &str) -> Result<String> {
        self.console(&format!("process plugin packet monitor {command}"))
    }

    fn console(&mut self, command: &str) -> Result<String> {
        let printed = self.ask(&json!({"verb": "command", "command": command}))?;
        Ok(printed.as_str().unwrap_or_default().to_owned())
    }

    fn instruction_after(&mut self, address: u64) -> Result<u64> {
        number(&self.ask(&json!({"verb": "instruction_after", "address": address}))?)
    }

    fn packets(&self) -> Result<String> {
        let bytes = std::fs::read(&self.packets)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn detach(&mut self) -> Result<()> {
        self.ask(&json!({"verb": "detach"})).map(drop)
    }

    fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.wait(LIMIT).map(drop)
    }
}

fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("{value} is no number"))
}

fn function(value: &Value) -> Option<String> {
    value.get("function")?.as_str().map(str::to_owned)
}

/// Reads the driver's description of a stop.
fn stop(value: &Value) -> Result<Stop> {
    let reason = value.get("reason").context("a stop without a reason")?;
    let name = || text(reason, "name").map(str::to_owned);
    let reason = match text(reason, "kind")? {
        "break" => Reason::Hit(Point::Break(number_at(reason, "number")?)),
        "watch" => Reason::Hit(Point::Watch(number_at(reason, "number")?)),
        "step" => Reason::Step,
        "signal" => Reason::Signal(name()?),
        "exited" => Reason::Exited(number_at(reason, "code")?),
        "none" => Reason::None,
        _ => Reason::Ended(name()?),
    };
    Ok(Stop {
        reason,
        thread: number_at(value, "thread")?,
        pc: number_at(value, "pc")?,
        function: function(value),
        details: value
            .get("details")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
    })
}
