//! What a line means to the shell itself. All that it does not know is a command of the server's.

use core::time::Duration;
use std::path::PathBuf;

/// Commands that the shell carries out itself, with what follows them and a line of help each.
pub(super) const LOCAL: [Local; 4] = [
    Local {
        name: "wait",
        arguments: "[SECONDS]",
        summary: "wait until the guest stops, and say where; for scripts",
    },
    Local {
        name: "source",
        arguments: "FILE",
        summary: "carry out the commands in FILE, up to the first that fails",
    },
    Local {
        name: "history",
        arguments: "",
        summary: "list the lines typed so far (Ctrl-R searches them)",
    },
    Local {
        name: "quit",
        arguments: "",
        summary: "leave, as Ctrl-D does; the guest runs on",
    },
];

/// What else the shell does, for its help.
pub(super) const HELP: &str = "\
  COMMAND | PROGRAM  show the output through a program, such as less or grep
  !PROGRAM           run a program
  Enter              repeat the last step or x
  Ctrl-C             stop the guest, or end the wait for an answer
  # ...              a comment
";

/// A command of the shell's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local {
    pub(super) name: &'static str,
    pub(super) arguments: &'static str,
    pub(super) summary: &'static str,
}

/// A line that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Nothing, or a comment.
    Nothing,
    Quit,
    History,
    /// The list of commands, the server's and the shell's own.
    Help,
    /// Help about a command of the shell's own.
    HelpLocal(&'static str),
    Source(PathBuf),
    Wait(Option<Duration>),
    /// A program of the user's.
    Program(&'a str),
    /// A command of the server's, and a program that its output goes through.
    Server {
        command: &'a str,
        program: Option<&'a str>,
    },
}

/// Returns what a line means.
///
/// # Errors
/// A text for the user, if a command of the shell's own is used wrongly.
pub(super) fn parse(line: &str) -> Result<Line<'_>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Line::Nothing);
    }
    if let Some(program) = line.strip_prefix('!') {
        return match program.trim() {
            "" => Err("a program is missing; usage: !PROGRAM".into()),
            program => Ok(Line::Program(program)),
        };
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match name {
        "quit" | "q" | "exit" => nothing_more(name, rest, Line::Quit),
        "history" => nothing_more(name, rest, Line::History),
        "source" if rest.is_empty() => Err("the file is missing; usage: source FILE".into()),
        "source" => Ok(Line::Source(rest.into())),
        "wait" => parse_wait(rest),
        "help" | "h" | "?" if rest.is_empty() => Ok(Line::Help),
        "help" | "h" | "?" if LOCAL.iter().any(|local| local.name == rest) => {
            let local = LOCAL.iter().find(|local| local.name == rest);
            Ok(local.map_or(Line::Help, |local| Line::HelpLocal(local.name)))
        }
        _ => parse_server(line),
    }
}

fn nothing_more<'a>(name: &str, rest: &str, line: Line<'a>) -> Result<Line<'a>, String> {
    match rest {
        "" => Ok(line),
        _ => Err(format!("'{name}' takes no arguments")),
    }
}

fn parse_wait(rest: &str) -> Result<Line<'_>, String> {
    if rest.is_empty() {
        return Ok(Line::Wait(None));
    }
    let limit = rest.parse().ok();
    match limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(limit) => Ok(Line::Wait(Some(limit))),
        None => Err(format!(
            "'{rest}' is no number of seconds; usage: wait [SECONDS]"
        )),
    }
}

fn parse_server(line: &str) -> Result<Line<'_>, String> {
    let (command, program) = match split_pipe(line) {
        Some((_, "")) => return Err("a program is missing after '|'".into()),
        Some((command, program)) => (command, Some(program)),
        None => (line, None),
    };
    if command.is_empty() {
        return Err("a command is missing before '|'".into());
    }
    Ok(Line::Server { command, program })
}

/// Splits a line at its first `|` that is not within quotation marks.
fn split_pipe(line: &str) -> Option<(&str, &str)> {
    let mut is_quoted = false;
    let at = line.char_indices().find_map(|(at, character)| {
        is_quoted ^= character == '"';
        (character == '|' && !is_quoted).then_some(at)
    })?;
    let (command, rest) = line.split_at_checked(at)?;
    Some((command.trim(), rest.trim_start_matches('|').trim()))
}

/// Returns whether an empty line repeats this one, as in GDB: the user is walking through code or
/// memory.
pub(super) fn is_repeatable(line: &str) -> bool {
    let name = line
        .split(|character: char| character.is_whitespace() || character == '/')
        .next();
    matches!(
        name,
        Some("s" | "st" | "ste" | "step" | "stepi" | "si" | "x" | "read")
    )
}

/// Returns the line that an empty line after `line` stands for: of memory, what follows is shown,
/// not the same again.
pub(super) fn repetition(line: &str) -> &str {
    let name_end = line.find(char::is_whitespace).unwrap_or(line.len());
    let (name, _) = line.split_at_checked(name_end).unwrap_or((line, ""));
    if name.starts_with('x') || name == "read" {
        name
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server<'a>(command: &'a str, program: Option<&'a str>) -> Result<Line<'a>, String> {
        Ok(Line::Server { command, program })
    }

    #[test]
    fn what_the_shell_does_not_know_goes_to_the_server() {
        assert_eq!(parse("  regs all "), server("regs all", None));
        assert_eq!(parse("help break"), server("help break", None));
        assert_eq!(parse("waiting"), server("waiting", None));
    }

    #[test]
    fn output_goes_through_a_program() {
        assert_eq!(parse("regs|less"), server("regs", Some("less")));
        assert_eq!(
            parse("regs | grep r1 | wc -l"),
            server("regs", Some("grep r1 | wc -l"))
        );
        let quoted = "write 0x10 \"a|b\"";
        assert_eq!(parse(quoted), server(quoted, None));
        assert!(parse("regs |").is_err());
        assert!(parse("| less").is_err());
    }

    #[test]
    fn the_shells_own_commands_are_known() {
        assert_eq!(parse(" # nothing"), Ok(Line::Nothing));
        assert_eq!(parse("q"), Ok(Line::Quit));
        assert_eq!(parse("?"), Ok(Line::Help));
        assert_eq!(parse("help wait"), Ok(Line::HelpLocal("wait")));
        assert_eq!(parse("source a b"), Ok(Line::Source("a b".into())));
        assert_eq!(parse("!ls -l"), Ok(Line::Program("ls -l")));
        let limit = Some(Duration::from_millis(1500));
        assert_eq!(parse("wait 1.5"), Ok(Line::Wait(limit)));
        for wrong in ["quit now", "source", "!", "wait -1", "wait soon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_empty_line_walks_on() {
        for (line, next) in [
            ("step 3", "step 3"),
            ("x/4gx rsp", "x/4gx"),
            ("read 0x1000 64", "read"),
        ] {
            assert!(is_repeatable(line));
            assert_eq!(repetition(line), next);
        }
        assert!(!is_repeatable("continue"));
        assert!(!is_repeatable("regs"));
    }
}
