//! The verbs that scenarios are written in.

use core::{fmt, time::Duration};
use std::path::Path;

use anyhow::{Result, bail};

use crate::Names;

/// Which debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GDB.
    Gdb,
    /// LLDB.
    Lldb,
}

/// Where a breakpoint goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Exactly this address.
    Address(u64),
    /// A function, at the place where the debugger puts a breakpoint on it.
    Function(String),
}

/// What accesses a watchpoint reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Writes. GDB itself passes over writes that change nothing.
    Write,
    /// Reads.
    Read,
    /// Both.
    Access,
}

/// A breakpoint or watchpoint, by the debugger's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A breakpoint.
    Break(u64),
    /// A watchpoint.
    Watch(u64),
}

/// Why the guest is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A breakpoint or watchpoint of ours.
    Hit(Point),
    /// A step, or a range of them, is done.
    Step,
    /// A signal, by its name, such as `SIGINT`.
    Signal(String),
    /// The debugger gave no reason, as after connecting.
    None,
    /// The guest has ended with this exit code.
    Exited(u64),
    /// The guest was ended by a signal, or the connection is gone.
    Ended(String),
}

/// A stop as the debugger reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub reason: Reason,
    /// Which thread, counted from 1: the vCPU's number plus one.
    pub thread: u64,
    /// Where; 0 once the guest has ended.
    pub pc: u64,
    /// The function there, if the debugger has a name for it.
    pub function: Option<String>,
    /// The debugger's own words, for watch values and the like.
    pub details: String,
}

/// A vCPU as the debugger lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Counted from 1: the vCPU's number plus one.
    pub number: u64,
    /// Where it is, unless it runs.
    pub pc: Option<u64>,
    /// The function there.
    pub function: Option<String>,
    /// What else the debugger says of it.
    pub details: String,
}

/// A frame of a backtrace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where.
    pub pc: u64,
    /// The function there.
    pub function: Option<String>,
}

/// Guest memory that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What could be read from the start on; may be less than was asked for.
    pub bytes: Vec<u8>,
}

/// A debugger that is, or will be, connected to a guest.
///
/// Each verb waits for its effect but a resume, whose stop [`Debugger::wait_stop`] waits for.
pub trait Debugger: fmt::Debug {
    /// Which one it is.
    fn kind(&self) -> Kind;
    /// Takes an ELF image for the guest's symbols, which lies in memory `slide` bytes behind where it was
    /// linked. Before connecting.
    ///
    /// # Errors
    /// When the debugger refuses, is gone, or does not answer in time; as with every verb below.
    fn symbols(&mut self, image: &Path, slide: u64) -> Result<()>;
    /// Connects to a server's Unix socket and yields the stop it finds.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn connect(&mut self, socket: &Path) -> Result<Stop>;
    /// Sets a software breakpoint.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn break_at(&mut self, location: &Location) -> Result<Point>;
    /// Sets a hardware breakpoint.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn hbreak(&mut self, location: &Location) -> Result<Point>;
    /// Sets a breakpoint that stops only where an expression in C is true.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn condition(&mut self, point: Point, expression: &str) -> Result<()>;
    /// Watches `size_bytes` (1, 2, 4 or 8) at `address`.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn watch(&mut self, address: u64, size_bytes: u8, watch: Watch) -> Result<Point>;
    /// Removes a breakpoint or watchpoint.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn delete(&mut self, point: Point) -> Result<()>;
    /// Resumes all vCPUs.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn resume(&mut self) -> Result<()>;
    /// Waits for the stop that ends a resume.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`]; also when none comes within `limit`.
    fn wait_stop(&mut self, limit: Duration) -> Result<Stop>;
    /// Asks the guest to stop, as Ctrl-C does. [`Debugger::wait_stop`] yields the stop.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn interrupt(&mut self) -> Result<()>;
    /// Executes one instruction of the selected thread.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn step(&mut self) -> Result<Stop>;
    /// Executes `count` instructions of the selected thread, or fewer if something else stops it.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn step_many(&mut self, count: u32) -> Result<Stop>;
    /// Begins to execute one instruction and does not wait.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn start_step(&mut self) -> Result<()>;
    /// Begins to step to another source line, not into functions, and does not wait.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn start_next(&mut self) -> Result<()>;
    /// Selects a thread.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn select(&mut self, thread: u64) -> Result<()>;
    /// Lists the threads.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn threads(&mut self) -> Result<Vec<Thread>>;
    /// Lists the frames of the selected thread, at most `limit`.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn backtrace(&mut self, limit: usize) -> Result<Vec<Frame>>;
    /// Reads a register of the selected thread.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn register(&mut self, name: &str) -> Result<u64>;
    /// Reads all general registers and the flags, by name.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn registers(&mut self, names: &Names) -> Result<Vec<(&'static str, u64)>> {
        let flags = names.flags(self.kind());
        let all = names.general.iter().chain([&flags]);
        all.map(|name| Ok((*name, self.register(name)?))).collect()
    }
    /// Writes a register of the selected thread.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn set_register(&mut self, name: &str, value: u64) -> Result<()>;
    /// Reads memory through the selected thread.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`]; also when not even the first byte can be read.
    fn read(&mut self, address: u64, length_bytes: usize) -> Result<Memory>;
    /// Writes memory through the selected thread.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()>;
    /// Has the server carry out a command of its own and yields its answer.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn monitor(&mut self, command: &str) -> Result<String>;
    /// Has the debugger carry out a command as if typed, and yields what it prints.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn console(&mut self, command: &str) -> Result<String>;
    /// Returns the address of the instruction that follows the one at `address` in memory.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn instruction_after(&mut self, address: u64) -> Result<u64>;
    /// Everything that went over the connection so far, as the debugger logs it.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn packets(&self) -> Result<String>;
    /// Detaches; the guest runs on.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn detach(&mut self) -> Result<()>;
    /// Kills the debugger's process without a word to the server.
    ///
    /// # Errors
    /// When it has ended already.
    fn kill(&mut self) -> Result<()>;

    /// Resumes and waits for the stop.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`].
    fn cont(&mut self) -> Result<Stop> {
        self.resume()?;
        self.wait_stop(crate::LIMIT)
    }

    /// Resumes and expects a stop at `point`.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`]; also when the stop is another one.
    fn cont_to(&mut self, point: Point) -> Result<Stop> {
        let stop = self.cont()?;
        if stop.reason != Reason::Hit(point) {
            bail!("expected a stop at {point:?}, not {stop:?}");
        }
        Ok(stop)
    }

    /// Resumes until the guest powers itself off, which is a stop, and then to its end, which must
    /// be with exit code 0.
    ///
    /// # Errors
    /// As with [`Debugger::symbols`]; also when there is another stop.
    fn cont_to_end(&mut self) -> Result<()> {
        let stop = self.cont()?;
        if !matches!(&stop.reason, Reason::Signal(name) if name == "SIGTRAP") {
            bail!("expected the guest to power off, not {stop:?}");
        }
        let stop = self.cont()?;
        if stop.reason != Reason::Exited(0) {
            bail!("expected the guest's end, not {stop:?}");
        }
        Ok(())
    }

    /// Reads a little-endian number of 8 bytes.
    ///
    /// # Errors
    /// As with [`Debugger::read`].
    fn read_u64(&mut self, address: u64) -> Result<u64> {
        let memory = self.read(address, 8)?;
        match <[u8; 8]>::try_from(memory.bytes) {
            Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
            Err(bytes) => bail!("only {} bytes at {address:#x}", bytes.len()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gdb => "gdb",
            Self::Lldb => "lldb",
        })
    }
}

impl From<u64> for Location {
    fn from(address: u64) -> Self {
        Self::Address(address)
    }
}

impl From<&str> for Location {
    fn from(function: &str) -> Self {
        Self::Function(function.to_owned())
    }
}
