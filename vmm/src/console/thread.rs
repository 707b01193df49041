//! The thread that moves bytes between the serial port and the outside.

use core::time::Duration;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use trapline_engine::GuestEnd;

use super::{ConsoleError, Output, terminal::RawMode};
use crate::{
    devices::{EndEvents, EndedBy, SerialPort},
    event::Event,
};

/// The escape character, Ctrl-A.
const ESCAPE: u8 = 1;
/// Bytes moved at a time.
const CHUNK: usize = 4096;
/// How long the last output may take after the end.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// The outside of a console.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// What the user types.
    pub(crate) input: Option<File>,
    /// What the guest writes.
    pub(crate) output: Option<File>,
    /// Whether Ctrl-A is special in the input.
    pub(crate) escapes: bool,
    /// What is only kept for as long as the console is open.
    pub(crate) _kept: Kept,
    /// The name of the pseudo-terminal.
    pub(crate) path: Option<PathBuf>,
}

/// What is only kept for as long as a console is open.
#[derive(Debug, Default)]
pub(crate) enum Kept {
    /// Nothing.
    #[default]
    Nothing,
    /// Raw mode of standard input.
    RawMode { _guard: RawMode },
    /// The terminal's end of a pseudo-terminal.
    Terminal { _descriptor: OwnedFd },
}

/// The running console. Dropping it writes what is left and gives the terminal back.
#[derive(Debug)]
pub(crate) struct ConsoleThread {
    stop: Event,
    thread: Option<JoinHandle<()>>,
    path: Option<PathBuf>,
}

impl ConsoleThread {
    /// Starts to move bytes.
    pub(crate) fn start(
        ends: Ends,
        serial: SerialPort,
        input_taken: Event,
        output: Output,
        end: EndEvents,
    ) -> Result<Self, ConsoleError> {
        let stop = Event::new()?;
        let path = ends.path.clone();
        if ends.input.is_none() && ends.output.is_none() {
            output.close();
            return Ok(Self {
                stop,
                thread: None,
                path,
            });
        }
        let mover = Mover {
            ends,
            serial,
            input_taken,
            output,
            end,
            stop: stop.try_clone()?,
            to_guest: Vec::new(),
            to_user: Vec::new(),
            escaped: false,
        };
        let thread = thread::Builder::new()
            .name("console".into())
            .spawn(move || mover.run())?;
        Ok(Self {
            stop,
            thread: Some(thread),
            path,
        })
    }

    /// Returns the name of the pseudo-terminal.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }
}

impl Drop for ConsoleThread {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic in it has been shown already.
            let _ = thread.join();
        }
    }
}

struct Mover {
    ends: Ends,
    serial: SerialPort,
    input_taken: Event,
    output: Output,
    end: EndEvents,
    stop: Event,
    /// Typed, but the serial port has no room yet.
    to_guest: Vec<u8>,
    /// Taken from the queue, but not written yet.
    to_user: Vec<u8>,
    /// The last byte typed was the escape character.
    escaped: bool,
}

/// What became ready.
struct Ready {
    input: bool,
    room: bool,
    stop: bool,
}

impl Mover {
    /// Moves bytes until the end is asked for, and then what is left, as long as it moves.
    fn run(mut self) {
        while !self.turn(None).unwrap_or(true) {}
        let patience = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let deadline = Instant::now() + LAST_OUTPUT;
        while self.refill() > 0 && Instant::now() < deadline {
            if self.turn(Some(&patience)).is_err() {
                break;
            }
        }
        self.output.close();
    }

    /// Waits until something can be moved, moves it, and says whether the end was asked for.
    fn turn(&mut self, patience: Option<&Timespec>) -> io::Result<bool> {
        let ready = self.wait(patience)?;
        if ready.input {
            self.read_input();
        }
        self.input_taken.clear();
        self.feed_guest();
        if ready.room {
            self.write_output();
        }
        self.refill();
        Ok(ready.stop)
    }

    /// Waits until something can be moved or the end is asked for; after the end, only for room and
    /// no longer than `patience`.
    fn wait(&self, patience: Option<&Timespec>) -> io::Result<Ready> {
        let mut fds = Vec::new();
        let mut watch = |descriptor, flags| {
            fds.push(PollFd::from_borrowed_fd(descriptor, flags));
            fds.len() - 1
        };
        let (mut stop, mut input) = (None, None);
        if patience.is_none() {
            stop = Some(watch(self.stop.as_fd(), PollFlags::IN));
            watch(self.input_taken.as_fd(), PollFlags::IN);
            if let Some(file) = self
                .ends
                .input
                .as_ref()
                .filter(|_| self.to_guest.is_empty())
            {
                input = Some(watch(file.as_fd(), PollFlags::IN));
            }
        }
        let waiting = self
            .ends
            .output
            .as_ref()
            .filter(|_| !self.to_user.is_empty());
        let room = waiting.map(|file| watch(file.as_fd(), PollFlags::OUT));
        if room.is_none() {
            watch(self.output.filled().as_fd(), PollFlags::IN);
        }
        match poll(&mut fds, patience) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |index: Option<usize>| {
            let fd = index.and_then(|index| fds.get(index));
            fd.is_some_and(|fd| !fd.revents().is_empty())
        };
        Ok(Ready {
            input: happened(input),
            room: happened(room),
            stop: happened(stop),
        })
    }

    /// Reads what was typed, and acts on escapes.
    fn read_input(&mut self) {
        let mut buffer = [0; 256];
        let read = self.ends.input.as_mut().map(|file| file.read(&mut buffer));
        match read {
            Some(Ok(0)) | None => self.ends.input = None,
            Some(Ok(count)) => {
                for byte in buffer.into_iter().take(count) {
                    self.take_typed(byte);
                }
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Some(Err(_)) => self.ends.input = None,
        }
    }

    fn take_typed(&mut self, byte: u8) {
        let escaped = core::mem::take(&mut self.escaped);
        match byte {
            b'x' if escaped => self.end.set(GuestEnd::PowerOff, None, EndedBy::Console),
            ESCAPE if self.ends.escapes && !escaped => self.escaped = true,
            _ => self.to_guest.push(byte),
        }
    }

    fn feed_guest(&mut self) {
        if !self.to_guest.is_empty() {
            let count = self.serial.receive(&self.to_guest);
            self.to_guest.drain(..count.min(self.to_guest.len()));
        }
    }

    /// Takes more from the queue if all before is written; returns how much there is to write.
    fn refill(&mut self) -> usize {
        if self.to_user.is_empty() {
            self.to_user = self.output.take(CHUNK);
        }
        if self.ends.output.is_none() {
            self.to_user.clear();
        }
        self.to_user.len()
    }

    /// Writes once; there is room for at least one byte.
    fn write_output(&mut self) {
        let Some(file) = &mut self.ends.output else {
            return;
        };
        match file.write(&self.to_user) {
            Ok(count) => drop(self.to_user.drain(..count.min(self.to_user.len()))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ends.output = None,
        }
    }
}
