//! Line editing: completion by the server, hints and colours.

use core::cell::{OnceCell, RefCell};
use core::time::Duration;
use std::borrow::Cow;
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::{Completer, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{ColorMode, CompletionType, Config, Context, Editor, Helper, Result};

use super::line;
use super::screen::{Role, Screen};
use crate::client::Client;

/// How long the user is kept waiting for completions. Nothing can be typed meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many lines are remembered.
const MAX_HISTORY: usize = 2000;

/// What the editor asks while a line is typed.
pub(super) struct Assistant {
    client: Rc<RefCell<Client>>,
    screen: Screen,
    history: HistoryHinter,
    /// The server's commands with their arguments, as its help shows them.
    usages: OnceCell<Vec<String>>,
}

pub(super) type LineEditor = Editor<Assistant, FileHistory>;

/// Creates the editor.
///
/// # Errors
/// The editor's, if the terminal cannot be used.
pub(super) fn new(client: Rc<RefCell<Client>>, screen: Screen) -> Result<LineEditor> {
    let colours = if screen.has_colours() {
        ColorMode::Enabled
    } else {
        ColorMode::Disabled
    };
    let config = Config::builder()
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .max_history_size(MAX_HISTORY)?
        .completion_type(CompletionType::List)
        .color_mode(colours)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Assistant {
        client,
        screen,
        history: HistoryHinter::default(),
        usages: OnceCell::new(),
    }));
    Ok(editor)
}

/// Returns the file of the lines typed in earlier sessions (XDG Base Directory Specification,
/// `XDG_STATE_HOME`). Its folder is made if need be; without one nothing is remembered.
pub(super) fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = set("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")))?;
    let folder = state.join("trapline");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

impl Assistant {
    /// Asks the server something that must not keep the user waiting. No answer is no help.
    fn ask(&self, command: &str) -> String {
        let Ok(mut client) = self.client.try_borrow_mut() else {
            return String::new();
        };
        client.set_patience(Some(PATIENCE));
        let answer = client.command(command);
        client.set_patience(None);
        match answer {
            Ok(outcome) if outcome.failure().is_none() => outcome.text,
            _ => String::new(),
        }
    }

    /// Returns the arguments of the command that was typed, with a space before them.
    fn arguments(&self, line: &str) -> Option<String> {
        let name = line.strip_suffix(' ')?;
        if name.is_empty() || name.contains(' ') {
            return None;
        }
        let usages = self.usages.get_or_init(|| usages(&self.ask("help")));
        let usage = usages.iter().find_map(|usage| {
            let rest = usage.strip_prefix(name)?;
            rest.strip_prefix(' ')
        });
        usage.map(str::to_owned)
    }
}

/// Reads the commands with their arguments from the server's help: indented lines, the usage
/// divided from the rest by two spaces.
fn usages(help: &str) -> Vec<String> {
    let indented = help.lines().filter_map(|line| line.strip_prefix("  "));
    let server = indented.filter_map(|line| Some(line.split_once("  ")?.0.to_owned()));
    let local = line::LOCAL
        .iter()
        .map(|local| format!("{} {}", local.name, local.arguments));
    server.chain(local).collect()
}

/// Returns the words that the last word of `line` may be completed to, from the lines that the
/// server offers. An offer for another word than the last is none.
fn last_words(line: &str, offers: &str) -> Vec<String> {
    let position = line.split_whitespace().count() + usize::from(ends_word(line));
    let words = offers
        .lines()
        .filter(|offer| offer.split_whitespace().count() == position.max(1))
        .filter_map(|offer| offer.split_whitespace().next_back());
    words.map(str::to_owned).collect()
}

/// Returns whether a new word begins after `line`.
fn ends_word(line: &str) -> bool {
    line.ends_with(char::is_whitespace)
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let typed = line.get(..pos).unwrap_or(line);
        let start = typed
            .rfind(char::is_whitespace)
            .map_or(0, |space| space.saturating_add(1));
        let mut words = last_words(
            typed,
            &self.ask(&format!("complete {}", typed.trim_start())),
        );
        if start == 0 {
            let own = line::LOCAL.iter().map(|local| local.name);
            words.extend(own.filter(|name| name.starts_with(typed)).map(String::from));
        }
        words.sort_unstable();
        let is_only = words.len() == 1;
        let pair = |word: String| Pair {
            replacement: format!("{word}{}", if is_only { " " } else { "" }),
            display: word,
        };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, context: &Context<'_>) -> Option<String> {
        if pos < line.len() {
            return None;
        }
        self.arguments(line)
            .or_else(|| self.history.hint(line, pos, context))
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(
        &'s self,
        prompt: &'p str,
        _is_default: bool,
    ) -> Cow<'b, str> {
        let role = if prompt.contains("running") {
            Role::Running
        } else {
            Role::Stopped
        };
        Cow::Owned(self.screen.paint(prompt, role))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.screen.paint(hint, Role::Hint))
    }

    fn highlight_char(&self, _: &str, _: usize, _: CmdKind) -> bool {
        false
    }
}

impl Validator for Assistant {}

impl Helper for Assistant {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_word_is_completed() {
        assert_eq!(
            last_words("br", "break\nbreakpoints\n"),
            ["break", "breakpoints"]
        );
        assert_eq!(
            last_words("break  do_sys", "break do_sys_open\nbreak do_sys_poll\n"),
            ["do_sys_open", "do_sys_poll"]
        );
        // The server completes the command's name here, not an argument.
        assert_eq!(last_words("break ", "break\nbreakpoints\n"), [""; 0]);
        assert_eq!(last_words("phys ", "phys on\nphys off\n"), ["on", "off"]);
        assert_eq!(last_words("", "break\ncontinue\n"), ["break", "continue"]);
    }

    #[test]
    fn usages_come_from_the_help() {
        let help =
            "Running:\n  step [COUNT]  execute\n  continue      let run\n'help X' explains.\n";
        let usages = usages(help);
        assert!(usages.contains(&"step [COUNT]".to_owned()));
        assert!(usages.contains(&"continue".to_owned()));
        assert!(usages.contains(&"source FILE".to_owned()));
    }
}
