//! `trapline shell`: a person's, or a script's, way to a debug server.
//!
//! Every command is carried out by the server, as GDB's `monitor` would have it: there is one
//! implementation of each. The shell adds what a terminal wants, line editing, history, completion
//! by the server, events above the prompt, pages, and what a script wants, plain output and an exit
//! status.

mod batch;
mod editor;
mod find;
mod interactive;
mod line;
mod notices;
mod prompt;
mod screen;
mod session;

use core::cell::RefCell;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::rc::Rc;

use clap::Args;
use trapline_server::ListenAddress;

use crate::client::{Client, parse_address};
use notices::Notices;
use screen::Screen;
use session::Session;

pub(crate) use find::only_server;

/// What `trapline shell --help` says at its end.
const AFTER_HELP: &str = "\
Type 'help' in the shell for its commands. Without a terminal, commands are read from the standard \
input; output is then plain, the first command that fails ends the shell, and the exit status is 1:
  trapline shell -c interrupt -c 'break do_sys_openat2' -c continue -c 'wait 10' -c regs
  echo vcpus | trapline shell tcp:localhost:1234";

/// Options of `trapline shell`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct ShellArguments {
    /// Where the server listens: unix:PATH, tcp:HOST:PORT, or just a path [default: your server, if
    /// there is one]
    #[arg(value_name = "ADDRESS", value_parser = parse_address)]
    address: Option<ListenAddress>,
    /// Carry out this command and leave; may be given more than once
    #[arg(short, long = "command", value_name = "COMMAND")]
    commands: Vec<String>,
}

/// Connects to the server and carries out commands.
///
/// # Errors
/// A text for the user.
pub(crate) fn main(arguments: &ShellArguments) -> anyhow::Result<ExitCode> {
    let address = match &arguments.address {
        Some(address) => address.clone(),
        None => only_server(&crate::runtime_folder())?,
    };
    let notices = Notices::default();
    let receiver = notices.clone();
    let client = Client::connect(&address, move |notice| receiver.receive(notice))?;
    let has_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if arguments.commands.is_empty() && has_terminal {
        return interactive::run(client, &notices);
    }
    let client = Rc::new(RefCell::new(client));
    let mut session = Session::new(client, notices, Screen::PLAIN);
    session.begin()?;
    if arguments.commands.is_empty() {
        batch::run(&mut session, batch::standard_input())
    } else {
        batch::run(&mut session, arguments.commands.iter().cloned().map(Ok))
    }
}
