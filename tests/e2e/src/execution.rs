//! What a board's processor has executed, by QEMU's own account.
//!
//! QEMU logs each block of code before it executes it, with the registers, and each exception. A block that is
//! executed in a single step has one instruction. Here the log is a pipe that is read whenever the guest has stopped, so
//! nothing piles up. QEMU writes the log and the serial port from the same thread: once a stop reply has come, all that was
//! executed before is in the pipe.
//!
//! Source: QEMU documentation, "Invocation", `-d`, `-D` and `-dfilter`; the lines are those of QEMU 10.0.

use core::{iter::Peekable, str::Lines};
use std::{
    fs::File,
    io::{ErrorKind, Read as _},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat, open},
    pipe::fcntl_setpipe_size,
};
use tempfile::TempDir;
use trapline_test_machine::{Board, Monitor};

use crate::{GuestBuilder, RunningGuest};

/// What is logged: blocks, registers and exceptions.
const ITEMS: &str = "exec,cpu,int";
/// No block leads straight to another, which would then not be logged. What comes first after an exception or an exception
/// return always is.
const ALL_BLOCKS: &str = "nochain";
/// How much of the log the pipe holds while nobody reads it, in bytes. A step writes some two thousand.
const PIPE_BYTES: usize = 1 << 20;
/// Software step is on, in the flags of a block (`TBFLAG_ANY` of QEMU's `target/arm`).
const FLAG_STEP_ACTIVE: u32 = 1 << 1;
/// The block's first instruction is to be executed before the step exception.
const FLAG_STEP_NOT_PENDING: u32 = 1 << 2;

/// A block's execution is about to begin: the registers before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The address of its first instruction.
    pub pc: u64,
    /// X0 to X30.
    pub general: [u64; 31],
    /// The stack pointer in use.
    pub sp: u64,
    /// PSTATE in the form of an SPSR, the step bit included.
    pub pstate: u64,
    /// The exception level.
    pub level: u8,
    /// How far it goes.
    pub stepping: Stepping,
}

/// How far a block goes, by the state of software step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepping {
    /// One instruction and the step exception: active, not pending.
    One,
    /// The step exception and no instruction: active, pending.
    None,
    /// As far as QEMU likes: inactive.
    Free,
}

/// An exception that was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// QEMU's name of it.
    pub name: String,
    /// The exception level it was taken from.
    pub from: u8,
    /// The exception level it was taken to.
    pub to: u8,
    /// The syndrome's exception class. It says nothing of an interrupt.
    pub class: u8,
    /// The saved PSTATE.
    pub spsr: u64,
    /// The address to return to.
    pub elr: u64,
    /// The vector's address.
    pub vector: u64,
}

impl Exception {
    /// Whether it is an interrupt or an `SError`, and no instruction's doing.
    #[must_use]
    pub fn is_asynchronous(&self) -> bool {
        let names = ["IRQ", "FIQ", "NMI", "SERR"];
        names.iter().any(|name| self.name.contains(name))
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// A block's execution is about to begin.
    Block(Box<Block>),
    /// It did not begin after all: something had come up.
    NotExecuted,
    /// An exception was taken.
    Exception(Exception),
}

impl GuestBuilder {
    /// On a board whose log leaves out blocks at other addresses than these: ranges `FIRST..LAST` between commas.
    #[must_use]
    pub fn logged(mut self, addresses: &str) -> Self {
        self.qemu = ["-dfilter", addresses].map(str::to_owned).into();
        self
    }
}

/// The log of a board's QEMU.
#[derive(Debug)]
pub struct ExecutionLog {
    monitor: Monitor,
    pipe: File,
    text: Vec<u8>,
    _directory: TempDir,
}

impl ExecutionLog {
    /// Makes a pipe for the log of a guest's board, which is off yet.
    ///
    /// # Errors
    /// When there is no pipe to be had, or no QEMU that answers.
    pub fn new(guest: &RunningGuest) -> Result<Self> {
        // The sockets of a board are in one directory.
        let socket = guest.socket().with_file_name(Board::MONITOR);
        let mut monitor = Monitor::connect(&socket)?;
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let pipe = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        fcntl_setpipe_size(&pipe, PIPE_BYTES)?;
        let said = monitor.human(&format!("logfile {}", path.display()))?;
        ensure!(said.is_empty(), "QEMU's logfile: {said}");
        Ok(Self {
            monitor,
            pipe: pipe.into(),
            text: Vec::new(),
            _directory: directory,
        })
    }

    /// Turns the log on, or changes what is in it. The guest must have stopped.
    ///
    /// # Errors
    /// When QEMU does not.
    pub fn turn_on(&mut self, detail: Detail) -> Result<()> {
        let (single, items) = match detail {
            Detail::Entries => ("off", ITEMS.to_owned()),
            Detail::EachInstruction => ("on", format!("{ITEMS},{ALL_BLOCKS}")),
        };
        for command in [format!("one-insn-per-tb {single}"), format!("log {items}")] {
            let said = self.monitor.human(&command)?;
            ensure!(said.is_empty(), "QEMU's {command}: {said}");
        }
        self.events().map(drop)
    }

    /// Turns the log off. The guest must have stopped.
    ///
    /// # Errors
    /// When QEMU does not.
    pub fn turn_off(&mut self) -> Result<()> {
        let said = self.monitor.human("log none")?;
        ensure!(said.is_empty(), "QEMU's log: {said}");
        Ok(())
    }

    /// Yields what was logged since the last call. The guest must have stopped.
    ///
    /// # Errors
    /// When the log is not as QEMU 10.0 writes it.
    pub fn events(&mut self) -> Result<Vec<TraceEvent>> {
        self.text.clear();
        match self.pipe.read_to_end(&mut self.text) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let text = str::from_utf8(&self.text)?;
        parse(text).with_context(|| format!("QEMU's log:\n{text}"))
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The first block after each exception and each exception return.
    Entries,
    /// Every instruction: QEMU makes no block of more than one, whatever the state of software step, and logs all. It takes
    /// its time for that.
    EachInstruction,
}

fn parse(text: &str) -> Result<Vec<TraceEvent>> {
    let mut events = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(line) = line.strip_prefix("Trace ") {
            let block = block(line, &mut lines)?;
            events.push(TraceEvent::Block(Box::new(block)));
        } else if line.starts_with("Stopped execution of TB") {
            events.push(TraceEvent::NotExecuted);
        } else if let Some(line) = line.strip_prefix("Taking exception ") {
            events.push(TraceEvent::Exception(exception(line, &mut lines)?));
        }
    }
    Ok(events)
}

/// `0: 0x7fa55c293e40 [00104004/0000000042000000/00001127/ff020200] NAME`, then the registers as ` PC=… X00=…` up to the line of
/// `PSTATE=602003c5 -ZC- EL1h …`.
fn block(line: &str, lines: &mut Peekable<Lines<'_>>) -> Result<Block> {
    let flags = line.split('/').nth(2).context("a block's flags")?;
    let flags = u32::from_str_radix(flags, 16)?;
    let is_active = flags & FLAG_STEP_ACTIVE != 0;
    let stepping = match (is_active, flags & FLAG_STEP_NOT_PENDING != 0) {
        (true, true) => Stepping::One,
        (true, false) => Stepping::None,
        (false, _) => Stepping::Free,
    };
    let (mut pc, mut sp, mut general) = (None, None, [None; 31]);
    for line in lines {
        if let Some(line) = line.strip_prefix("PSTATE=") {
            let pstate = line.split(' ').next().unwrap_or_default();
            let level = line.split_once(" EL").context("an exception level")?.1;
            let general: Option<Vec<u64>> = general.into_iter().collect();
            let general = general.context("all of X0 to X30")?;
            return Ok(Block {
                pc: pc.context("a pc")?,
                general: general.try_into().unwrap_or([0; 31]),
                sp: sp.context("a stack pointer")?,
                pstate: u64::from_str_radix(pstate, 16)?,
                level: level.get(..1).unwrap_or_default().parse()?,
                stepping,
            });
        }
        for (name, value) in line
            .split_ascii_whitespace()
            .filter_map(|pair| pair.split_once('='))
        {
            let value = Some(u64::from_str_radix(value, 16)?);
            match name {
                "PC" => pc = value,
                "SP" => sp = value,
                name => {
                    let number = name.strip_prefix('X').unwrap_or(name).parse::<usize>()?;
                    *general.get_mut(number).context("a register's number")? = value;
                }
            }
        }
    }
    anyhow::bail!("a block without PSTATE")
}

/// `3 [Prefetch Abort] on CPU 0`, then lines that begin with dots.
fn exception(line: &str, lines: &mut Peekable<Lines<'_>>) -> Result<Exception> {
    let name = line.split(['[', ']']).nth(1).context("a name")?;
    let mut exception = Exception {
        name: name.to_owned(),
        ..Exception::default()
    };
    while let Some(line) = lines.next_if(|line| line.starts_with("...")) {
        let words: Vec<_> = line.trim_start_matches('.').split(' ').collect();
        match words.as_slice() {
            ["from", from, "to", to] => {
                (exception.from, exception.to) = (level(from)?, level(to)?);
            }
            ["with", "ESR", value] => {
                let class = value.split('/').next().unwrap_or_default();
                exception.class = u8::try_from(number(class)?)?;
            }
            ["with", "SPSR", value] => exception.spsr = number(value)?,
            ["with", "ELR", value] => exception.elr = number(value)?,
            ["to", _, "PC", value, ..] => exception.vector = number(value)?,
            _ => {}
        }
    }
    Ok(exception)
}

fn level(text: &str) -> Result<u8> {
    Ok(text.strip_prefix("EL").context("a level")?.parse()?)
}

fn number(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").context("a number")?;
    Ok(u64::from_str_radix(digits, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> String {
        let mut text =
            " PC=0000000042000004 X00=0000000000000100 X01=0000000000000101\n".to_owned();
        for number in 2..31 {
            text += &format!("X{number:02}={:016x} ", 0x100 + number);
        }
        text + " SP=ffff000000001000\nPSTATE=602003c5 -ZC- EL1h  SVCR=00000000 --  BTYPE=0\n"
    }

    #[test]
    fn a_block_has_its_registers_and_how_far_it_goes() {
        for (flags, stepping) in [
            ("00001127", Stepping::One),
            ("00001123", Stepping::None),
            ("00001121", Stepping::Free),
        ] {
            let text = format!(
                "Trace 0: 0x7fa55c293e40 [00104004/0000000042000004/{flags}/ff020200] \n{}",
                registers()
            );
            let events = parse(&text).unwrap();
            let [TraceEvent::Block(block)] = events.as_slice() else {
                panic!("{events:?}")
            };
            assert_eq!(block.stepping, stepping);
            assert_eq!((block.pc, block.sp), (0x4200_0004, 0xffff_0000_0000_1000));
            assert_eq!((block.pstate, block.level), (0x6020_03c5, 1));
            assert_eq!(
                block.general,
                core::array::from_fn(|number| 0x100 + number as u64)
            );
        }
    }

    #[test]
    fn an_exception_says_from_where_and_why() {
        let text = "Exception return from AArch64 EL2 to AArch64 EL1 PC 0x42000000\n\
            Taking exception 1 [Undefined Instruction] on CPU 0\n...from EL1 to EL2\n...with ESR 0x32/0xcb000022\n\
            ...with SPSR 0x600003c5\n...with ELR 0x42000004\n...to EL2 PC 0x40209400 PSTATE 0x23c9\n\
            Taking exception 5 [IRQ] on CPU 0\n...from EL0 to EL2\n\
            Stopped execution of TB chain before 0x7fa5 [0000000042000004] \n";
        let events = parse(text).unwrap();
        let [
            TraceEvent::Exception(step),
            TraceEvent::Exception(interrupt),
            TraceEvent::NotExecuted,
        ] = events.as_slice()
        else {
            panic!("{events:?}")
        };
        assert!(!step.is_asynchronous());
        assert_eq!((step.from, step.to, step.class), (1, 2, 0x32));
        assert_eq!((step.spsr, step.elr), (0x6000_03c5, 0x4200_0004));
        assert_eq!(step.vector, 0x4020_9400);
        assert!(interrupt.is_asynchronous());
        assert_eq!(interrupt.from, 0);
    }

    #[test]
    fn a_log_cut_short_is_an_error() {
        let text = format!("Trace 0: 0x7f [1/2/1127/3] \n{}", registers());
        let cut = text.find("PSTATE").unwrap();
        assert!(parse(text.get(..cut).unwrap()).is_err());
    }
}
