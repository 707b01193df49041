//! `info`: what this host can do for a debugger, what runs in the guest, and who is connected. `log`:
//! what the hypervisor has said.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::commands::{self, Command, Completes, Effect, Family, Found, LOOKS, Needs};
use super::output::Table;
use super::{Call, Failure, fail, is_running, stops};
use crate::contract::{Capabilities, StepMethod};
use crate::core::Context;
use crate::session::{Access, SessionId};

pub(super) const COMMANDS: &[Command] = &[INFO, LOG];

const INFO: Command = Command {
    name: "info",
    aliases: &[("i", ""), ("status", "")],
    arguments: "[TOPIC]",
    completes: &[Completes::Command],
    summary: "show what the host can do, the guest's state and who is connected",
    details: "'info TOPIC' is the command TOPIC, for those who are used to it: 'info registers',\n\
        'info breakpoints', 'info threads', 'info symbols'.",
    family: Family::State,
    needs: Needs::Stopped,
    run: info,
    ..LOOKS
};

const LOG: Command = Command {
    name: "log",
    summary: "show what the hypervisor has said of itself",
    details: "A hypervisor on bare metal keeps its last messages, for its console is the guest's. Where a\n\
        program is the hypervisor there is no log here: its messages are where it was started.",
    family: Family::State,
    needs: Needs::Nothing,
    run: log,
    ..LOOKS
};

/// What kind of client a session is, as far as it has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ClientKind {
    #[default]
    Unknown,
    Gdb,
    Lldb,
    Shell,
}

impl ClientKind {
    fn name(self) -> &'static str {
        match self {
            Self::Unknown => "client",
            Self::Gdb => "GDB",
            Self::Lldb => "LLDB",
            Self::Shell => "shell",
        }
    }
}

/// Who is connected. The engine keeps it, because a session that is being served sees no other.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    sessions: BTreeMap<SessionId, (Access, ClientKind)>,
}

impl Roster {
    pub(crate) fn add(&mut self, id: SessionId, access: Access) {
        self.sessions.insert(id, (access, ClientKind::Unknown));
    }

    pub(crate) fn remove(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// Returns who is connected.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// Takes note of what a client has shown itself to be.
    pub(crate) fn note(&mut self, id: SessionId, kind: ClientKind) {
        if let Some((_, known)) = self.sessions.get_mut(&id) {
            *known = kind;
        }
    }

    /// Returns a session's number and kind, such as `session 2 (GDB)`.
    pub(super) fn describe(&self, id: SessionId) -> String {
        let kind = self.sessions.get(&id).map(|(_, kind)| kind.name());
        match kind {
            Some(kind) => format!("session {} ({kind})", id.0),
            None => format!("session {}", id.0),
        }
    }
}

fn info(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    if let Some(topic) = call.arguments.next() {
        return topic_of(topic, call);
    }
    let mut table = Table::new(&["", ""]);
    for (name, text) in summary(call.context) {
        table.row([name.into(), text]);
    }
    table.write(&mut call.out);
    let losses = losses(&call.context.core.config.capabilities);
    if !losses.is_empty() {
        call.out.line("\nNot to be had on this host:");
        for loss in losses {
            call.out.line(format_args!("  {loss}"));
        }
    }
    call.out.line("\nSessions:");
    sessions(call);
    Ok(())
}

fn log(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    let log = call.context.machine.log();
    let log = log.ok_or_else(|| fail!("this hypervisor keeps no log"))?;
    if log.is_empty() {
        call.out.line("nothing was said");
    }
    for line in log.lines() {
        call.out.line(line);
    }
    Ok(())
}

/// Carries out the command that a topic names.
fn topic_of(topic: &str, call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let shows = |command: &Command| command.effect == Effect::Looks && command.name != "info";
    match commands::find(topic) {
        Found::One(command, preset) if shows(command) => call.run(command, preset),
        Found::One(..) | Found::None => Err(fail!(
            "there is no topic '{topic}'; try 'info registers', 'info breakpoints' or 'help'"
        )),
        Found::Several(names) => Err(fail!("'{topic}' could be {}", names.join(", "))),
    }
}

fn summary(context: &mut Context<'_>) -> Vec<(&'static str, String)> {
    let config = &context.core.config;
    let capabilities = config.capabilities;
    let count = config.vcpu_count;
    let vcpus = if count == 1 {
        "1 vCPU".to_string()
    } else {
        format!("{count} vCPUs")
    };
    let architecture = config.architecture;
    let memory: u64 = context
        .machine
        .memory()
        .regions()
        .iter()
        .fold(0, |sum, region| region.len_bytes.saturating_add(sum));
    let os = context.core.os.as_ref().and_then(|os| os.description());
    let state = if is_running(context) {
        "running".into()
    } else {
        let stop = context.core.run.last_stop();
        stops::describe(stop, context)
    };
    let policy = if context.core.stays_stopped {
        "stays stopped"
    } else {
        "runs on"
    };
    Vec::from([
        ("host", capabilities.host.into()),
        (
            "guest",
            format!("{vcpus}, {architecture}, {} of memory", size(memory)),
        ),
        (
            "system",
            os.unwrap_or_else(|| "not known; 'symbols' says why".into()),
        ),
        ("state", state),
        ("single step", capabilities.step.to_string()),
        ("interrupts in a step", interrupts(&capabilities).into()),
        (
            "software breakpoints",
            yes_or_no(capabilities.software_breakpoints).into(),
        ),
        ("hardware slots", slots(&capabilities, context)),
        ("pauses", pauses(&capabilities).into()),
        (
            "when the last client goes",
            format!("a stopped guest {policy}"),
        ),
    ])
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn interrupts(capabilities: &Capabilities) -> &'static str {
    match (capabilities.step, capabilities.holds_interrupts) {
        (StepMethod::None, _) => "-",
        (_, true) => "held off",
        (_, false) => "may be taken",
    }
}

fn pauses(capabilities: &Capabilities) -> &'static str {
    if capabilities.hides_pauses {
        "the guest's clock is told of them"
    } else {
        "the guest's clock runs on"
    }
}

fn slots(capabilities: &Capabilities, context: &Context<'_>) -> String {
    let (breakpoints, watchpoints) = (capabilities.hardware_breakpoints, capabilities.watchpoints);
    let (used, _) = context.core.points.slot_usage();
    if capabilities.slots_are_shared && breakpoints == watchpoints {
        format!("{breakpoints} for breakpoints and watchpoints, {used} in use")
    } else {
        format!("{breakpoints} for breakpoints, {watchpoints} for watchpoints, {used} in use")
    }
}

/// Says for each absent capability what is lost without it.
fn losses(capabilities: &Capabilities) -> Vec<&'static str> {
    let checks = [
        (
            capabilities.step == StepMethod::None,
            "single steps: 'step', 'stepi', 'next' and 'finish' are refused, and a software \
             breakpoint cannot be passed",
        ),
        (
            capabilities.step != StepMethod::None && !capabilities.holds_interrupts,
            "holding interrupts off: a step may end in the guest's interrupt handler",
        ),
        (
            !capabilities.software_breakpoints,
            "software breakpoints: each breakpoint takes a hardware slot",
        ),
        (
            capabilities.hardware_breakpoints == 0,
            "hardware breakpoints: code that is not mapped yet cannot be waited for",
        ),
        (
            capabilities.watchpoints == 0,
            "watchpoints: accesses to data cannot be caught",
        ),
        (
            !capabilities.hides_pauses,
            "telling the guest's clock of a pause: its watchdogs may complain after a long stop",
        ),
    ];
    let lost = checks.into_iter().filter(|(is_lost, _)| *is_lost);
    lost.map(|(_, text)| text).collect()
}

fn sessions(call: &mut Call<'_, '_>) {
    let mut table = Table::new(&["", "session", "client", "access", "points"]);
    let shared = &call.context.core.monitor;
    for (&id, &(access, kind)) in &shared.roster.sessions {
        let mark = if id == call.session.id { "*" } else { "" };
        let access = match access {
            Access::Full => "full",
            Access::ReadOnly => "read-only",
        };
        let points = call.context.core.points.count_of(id);
        table.row([
            mark.into(),
            id.0.to_string(),
            kind.name().into(),
            access.into(),
            points.to_string(),
        ]);
    }
    table.write(&mut call.out);
}

/// Returns a number of bytes in the largest unit that leaves no fraction.
pub(super) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        let one = 1_u64 << shift;
        if bytes >= one && bytes.is_multiple_of(one) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}
