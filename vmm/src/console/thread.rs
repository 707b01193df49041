//! The thread that moves bytes between the serial port and the outside.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    thread::{self, JoinHandle},
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
/// How long the last output may take after the end, in polls of a tenth of a second.
const LAST_POLLS: usize = 10;

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
    fn run(mut self) {
        let mut polls_left = usize::MAX;
        while polls_left > 0 {
            let Ok(ready) = self.wait(polls_left < usize::MAX) else {
                break;
            };
            if ready.stop && polls_left == usize::MAX {
                polls_left = LAST_POLLS;
            }
            polls_left = polls_left.saturating_sub(usize::from(polls_left < usize::MAX));
            if ready.input {
                self.read_input();
            }
            self.input_taken.clear();
            self.feed_guest();
            self.refill();
            if ready.room {
                self.write_output();
            }
            let done = self.to_user.is_empty() && self.refill() == 0;
            if ready.stop && done {
                break;
            }
        }
        self.output.close();
    }

    /// Waits until something can be moved.
    fn wait(&self, ending: bool) -> io::Result<Ready> {
        let stop = self.stop.as_fd();
        let filled = self.output.filled().as_fd();
        let taken = self.input_taken.as_fd();
        let mut fds = vec![
            PollFd::from_borrowed_fd(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(taken, PollFlags::IN),
        ];
        let wants_input = self.to_guest.is_empty();
        let input = self.ends.input.as_ref().filter(|_| wants_input);
        let output = self
            .ends
            .output
            .as_ref()
            .filter(|_| !self.to_user.is_empty());
        if output.is_none() {
            fds.push(PollFd::from_borrowed_fd(filled, PollFlags::IN));
        }
        let input = input.map(|file| {
            fds.push(PollFd::from_borrowed_fd(file.as_fd(), PollFlags::IN));
            fds.len() - 1
        });
        let output = output.map(|file| {
            fds.push(PollFd::from_borrowed_fd(file.as_fd(), PollFlags::OUT));
            fds.len() - 1
        });
        let tenth = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        match poll(&mut fds, ending.then_some(&tenth)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok(Ready {
            input: input.is_some_and(happened),
            room: output.is_some_and(happened),
            stop: happened(0),
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
        // A terminal that is ready takes at least a little without blocking, but not any amount.
        let some = self
            .to_user
            .len()
            .min(if self.ends.escapes { 256 } else { CHUNK });
        match file.write(self.to_user.get(..some).unwrap_or_default()) {
            Ok(count) => drop(self.to_user.drain(..count.min(some))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.ends.output = None,
        }
    }
}
