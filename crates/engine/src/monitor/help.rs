//! `help`, `complete` and `version`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::commands::{self, Command, Completes, Family, Found, LOOKS, Needs};
use super::output::Table;
use super::{Call, Failure, fail, parse};
use crate::core::Context;

/// The most completions that are listed.
const MAX_COMPLETIONS: usize = 200;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        aliases: &[("h", ""), ("?", "")],
        arguments: "[COMMAND]",
        completes: &[Completes::Command],
        summary: "list the commands, or explain one",
        details: "A command may be shortened to any beginning that is no other's.\n\
            Addresses: 0x1000, 4096, 4K, ffffffff81000000 (16 digits are hexadecimal), a register\n\
            (rsp, $rip), a symbol (do_sys_openat2), and sums of these without spaces (rsp+8).\n\
            pc and sp are linear addresses in every mode; rip and rsp are what the registers hold.",
        family: Family::Session,
        needs: Needs::Nothing,
        run: help,
        ..LOOKS
    },
    Command {
        name: "version",
        summary: "show the version of the debug server",
        family: Family::Session,
        needs: Needs::Nothing,
        run: version,
        ..LOOKS
    },
    Command {
        name: "complete",
        arguments: "LINE",
        completes: &[Completes::Nothing],
        summary: "list the command lines that LINE may be completed to",
        details: "For shells. Commands, symbols, registers and fixed words are completed.",
        family: Family::Session,
        needs: Needs::Nothing,
        run: complete,
        ..LOOKS
    },
];

fn help(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let Some(name) = call.arguments.next() else {
        overview(call);
        return Ok(());
    };
    call.arguments.end()?;
    match commands::find(name) {
        Found::One(command, _) => explain(command, call),
        Found::None => return Err(fail!("there is no command '{name}'; 'help' lists them")),
        Found::Several(names) => return Err(fail!("'{name}' could be {}", names.join(", "))),
    }
    Ok(())
}

fn overview(call: &mut Call<'_, '_>) {
    let width = commands::all().map(|command| command.usage().len()).max();
    let width = width.unwrap_or(0);
    for (family, title) in Family::ALL {
        call.out.line(format_args!("{title}:"));
        for command in commands::all().filter(|command| command.family == family) {
            let usage = command.usage();
            let summary = command.summary;
            call.out.line(format_args!("  {usage:width$}  {summary}"));
        }
    }
    call.out
        .line("'help COMMAND' explains one; 'help help' tells how addresses are written.");
}

fn explain(command: &Command, call: &mut Call<'_, '_>) {
    let summary = command.summary;
    call.out
        .line(format_args!("{}: {summary}", command.usage()));
    if !command.details.is_empty() {
        call.out.line(command.details);
    }
    if command.aliases.is_empty() {
        return;
    }
    let alias = |(alias, preset): &(&str, &str)| match *preset {
        "" => (*alias).to_string(),
        preset => format!("{alias} (for '{} {preset}')", command.name),
    };
    let aliases: Vec<String> = command.aliases.iter().map(alias).collect();
    call.out.line(format_args!("Also: {}", aliases.join(", ")));
}

fn version(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    let mut table = Table::new(&["", ""]);
    table.row(["trapline".into(), env!("CARGO_PKG_VERSION").into()]);
    table.row([
        "host".into(),
        call.context.core.config.capabilities.host.into(),
    ]);
    table.write(&mut call.out);
    Ok(())
}

fn complete(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let line = call.arguments.take_rest();
    let (name, arguments) = parse::split_word(line);
    let is_name = !line.contains(char::is_whitespace);
    let completions = if is_name {
        command_names(name)
    } else {
        argument(name, arguments, call.context)
    };
    for completion in completions.iter().take(MAX_COMPLETIONS) {
        call.out.line(completion);
    }
    Ok(())
}

fn command_names(beginning: &str) -> Vec<String> {
    let mut names: Vec<String> = commands::all()
        .map(|command| command.name)
        .filter(|name| name.starts_with(beginning))
        .map(String::from)
        .collect();
    names.sort_unstable();
    names
}

/// Completes the last word of the arguments and returns whole lines.
fn argument(name: &str, arguments: &str, context: &Context<'_>) -> Vec<String> {
    let Found::One(command, _) = commands::find(name) else {
        return Vec::new();
    };
    let (before, word) = arguments
        .rsplit_once(char::is_whitespace)
        .unwrap_or(("", arguments));
    let position = before.split_whitespace().count();
    let kind = command.completes.get(position).or(command.completes.last());
    // Only the last term of a sum is completed.
    let term = word
        .rfind(['+', '-'])
        .map_or(0, |sign| sign.saturating_add(1));
    let (kept, beginning) = word.split_at_checked(term).unwrap_or(("", word));
    let found = match kind {
        Some(Completes::Address) => symbols_and_registers(beginning, context),
        Some(Completes::Register) => registers(beginning, context),
        Some(Completes::Command) => command_names(beginning),
        Some(Completes::Words(words)) => words
            .iter()
            .filter(|word| word.starts_with(beginning))
            .map(|word| String::from(*word))
            .collect(),
        Some(Completes::Nothing) | None => Vec::new(),
    };
    let separator = if before.is_empty() { "" } else { " " };
    found
        .iter()
        .map(|found| format!("{name} {before}{separator}{kept}{found}"))
        .collect()
}

fn symbols_and_registers(beginning: &str, context: &Context<'_>) -> Vec<String> {
    if beginning.is_empty() {
        return Vec::new();
    }
    let mut found = registers(beginning, context);
    if !beginning.starts_with('$') {
        let os = context.core.os.as_ref();
        found.extend(
            os.map(|os| os.complete(beginning, MAX_COMPLETIONS))
                .unwrap_or_default(),
        );
    }
    found
}

fn registers(beginning: &str, context: &Context<'_>) -> Vec<String> {
    let (sign, beginning) = match beginning.strip_prefix('$') {
        Some(rest) => ("$", rest),
        None => ("", beginning),
    };
    let table = context.core.config.architecture.registers();
    table
        .iter()
        .filter(|register| register.name.starts_with(beginning))
        .map(|register| format!("{sign}{}", register.name))
        .collect()
}
