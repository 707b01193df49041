//! GDB over its machine interface.

mod mi;

use core::time::Duration;
use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    Debugger, Frame, Kind, LIMIT, Location, Memory, Point, Reason, Stop, Thread, Transcript, Watch,
    json::{bytes, digits, list, number, number_at, text},
};
use mi::Record;

/// What every session begins with.
const PREPARATION: [&str; 9] = [
    "-gdb-set confirm off",
    "-gdb-set pagination off",
    "-gdb-set width 0",
    "-gdb-set mi-async on",
    "-gdb-set tcp auto-retry off",
    // An emulated machine on a busy computer is slow to answer.
    "-gdb-set remotetimeout 60",
    "-gdb-set debuginfod enabled off",
    "-gdb-set auto-load no",
    "-gdb-set disassemble-next-line off",
];

/// A GDB process. Dropping it kills it.
#[derive(Debug)]
pub struct GdbSession {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    token: u64,
    stops: VecDeque<Value>,
    /// Why a resume came to nothing after all.
    failure: Option<String>,
    /// What a console command printed.
    printed: String,
    packets: PathBuf,
    transcript: Transcript,
}

impl GdbSession {
    /// Starts a GDB without anybody's start-up files.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(program: &Path, transcript: &Transcript) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["-nx", "-q", "--interpreter=mi3"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env("LC_ALL", "C.UTF-8")
            .spawn()
            .context("cannot start gdb")?;
        let input = child.stdin.take().context("gdb's input")?;
        let output = child.stdout.take().context("gdb's output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut session = Self {
            child,
            input,
            lines,
            token: 0,
            stops: VecDeque::new(),
            failure: None,
            printed: String::new(),
            packets: PathBuf::new(),
            transcript: transcript.clone(),
        };
        for command in PREPARATION {
            session.command(command)?;
        }
        let log = transcript.log("packets of gdb")?;
        session.command(&format!("-gdb-set remotelogfile {}", log.display()))?;
        session.packets = log;
        Ok(session)
    }

    /// Carries out a command of the machine interface and yields its results.
    ///
    /// # Errors
    /// With GDB's message when it refuses, and when it does not answer in time.
    pub fn command(&mut self, command: &str) -> Result<Value> {
        self.token += 1;
        let token = self.token;
        self.transcript.say("to gdb", command);
        writeln!(self.input, "{token}{command}").context("gdb is gone")?;
        let end = Instant::now() + LIMIT;
        loop {
            match self.next_record(end, command)? {
                Record::Result(found, class, results) if found == token => {
                    if class == "error" {
                        bail!("gdb refuses '{command}': {}", text(&results, "msg")?);
                    }
                    return Ok(results);
                }
                record => self.take(record),
            }
        }
    }

    /// Receives a record.
    fn next_record(&mut self, end: Instant, what_for: &str) -> Result<Record> {
        let left = end.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.transcript.say("gdb", &line);
                Record::parse(&line).with_context(|| format!("gdb said {line:?}"))
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                bail!("gdb does not come to an end with '{what_for}'")
            }
            Err(_) => bail!("gdb ended during '{what_for}'"),
        }
    }

    /// Keeps what was not waited for.
    fn take(&mut self, record: Record) {
        match record {
            Record::Async('*', class, results) if class == "stopped" => {
                self.stops.push_back(results);
            }
            // GDB plants breakpoints after it has answered that the guest runs.
            Record::Result(_, class, _) if class == "error" => {
                self.failure = Some(core::mem::take(&mut self.printed));
            }
            Record::Stream('~' | '@' | '&', text) => self.printed.push_str(&text),
            _ => {}
        }
    }

    fn insert(&mut self, options: &str, location: &Location) -> Result<Point> {
        let location = match location {
            Location::Address(address) => format!("*{address:#x}"),
            Location::Function(name) => name.clone(),
        };
        let results = self.command(&format!("-break-insert {options} {location}"))?;
        let breakpoint = results.get("bkpt").context("no breakpoint was made")?;
        Ok(Point::Break(number_at(breakpoint, "number")?))
    }

    fn resume_by(&mut self, command: &str) -> Result<()> {
        self.stops.clear();
        self.printed.clear();
        self.failure = None;
        self.command(command).map(drop)
    }
}

impl Debugger for GdbSession {
    fn kind(&self) -> Kind {
        Kind::Gdb
    }

    fn symbols(&mut self, image: &Path, slide: u64) -> Result<()> {
        let image = image.display();
        if slide == 0 {
            let command = format!("-file-exec-and-symbols {image}");
            return self.command(&command).map(drop);
        }
        self.console(&format!("symbol-file -o {slide:#x} {image}"))
            .map(drop)
    }

    fn connect(&mut self, socket: &Path) -> Result<Stop> {
        self.resume_by(&format!("-target-select remote {}", socket.display()))?;
        self.wait_stop(LIMIT)
    }

    fn break_at(&mut self, location: &Location) -> Result<Point> {
        self.insert("", location)
    }

    fn hbreak(&mut self, location: &Location) -> Result<Point> {
        self.insert("-h", location)
    }

    fn condition(&mut self, point: Point, expression: &str) -> Result<()> {
        self.command(&format!("-break-condition {} {expression}", id(point)))
            .map(drop)
    }

    fn watch(&mut self, address: u64, size_bytes: u8, watch: Watch) -> Result<Point> {
        let option = match watch {
            Watch::Write => "",
            Watch::Read => "-r",
            Watch::Access => "-a",
        };
        let kind = match size_bytes {
            1 => "char",
            2 => "short",
            4 => "int",
            _ => "long long",
        };
        let results = self.command(&format!(
            "-break-watch {option} \"*(unsigned {kind} *){address:#x}\""
        ))?;
        let keys = ["wpt", "hw-rwpt", "hw-awpt"];
        let made = keys.iter().find_map(|key| results.get(key));
        Ok(Point::Watch(number_at(
            made.context("no watchpoint was made")?,
            "number",
        )?))
    }

    fn delete(&mut self, point: Point) -> Result<()> {
        self.command(&format!("-break-delete {}", id(point)))
            .map(drop)
    }

    fn resume(&mut self) -> Result<()> {
        self.resume_by("-exec-continue")
    }

    fn wait_stop(&mut self, limit: Duration) -> Result<Stop> {
        let end = Instant::now() + limit;
        loop {
            if let Some(results) = self.stops.pop_front() {
                return stop(&results);
            }
            if let Some(failure) = self.failure.take() {
                bail!("gdb did not resume: {failure}");
            }
            let record = self.next_record(end, "waiting for a stop")?;
            self.take(record);
        }
    }

    fn interrupt(&mut self) -> Result<()> {
        self.command("-exec-interrupt").map(drop)
    }

    fn step(&mut self) -> Result<Stop> {
        self.resume_by("-exec-step-instruction")?;
        self.wait_stop(LIMIT)
    }

    fn step_many(&mut self, count: u32) -> Result<Stop> {
        self.resume_by(&format!("-interpreter-exec console \"stepi {count}\""))?;
        self.wait_stop(LIMIT)
    }

    fn start_step(&mut self) -> Result<()> {
        self.resume_by("-exec-step-instruction")
    }

    fn start_next(&mut self) -> Result<()> {
        self.resume_by("-exec-next")
    }

    fn select(&mut self, thread: u64) -> Result<()> {
        self.command(&format!("-thread-select {thread}")).map(drop)
    }

    fn threads(&mut self) -> Result<Vec<Thread>> {
        let results = self.command("-thread-info")?;
        let one = |value: &Value| {
            let frame = value.get("frame");
            Ok(Thread {
                number: number_at(value, "id")?,
                pc: frame.map(|frame| number_at(frame, "addr")).transpose()?,
                function: frame.and_then(function),
                details: value.to_string(),
            })
        };
        list(&results, "threads").iter().map(one).collect()
    }

    fn backtrace(&mut self, limit: usize) -> Result<Vec<Frame>> {
        let last = limit.saturating_sub(1);
        let results = self.command(&format!("-stack-list-frames 0 {last}"))?;
        let one = |value: &Value| {
            Ok(Frame {
                pc: number_at(value, "addr")?,
                function: function(value),
            })
        };
        list(&results, "stack").iter().map(one).collect()
    }

    fn register(&mut self, name: &str) -> Result<u64> {
        let results = self.command(&format!(
            "-data-evaluate-expression \"(unsigned long long)${name}\""
        ))?;
        number(text(&results, "value")?)
    }

    fn set_register(&mut self, name: &str, value: u64) -> Result<()> {
        self.command(&format!("-gdb-set var ${name} = {value:#x}"))
            .map(drop)
    }

    fn read(&mut self, address: u64, length_bytes: usize) -> Result<Memory> {
        let command = format!("-data-read-memory-bytes {address:#x} {length_bytes}");
        let results = self.command(&command)?;
        let mut found = Vec::new();
        for piece in list(&results, "memory") {
            if number_at(piece, "begin")? != address.wrapping_add(found.len() as u64) {
                break;
            }
            found.extend(bytes(text(piece, "contents")?)?);
        }
        if found.is_empty() {
            bail!("no memory at {address:#x}");
        }
        Ok(Memory { bytes: found })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        let digits = digits(bytes);
        self.command(&format!("-data-write-memory-bytes {address:#x} {digits}"))
            .map(drop)
    }

    fn monitor(&mut self, command: &str) -> Result<String> {
        self.console(&format!("monitor {command}"))
    }

    fn console(&mut self, command: &str) -> Result<String> {
        self.printed.clear();
        let quoted = command.replace('\\', "\\\\").replace('"', "\\\"");
        self.command(&format!("-interpreter-exec console \"{quoted}\""))?;
        Ok(core::mem::take(&mut self.printed))
    }

    fn instruction_after(&mut self, address: u64) -> Result<u64> {
        let end = address.wrapping_add(32);
        let results = self.command(&format!(
            "-data-disassemble -s {address:#x} -e {end:#x} -- 0"
        ))?;
        let second = list(&results, "asm_insns").get(1);
        number_at(second.context("no second instruction")?, "address")
    }

    fn packets(&self) -> Result<String> {
        let bytes = std::fs::read(&self.packets)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn detach(&mut self) -> Result<()> {
        self.command("-target-detach").map(drop)
    }

    fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for GdbSession {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn id(point: Point) -> u64 {
    match point {
        Point::Break(number) | Point::Watch(number) => number,
    }
}

fn function(frame: &Value) -> Option<String> {
    let name = frame.get("func")?.as_str()?;
    (name != "??").then(|| name.to_owned())
}

/// Reads the results of `*stopped`.
fn stop(results: &Value) -> Result<Stop> {
    let reason = match results.get("reason").and_then(Value::as_str) {
        None => Reason::None,
        Some("breakpoint-hit") => Reason::Hit(Point::Break(number_at(results, "bkptno")?)),
        Some(watch) if watch.ends_with("watchpoint-trigger") => {
            let keys = ["wpt", "hw-rwpt", "hw-awpt"];
            let found = keys.iter().find_map(|key| results.get(key));
            let found = found.context("a watchpoint without its number")?;
            Reason::Hit(Point::Watch(number_at(found, "number")?))
        }
        Some("end-stepping-range" | "function-finished" | "location-reached") => Reason::Step,
        Some("signal-received") => Reason::Signal(text(results, "signal-name")?.to_owned()),
        Some("exited-normally") => Reason::Exited(0),
        Some("exited") => {
            // GDB writes the code in octal.
            let code = text(results, "exit-code")?;
            Reason::Exited(u64::from_str_radix(code, 8)?)
        }
        Some(other) => Reason::Ended(other.to_owned()),
    };
    let frame = results.get("frame");
    Ok(Stop {
        reason,
        thread: results
            .get("thread-id")
            .map_or(Ok(0), |_| number_at(results, "thread-id"))?,
        pc: frame.map_or(Ok(0), |frame| number_at(frame, "addr"))?,
        function: frame.and_then(function),
        details: results.to_string(),
    })
}
