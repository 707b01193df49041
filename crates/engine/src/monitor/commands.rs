//! The table of commands, and how a command is found by what was typed.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Call, Failure};

/// One command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Other names, each with the arguments it stands for, if any.
    pub(super) aliases: &'static [(&'static str, &'static str)],
    /// The arguments as the help shows them.
    pub(super) arguments: &'static str,
    /// What each argument is, for completion; the last one goes for all that follow.
    pub(super) completes: &'static [Completes],
    /// One line of help.
    pub(super) summary: &'static str,
    /// The rest of the help, of whole lines.
    pub(super) details: &'static str,
    pub(super) family: Family,
    pub(super) needs: Needs,
    pub(super) effect: Effect,
    /// Whether it takes a format after a slash.
    pub(super) takes_format: bool,
    pub(super) run: fn(&mut Call<'_, '_>) -> Result<(), Failure>,
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completes {
    /// A symbol or a register.
    Address,
    /// A register.
    Register,
    /// A command.
    Command,
    /// One of these words.
    Words(&'static [&'static str]),
    /// Nothing that could be completed.
    Nothing,
}

/// Under which title the help lists a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    State,
    Running,
    Points,
    Memory,
    Paging,
    Symbols,
    Session,
}

impl Family {
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::State, "The guest and its vCPUs"),
        (Self::Running, "Running"),
        (Self::Points, "Breakpoints and watchpoints"),
        (Self::Memory, "Memory and code"),
        (
            Self::Paging,
            "Address translation, descriptor tables and exceptions",
        ),
        (Self::Symbols, "Symbols"),
        (Self::Session, "This session"),
    ];
}

/// What state the vCPUs must be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Any: the command asks nothing of a vCPU.
    Nothing,
    /// All out of the guest, stopped or in a pause.
    Stopped,
}

/// What a command does to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing but, perhaps, a brief pause.
    Looks,
    /// It changes the guest or its course, which a read-only session may not.
    Changes,
}

/// A command that looks at stopped vCPUs: what most rows begin with.
pub(super) const LOOKS: Command = Command {
    name: "",
    aliases: &[],
    arguments: "",
    completes: &[],
    summary: "",
    details: "",
    family: Family::State,
    needs: Needs::Stopped,
    effect: Effect::Looks,
    takes_format: false,
    run: |_| Ok(()),
};

/// A command that changes stopped vCPUs or memory.
pub(super) const CHANGES: Command = Command {
    effect: Effect::Changes,
    ..LOOKS
};

/// Every command, family by family.
const TABLE: &[&[Command]] = &[
    super::info::COMMANDS,
    super::vcpus::COMMANDS,
    super::registers::COMMANDS,
    super::running::COMMANDS,
    super::points::COMMANDS,
    super::memory::COMMANDS,
    super::search::COMMANDS,
    super::disassembly::COMMANDS,
    super::paging::COMMANDS,
    super::tables::COMMANDS,
    super::vectors::COMMANDS,
    super::symbols::COMMANDS,
    super::settings::COMMANDS,
    super::help::COMMANDS,
];

impl Command {
    /// Returns the name with its arguments.
    pub(super) fn usage(&self) -> String {
        let format = if self.takes_format { "[/FORMAT]" } else { "" };
        let usage = format!("{}{format} {}", self.name, self.arguments);
        usage.trim_end().into()
    }
}

/// Returns every command.
pub(super) fn all() -> impl Iterator<Item = &'static Command> {
    TABLE.iter().flat_map(|family| family.iter())
}

/// What was found under a name.
pub(super) enum Found {
    /// A command, and the arguments that the name stands for.
    One(&'static Command, &'static str),
    None,
    /// The name is the beginning of these.
    Several(Vec<&'static str>),
}

/// Finds a command by its name, by another name of it, or by the beginning of its name if that is
/// no other's.
pub(super) fn find(name: &str) -> Found {
    let exact = all().find(|command| command.name == name);
    if let Some(command) = exact {
        return Found::One(command, "");
    }
    let alias = all().find_map(|command| {
        let alias = command.aliases.iter().find(|(alias, _)| *alias == name);
        alias.map(|(_, preset)| (command, *preset))
    });
    if let Some((command, preset)) = alias {
        return Found::One(command, preset);
    }
    let beginning: Vec<&'static Command> = all()
        .filter(|command| command.name.starts_with(name))
        .collect();
    match beginning.as_slice() {
        [] => Found::None,
        [one] => Found::One(one, ""),
        several => {
            let mut names: Vec<&'static str> = several.iter().map(|command| command.name).collect();
            names.sort_unstable();
            Found::Several(names)
        }
    }
}
