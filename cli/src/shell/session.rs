//! Carrying out lines, typed or read from a file.

use core::cell::RefCell;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use thiserror::Error;

use super::line::{self, Line};
use super::notices::{Notices, Waited};
use super::screen::{self, Screen};
use crate::client::{Client, ClientError};

/// How deep files may read files.
const MAX_SOURCE_DEPTH: usize = 16;

/// Whether to go on after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    Leave,
}

/// Why a line was not carried out.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The user has been told already.
    #[error("the command failed")]
    Told,
    /// A text for the user.
    #[error("{0}")]
    Text(String),
    /// The server, or the way to it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The screen.
    #[error("cannot write")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Returns whether nobody reads the output any more, as after `| head`.
    pub(super) fn is_closed_output(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Returns whether no further line can be carried out.
    pub(super) fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Client(ClientError::Gone { .. }) | Self::Output(_)
        )
    }
}

/// A connection with its screen.
#[derive(Debug)]
pub(super) struct Session {
    client: Rc<RefCell<Client>>,
    notices: Notices,
    screen: Screen,
    history: Vec<String>,
}

impl Session {
    pub(super) fn new(client: Rc<RefCell<Client>>, notices: Notices, screen: Screen) -> Self {
        Self {
            client,
            notices,
            screen,
            history: Vec::new(),
        }
    }

    /// Asks to be told of what happens to the guest. Returns what the server says of it now.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub(super) fn begin(&self) -> Result<String, ClientError> {
        let answer = self.client.borrow_mut().command("events on")?;
        let text = answer.text.trim_end();
        let state = text.split_once("; ").map_or(text, |(_, state)| state);
        self.notices.note_state(state);
        Ok(state.to_owned())
    }

    /// Keeps a line for the command `history`.
    pub(super) fn remember(&mut self, line: &str) {
        self.history.push(line.to_owned());
    }

    /// Carries out a line.
    ///
    /// # Errors
    /// As [`Failure`] says.
    pub(super) fn execute(&mut self, line: &str) -> Result<Flow, Failure> {
        self.execute_at(line, 0)
    }

    fn execute_at(&mut self, line: &str, depth: usize) -> Result<Flow, Failure> {
        match line::parse(line).map_err(Failure::Text)? {
            Line::Nothing => {}
            Line::Quit => return Ok(Flow::Leave),
            Line::History => self.screen.show(&numbered(&self.history))?,
            Line::Help => self.help()?,
            Line::HelpLocal(name) => self.screen.show(&help_local(name))?,
            Line::Source(path) => return self.source(&path, depth),
            Line::Wait(limit) => self.wait(limit)?,
            Line::Program(program) => {
                screen::run_program(program, None).map_err(|error| cannot_run(program, &error))?;
            }
            Line::Server { command, program } => self.serve(command, program)?,
        }
        Ok(Flow::Continue)
    }

    /// Has the server carry out a command, and shows what it says.
    fn serve(&mut self, command: &str, program: Option<&str>) -> Result<(), Failure> {
        let mut client = self.client.borrow_mut();
        let outcome = client.command(command)?;
        client.settle()?;
        drop(client);
        self.notices.note_answer(command, &outcome.text);
        let (output, failure) = match outcome.failure() {
            Some((output, failure)) => (output, Some(failure)),
            None => (outcome.text.as_str(), None),
        };
        match program {
            Some(program) => screen::run_program(program, Some(output))
                .map_err(|error| cannot_run(program, &error))?,
            None if output.is_empty() => {}
            None => self.screen.show(output)?,
        }
        match failure {
            Some(failure) => {
                self.screen.show_failure(failure)?;
                Err(Failure::Told)
            }
            None => Ok(()),
        }
    }

    fn help(&mut self) -> Result<(), Failure> {
        let outcome = self.client.borrow_mut().command("help")?;
        let width = line::LOCAL.iter().map(|local| usage(local).len()).max();
        let width = width.unwrap_or(0).max("COMMAND | PROGRAM".len());
        let mut text = format!("{}\nThis shell:\n", outcome.text);
        for local in &line::LOCAL {
            text.push_str(&format!("  {:width$}  {}\n", usage(local), local.summary));
        }
        text.push_str(line::HELP);
        Ok(self.screen.show(&text)?)
    }

    /// Carries out the lines of a file up to the first that fails.
    fn source(&mut self, path: &Path, depth: usize) -> Result<Flow, Failure> {
        let name = path.display();
        if depth >= MAX_SOURCE_DEPTH {
            let text =
                format!("{name}: {MAX_SOURCE_DEPTH} files read each other, which is too deep");
            return Err(Failure::Text(text));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::Text(format!("{name}: cannot read it: {error}")))?;
        for (number, line) in (1..).zip(text.lines()) {
            match self.execute_at(line, depth + 1) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Leave) => return Ok(Flow::Leave),
                Err(failure) if failure.is_final() => return Err(failure),
                Err(failure) => {
                    if !matches!(failure, Failure::Told) {
                        self.screen.show_failure(&format!("error: {failure}"))?;
                    }
                    let place = format!("{name}:{number}: '{}' failed", line.trim());
                    return Err(Failure::Text(place));
                }
            }
        }
        Ok(Flow::Continue)
    }

    /// Waits until the guest stops.
    fn wait(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        let give_up = self.client.borrow().give_up_flag();
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let goes_on = || !give_up.swap(false, Ordering::Relaxed);
        match self.notices.wait_for_stop(deadline, goes_on) {
            Waited::Stopped(Some(text)) => Ok(self.screen.show(&format!("{text}\n"))?),
            Waited::Stopped(None) => Ok(()),
            Waited::TimedOut => Err(Failure::Text("the guest still runs".into())),
            Waited::GivenUp => Err(Failure::Text("not waited for; the guest runs".into())),
            Waited::Gone => {
                let address = self.client.borrow().address().clone();
                Err(Failure::Client(ClientError::Gone { address }))
            }
        }
    }
}

fn usage(local: &line::Local) -> String {
    format!("{} {}", local.name, local.arguments)
        .trim_end()
        .to_owned()
}

fn help_local(name: &str) -> String {
    let local = line::LOCAL.iter().find(|local| local.name == name);
    local.map_or_else(String::new, |local| {
        format!("{}: {}\n", usage(local), local.summary)
    })
}

fn numbered(lines: &[String]) -> String {
    let numbered = (1..).zip(lines);
    numbered
        .map(|(number, line): (usize, &String)| format!("{number:5}  {line}\n"))
        .collect()
}

fn cannot_run(program: &str, error: &io::Error) -> Failure {
    Failure::Text(format!("'{program}' cannot be run: {error}"))
}
