//! Where the shell writes: plain text, or a terminal with colours and a pager.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

/// How a program is started for a line that the user typed.
const SHELL: &str = "/bin/sh";

/// Escape sequences of the colours in use (ECMA-48, "SGR - Select Graphic Rendition").
const RESET: &str = "\x1b[0m";

/// What a piece of text is, which decides how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The prompt of a stopped guest.
    Stopped,
    /// The prompt of a running guest.
    Running,
    Failure,
    /// Something that happened by itself.
    Event,
    /// A suggestion that was not typed.
    Hint,
}

/// The user's screen, or whatever stands in for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    has_colours: bool,
    /// Somebody looks at it, so that long texts are shown page by page and failures stand where
    /// the output does.
    is_interactive: bool,
}

impl Screen {
    /// Plain text for a program or a file; failures go to the standard error output.
    pub(super) const PLAIN: Self = Self {
        has_colours: false,
        is_interactive: false,
    };

    /// A terminal, with colours unless the user does not want them (no-color.org) or it has none.
    pub(super) fn terminal() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self {
            has_colours: set("NO_COLOR").is_none() && !is_dumb && io::stdout().is_terminal(),
            is_interactive: true,
        }
    }

    pub(super) fn has_colours(self) -> bool {
        self.has_colours
    }

    /// Returns `text` as it looks on this screen.
    pub(super) fn paint(self, text: &str, role: Role) -> String {
        if !self.has_colours {
            return text.to_owned();
        }
        let colour = match role {
            Role::Stopped => "\x1b[1;32m",
            Role::Running => "\x1b[1;33m",
            Role::Failure => "\x1b[31m",
            Role::Event => "\x1b[36m",
            Role::Hint => "\x1b[90m",
        };
        format!("{colour}{text}{RESET}")
    }

    /// Shows a command's output.
    ///
    /// # Errors
    /// The operating system's, such as that nobody reads the output any more.
    pub(super) fn show(self, text: &str) -> io::Result<()> {
        if self.is_interactive && is_long(text) && page(text) {
            return Ok(());
        }
        write(text)
    }

    /// Shows why a command was not carried out.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn show_failure(self, text: &str) -> io::Result<()> {
        let text = text.trim_end();
        if self.is_interactive {
            return write(&format!("{}\n", self.paint(text, Role::Failure)));
        }
        writeln!(io::stderr(), "{text}")
    }

    /// Shows something that happened by itself.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn show_event(self, text: &str) -> io::Result<()> {
        write(&format!("{}\n", self.paint(text, Role::Event)))
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Runs a program of the user's, with `input` as what it reads, or with the terminal.
///
/// # Errors
/// The operating system's, if the program cannot be started.
pub(super) fn run_program(program: &str, input: Option<&str>) -> io::Result<()> {
    let mut command = Command::new(SHELL);
    command.args(["-c", program]);
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program may stop reading before the end, as `head` does.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait()?;
    Ok(())
}

/// Returns whether a text is longer than the terminal is high.
fn is_long(text: &str) -> bool {
    let Ok(size) = rustix::termios::tcgetwinsize(io::stdout()) else {
        return false;
    };
    let columns = usize::from(size.ws_col).max(1);
    let rows = text
        .lines()
        .map(|line| line.chars().count().div_ceil(columns).max(1))
        .sum::<usize>();
    size.ws_row > 0 && rows >= usize::from(size.ws_row)
}

/// Shows a text page by page, by the program that the user has chosen in `PAGER`. Returns whether
/// there is such a program.
fn page(text: &str) -> bool {
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".into());
    let name = pager.split_whitespace().next().unwrap_or_default();
    if name.is_empty() || name == "cat" || !is_in_path(name) {
        return false;
    }
    // The options that Git gives to `less` too: leave a short text on the screen, keep colours.
    let program = match std::env::var_os("LESS") {
        Some(_) => pager,
        None => format!("LESS=FRX {pager}"),
    };
    run_program(&program, Some(text)).is_ok()
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_escape_sequences() {
        assert_eq!(Screen::PLAIN.paint("error: x", Role::Failure), "error: x");
    }

    #[test]
    fn a_program_that_stops_reading_is_no_failure() {
        let long = "x\n".repeat(100_000);
        run_program("head -1 >/dev/null", Some(&long)).unwrap();
        run_program("exit 3", None).unwrap();
    }
}
