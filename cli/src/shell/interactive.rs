//! The shell on a terminal.

use core::cell::RefCell;
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::ExternalPrinter;
use rustyline::error::ReadlineError;
use signal_hook::consts::SIGINT;

use super::editor::{self, LineEditor};
use super::line;
use super::notices::Notices;
use super::prompt::LivePrompt;
use super::screen::{Role, Screen};
use super::session::{Failure, Flow, Session};
use crate::client::{Client, ClientError};

/// Ends bracketed paste, which the editor has turned on (xterm control sequences, "Bracketed Paste
/// Mode").
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// Reads lines and carries them out until the user leaves or the server is gone.
///
/// # Errors
/// The terminal's, or the connection's end.
pub(super) fn run(client: Client, notices: &Notices) -> anyhow::Result<ExitCode> {
    let screen = Screen::terminal();
    // While a command is carried out Ctrl-C is a signal; at the prompt it is a key.
    let give_up = client.give_up_flag();
    signal_hook::flag::register(SIGINT, Arc::clone(&give_up))?;
    let address = client.address().clone();
    let client = Rc::new(RefCell::new(client));
    let session = Session::new(Rc::clone(&client), notices.clone(), screen);
    let state = session.begin()?;
    screen.show(&format!(
        "{address}: {state}\n'help' lists the commands; Ctrl-C stops the guest, Ctrl-D leaves.\n"
    ))?;
    let mut editor = editor::new(client, screen).context("the terminal cannot be used")?;
    let history = editor::history_file();
    if let Some(path) = &history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    // Without a printer, as on a terminal that cannot move its cursor, events wait for the next
    // prompt.
    if let Ok(printer) = editor.create_external_printer() {
        let gone = ClientError::Gone { address };
        start_printing(printer, notices.clone(), screen, gone)?;
    }
    let mut desk = Desk {
        session,
        editor,
        history,
        notices: notices.clone(),
        screen,
        last: String::new(),
        give_up,
    };
    while desk.turn()? == Flow::Continue {}
    Ok(ExitCode::SUCCESS)
}

/// What a user on a terminal has before him.
struct Desk {
    session: Session,
    editor: LineEditor,
    /// The file of lines typed earlier.
    history: Option<PathBuf>,
    notices: Notices,
    screen: Screen,
    /// The last line, if an empty one repeats it.
    last: String,
    /// Set by Ctrl-C while a command is carried out.
    give_up: Arc<AtomicBool>,
}

impl Desk {
    /// Shows what has happened, reads a line and carries it out.
    fn turn(&mut self) -> anyhow::Result<Flow> {
        for event in self.notices.take_waiting() {
            self.screen.show_event(&event)?;
        }
        let Some(typed) = self.read()? else {
            return Ok(Flow::Leave);
        };
        let line = match typed.trim() {
            "" => line::repetition(&self.last).to_owned(),
            line => line.to_owned(),
        };
        let flow = match self.session.execute(&line) {
            Ok(flow) => flow,
            Err(Failure::Told) => Flow::Continue,
            Err(failure) if failure.is_final() => return Err(failure.into()),
            Err(failure) => {
                self.screen.show_failure(&format!("error: {failure}"))?;
                Flow::Continue
            }
        };
        self.last = if line::is_repeatable(&line) {
            line
        } else {
            String::new()
        };
        Ok(flow)
    }

    /// Reads a line. There is none when the user wants to leave.
    fn read(&mut self) -> anyhow::Result<Option<String>> {
        let prompt = LivePrompt::new(&self.notices);
        self.notices.set_at_prompt(true);
        // What came too late for the last command is not for the next.
        self.give_up.store(false, Ordering::Relaxed);
        let typed = self.editor.readline(&prompt);
        self.notices.set_at_prompt(false);
        match typed {
            Ok(line) => {
                self.remember(&line);
                Ok(Some(line))
            }
            Err(ReadlineError::Interrupted) if self.notices.state().is_running => {
                Ok(Some("interrupt".into()))
            }
            // What was typed is dropped, and nothing is repeated either: a comment.
            Err(ReadlineError::Interrupted) => Ok(Some("#".into())),
            Err(ReadlineError::Eof) => Ok(None),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }

    /// Keeps a line for this session and later ones. Each is written at once, so that several
    /// shells keep theirs in one file.
    fn remember(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        self.session.remember(line.trim());
        if let (Ok(true), Some(path)) = (self.editor.add_history_entry(line), &self.history) {
            // A history that cannot be written must not keep the user from working.
            let _ = self.editor.append_history(path);
        }
    }
}

/// Starts the thread that shows events above the prompt while the user types, and that ends the
/// program when the server is gone meanwhile: the editor waits for a key and nothing else.
fn start_printing(
    mut printer: impl ExternalPrinter + Send + 'static,
    notices: Notices,
    screen: Screen,
    gone: ClientError,
) -> anyhow::Result<()> {
    let original = tcgetattr(io::stdin()).context("the terminal cannot be used")?;
    let print = move || {
        loop {
            let (events, state) = notices.wait_at_prompt();
            for event in events {
                if printer
                    .print(screen.paint(&event, Role::Event) + "\n")
                    .is_err()
                {
                    return;
                }
            }
            if state.is_gone {
                leave(&original, &gone);
            }
        }
    };
    thread::Builder::new().name("events".into()).spawn(print)?;
    Ok(())
}

/// Ends the program from another thread than the one that waits for a key.
fn leave(original: &Termios, gone: &ClientError) -> ! {
    // Nothing more can be done about a terminal that has gone too.
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, original);
    print!("{BRACKETED_PASTE_OFF}");
    eprintln!("\ntrapline: {gone}");
    std::process::exit(1)
}
