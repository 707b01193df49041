//! Commands in words, for GDB's `monitor`, LLDB's `process plugin packet monitor` and the shell:
//! one implementation for all three.
//!
//! A command is a row of a table ([`Command`]): its name, its arguments, its help and its handler.
//! Help, abbreviations and completion come from the same rows. There is one file per family of
//! commands, each with its own rows.
//!
//! A command is carried out while all vCPUs are out of the guest, stopped or in a brief pause, save
//! those that need no vCPU ([`Needs`]). `step` and `interrupt` are answered when the guest has
//! stopped ([`notify`]); all others at once.

mod commands;
mod disassembly;
mod help;
mod info;
mod memory;
pub(crate) mod notify;
mod output;
mod paging;
mod parse;
mod points;
mod registers;
mod running;
mod search;
mod settings;
mod stops;
mod symbols;
mod tables;
mod vcpus;
mod vectors;

#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;

use trapline_arch::{Architecture, Gva};

use crate::contract::{AccessError, VcpuId};
use crate::core::Context;
use crate::run_control::Phase;
use crate::session::{Access, Refusal, Session};

use commands::{Command, Effect, Found, Needs};
use output::Output;
use parse::Arguments;

pub(crate) use info::ClientKind;
pub(crate) use notify::State;
pub(crate) use running::steps_on;
pub(crate) use search::Finding;
pub(crate) use settings::LayoutChoice;

/// What the sessions share of this: it is part of the engine's core.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Numbers of breakpoints and watchpoints.
    pub(crate) numbers: points::Numbers,
    /// Who is connected.
    pub(crate) roster: info::Roster,
    /// Which registers new connections are shown.
    pub(crate) layout: LayoutChoice,
    /// Steps that are made as one.
    pub(crate) steps: Option<running::Steps>,
    /// The guest was resumed and nobody was told yet.
    pub(crate) announces_resume: bool,
}

impl Shared {
    pub(crate) fn new(layout: trapline_arch::LayoutKind) -> Self {
        Self {
            numbers: points::Numbers::default(),
            roster: info::Roster::default(),
            layout: LayoutChoice::Fixed(layout),
            steps: None,
            announces_resume: false,
        }
    }
}

/// Why a command did nothing: a text for the person who typed it.
#[derive(Debug)]
struct Failure(String);

/// Makes a [`Failure`] from a format.
macro_rules! fail {
    ($($text:tt)+) => { $crate::monitor::Failure(alloc::format!($($text)+)) };
}
use fail;

impl From<AccessError> for Failure {
    fn from(error: AccessError) -> Self {
        fail!("{error}")
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.message().into())
    }
}

/// What a command line came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// This text, at once.
    Text(String),
    /// None yet: the command goes on in another turn, from where [`Session::work`] says.
    Unfinished,
    /// A text that [`notify::tell_stop`] sends when the guest has stopped.
    Later,
}

/// A command being carried out.
struct Call<'a, 'm> {
    session: &'a mut Session,
    context: &'a mut Context<'m>,
    arguments: Arguments<'a>,
    /// What follows the name and a slash, as in `x/4gx`.
    format: &'a str,
    out: Output,
}

/// Returns whether a command can be carried out only while all vCPUs are out of the guest.
pub(crate) fn needs_stopped(line: &[u8]) -> bool {
    let Ok(line) = str::from_utf8(line) else {
        return false;
    };
    match commands::find(split(line).name) {
        Found::One(command, _) => command.needs == Needs::Stopped,
        Found::None | Found::Several(_) => false,
    }
}

/// Carries out one command line.
pub(crate) fn execute(session: &mut Session, line: &str, context: &mut Context<'_>) -> Reply {
    let mut call = Call {
        session,
        context,
        arguments: Arguments::new(""),
        format: "",
        out: Output::default(),
    };
    if let Err(Failure(message)) = call.dispatch(line) {
        call.out.last_line(format_args!("error: {message}"));
    }
    if call.session.monitor.is_deferred() {
        return Reply::Later;
    }
    if call.session.work.is_some() {
        return Reply::Unfinished;
    }
    Reply::Text(call.out.finish())
}

/// The parts of a command line.
struct Line<'a> {
    name: &'a str,
    format: &'a str,
    arguments: &'a str,
}

fn split(line: &str) -> Line<'_> {
    let (word, arguments) = parse::split_word(line);
    let (name, format) = word.split_once('/').unwrap_or((word, ""));
    Line {
        name,
        format,
        arguments,
    }
}

impl<'a> Call<'a, '_> {
    /// Refuses a command that shows what only one architecture has, and names its counterpart.
    fn require(&self, wanted: Architecture, what: &str, instead: &str) -> Result<(), Failure> {
        match self.context.core.config.architecture {
            own if own == wanted => Ok(()),
            other => Err(fail!("{other} has no {what}; {instead}")),
        }
    }

    fn dispatch(&mut self, line: &'a str) -> Result<(), Failure> {
        let Line {
            name,
            format,
            arguments,
        } = split(line);
        if name.is_empty() {
            return Err(fail!("no command was given; 'help' lists them"));
        }
        let (command, preset) = match commands::find(name) {
            Found::One(command, preset) => (command, preset),
            Found::None => return Err(fail!("there is no command '{name}'; 'help' lists them")),
            Found::Several(names) => {
                return Err(fail!("'{name}' could be {}", names.join(", ")));
            }
        };
        if command.effect == Effect::Changes && self.session.access == Access::ReadOnly {
            let name = command.name;
            return Err(fail!(
                "this session is read-only, so '{name}' is not allowed"
            ));
        }
        if !format.is_empty() && !command.takes_format {
            let name = command.name;
            return Err(fail!(
                "'{name}' takes no format; only 'x' does, as in x/4gx"
            ));
        }
        self.format = format;
        self.arguments = Arguments::new(arguments);
        self.run(command, preset)
    }

    fn run(&mut self, command: &Command, preset: &'static str) -> Result<(), Failure> {
        if !preset.is_empty() {
            self.arguments = Arguments::new(preset);
        }
        (command.run)(self).map_err(|Failure(message)| {
            Failure(format!("{message}{}", usage_hint(&message, command)))
        })
    }

    /// Returns the vCPU that the session's commands are about.
    fn vcpu(&self) -> VcpuId {
        let chosen = self.session.monitor.vcpu;
        chosen.unwrap_or(self.session.selected)
    }

    fn evaluate(&mut self, text: &str) -> Result<u64, Failure> {
        parse::expression(text, self.vcpu(), self.context)
    }

    /// Takes the next word as an address, which there must be.
    fn need_address(&mut self) -> Result<u64, Failure> {
        let text = self.arguments.need("the address")?;
        self.evaluate(text)
    }

    /// Takes the next word as an address, if there is one.
    fn optional_address(&mut self) -> Result<Option<u64>, Failure> {
        match self.arguments.next() {
            Some(text) => self.evaluate(text).map(Some),
            None => Ok(None),
        }
    }

    /// Takes the next word as a number, if there is one. It may be an expression.
    fn optional_count(&mut self, what: &str) -> Result<Option<u64>, Failure> {
        match self.arguments.next() {
            Some(text) => parse::count(text, what).map(Some),
            None => Ok(None),
        }
    }

    /// Returns `name+0x10` for an address, or nothing.
    fn symbol(&self, address: Gva) -> String {
        symbols::name_of(address, self.context)
    }

    /// Refuses to go on while the guest runs for a client.
    fn need_stopped_guest(&self) -> Result<(), Failure> {
        if is_running(self.context) {
            return Err(fail!("the guest is running; 'interrupt' stops it"));
        }
        Ok(())
    }
}

/// How the command is used, where a message says that something is missing or too much.
fn usage_hint(message: &str, command: &Command) -> String {
    let is_about_words = message.ends_with("is missing") || message.ends_with("one word too many");
    if is_about_words {
        format!("; usage: {}", command.usage())
    } else {
        String::new()
    }
}

/// Returns whether the guest runs as far as clients are concerned, in a pause or not.
fn is_running(context: &Context<'_>) -> bool {
    context.core.run.phase() != Phase::Stopped
}
