//! `break`, `watch`, `delete`, `breakpoints`, and the numbers by which points are called.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::commands::{CHANGES, Command, Completes, Family, LOOKS};
use super::output::Table;
use super::{Call, Failure, fail, parse};
use crate::contract::WatchKind;
use crate::points::{MAX_POINTS, PointKey, PointKind, PointOwner, PointTable};
use crate::session::points::slots_short;

/// How many points have a number at most, planted or not: a debugger takes its breakpoints out at
/// each stop, and they keep theirs.
const MAX_NUMBERED: usize = 2 * MAX_POINTS;

/// The length of a watchpoint that says none: a pointer's.
const DEFAULT_WATCH_BYTES: u64 = 8;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "break",
        aliases: &[("b", ""), ("br", "")],
        arguments: "ADDR [hw]",
        completes: &[Completes::Address, Completes::Words(&["hw"])],
        summary: "set a breakpoint; 'hw' puts it into a hardware slot",
        details: "It stops the guest for every client, and goes when this session does.\n\
            Where nothing is mapped yet a hardware slot waits for the code.",
        family: Family::Points,
        run: set_break,
        ..CHANGES
    },
    Command {
        name: "watch",
        arguments: "ADDR [LEN] [r|w|a]",
        completes: &[Completes::Address, Completes::Words(&["r", "w", "a"])],
        summary: "stop when LEN bytes are read (r), written (w) or either (a)",
        details: "LEN is 8 if not given. Without r, w or a it is about writes. It stops the guest for\n\
            every client, and goes when this session does.",
        family: Family::Points,
        run: set_watch,
        ..CHANGES
    },
    Command {
        name: "delete",
        aliases: &[("d", "")],
        arguments: "NUMBER...|all",
        completes: &[Completes::Words(&["all"])],
        summary: "remove breakpoints and watchpoints of this session",
        details: "The numbers are those of 'breakpoints'. Those that a debugger has planted are removed\n\
            by that debugger.",
        family: Family::Points,
        run: delete,
        ..CHANGES
    },
    Command {
        name: "breakpoints",
        aliases: &[("points", ""), ("bl", "")],
        summary: "list the breakpoints and watchpoints of all clients",
        details: "A debugger's are listed while they are planted, which for GDB is while the guest\n\
            runs. 'stops' counts how often the guest was stopped by one.",
        family: Family::Points,
        run: list,
        ..LOOKS
    },
];

/// The numbers of points. A point keeps its number when it is removed and planted again.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    entries: BTreeMap<PointKey, Entry>,
    last: u32,
}

#[derive(Debug)]
struct Entry {
    number: u32,
    stops: u64,
}

impl Numbers {
    /// Returns the number of a point, which is given one if it has none.
    pub(super) fn number(&mut self, key: PointKey, table: &PointTable) -> u32 {
        self.entry(key, table).number
    }

    /// Counts a stop.
    pub(super) fn note_stop(&mut self, key: PointKey, table: &PointTable) {
        let entry = self.entry(key, table);
        entry.stops = entry.stops.saturating_add(1);
    }

    fn entry(&mut self, key: PointKey, table: &PointTable) -> &mut Entry {
        if self.entries.len() >= MAX_NUMBERED && !self.entries.contains_key(&key) {
            self.entries.retain(|key, _| table.contains(*key));
        }
        let last = &mut self.last;
        self.entries.entry(key).or_insert_with(|| {
            *last = last.wrapping_add(1);
            Entry {
                number: *last,
                stops: 0,
            }
        })
    }

    fn key(&self, number: u64) -> Option<PointKey> {
        let mut entries = self.entries.iter();
        entries
            .find(|(_, entry)| u64::from(entry.number) == number)
            .map(|(key, _)| *key)
    }
}

fn set_break(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = call.need_address()?;
    let kind = match call.arguments.next() {
        None => PointKind::SoftwareBreakpoint,
        Some("hw" | "hard" | "hardware") => PointKind::HardwareBreakpoint,
        Some(word) => {
            return Err(fail!(
                "'{word}' is no kind of breakpoint; 'hw' is the only one"
            ));
        }
    };
    call.arguments.end()?;
    insert(kind, address, 1, call)
}

fn set_watch(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = call.need_address()?;
    let (mut len, mut kind) = (None, None);
    while let Some(word) = call.arguments.next() {
        let named = match word {
            "w" | "write" => Some(WatchKind::Write),
            "r" | "read" => Some(WatchKind::Read),
            "a" | "rw" | "access" => Some(WatchKind::Access),
            _ => None,
        };
        match named {
            Some(_) if kind.is_none() => kind = named,
            None if len.is_none() => {
                let bytes = parse::number(word)
                    .ok_or_else(|| fail!("'{word}' is no length and none of r, w, a"))?;
                len = Some(bytes);
            }
            _ => return Err(fail!("'{word}' is one word too many")),
        }
    }
    let kind = PointKind::Watchpoint(kind.unwrap_or(WatchKind::Write));
    insert(kind, address, len.unwrap_or(DEFAULT_WATCH_BYTES), call)
}

fn insert(kind: PointKind, address: u64, len: u64, call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let vcpu = call.vcpu();
    let owner = PointOwner::Monitor(call.session.id);
    let key = call.context.point_key(vcpu, kind, Gva(address), len)?;
    call.session
        .insert(owner, vcpu, key, Vec::new(), call.context)?;
    let number = number_of(key, call);
    let symbol = call.symbol(key.address);
    let place = place(key, call);
    let what = describe(key);
    let address = key.address;
    let line = format!("{number}: {what} at {address} {symbol}");
    call.out.line(format_args!("{}, {place}", line.trim_end()));
    Ok(())
}

fn number_of(key: PointKey, call: &mut Call<'_, '_>) -> u32 {
    let core = &mut call.context.core;
    core.monitor.numbers.number(key, &core.points)
}

fn delete(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let first = call.arguments.need("the number")?;
    let owner = PointOwner::Monitor(call.session.id);
    if first == "all" {
        call.arguments.end()?;
        let count = call.context.core.points.release_owner(owner);
        let noun = if count == 1 { "point" } else { "points" };
        call.out.line(format_args!("{count} {noun} removed"));
        return Ok(());
    }
    let mut word = Some(first);
    while let Some(text) = word {
        let number = parse::count(text, "number of a breakpoint")?;
        let core = &mut call.context.core;
        let key = core.monitor.numbers.key(number);
        let key = key.filter(|key| core.points.contains(*key));
        let Some(key) = key else {
            return Err(fail!(
                "there is no breakpoint {number}; 'breakpoints' lists them"
            ));
        };
        if !core.points.remove(owner, key) {
            let owners = owners(key, call);
            return Err(fail!(
                "breakpoint {number} is not this session's but was set by {owners}, which has to \
                 remove it"
            ));
        }
        call.out.line(format_args!("{number} removed"));
        word = call.arguments.next();
    }
    Ok(())
}

fn list(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    let keys: Vec<PointKey> = call.context.core.points.keys().collect();
    if keys.is_empty() {
        call.out
            .line("there are none; 'break ADDR' and 'watch ADDR' set them");
        return Ok(());
    }
    let mut rows: Vec<(u32, PointKey)> = Vec::new();
    for key in keys {
        rows.push((number_of(key, call), key));
    }
    rows.sort_unstable();
    let mut table = Table::new(&[
        "",
        "kind",
        "address",
        "symbol",
        "stands in",
        "stops",
        "set by",
    ]);
    for (number, key) in rows {
        let core = &mut call.context.core;
        let stops = core.monitor.numbers.entry(key, &core.points).stops;
        let place = place(key, call);
        table.row([
            number.to_string(),
            describe(key),
            key.address.to_string(),
            call.symbol(key.address),
            place.trim_start_matches("in ").into(),
            stops.to_string(),
            owners(key, call),
        ]);
    }
    table.write(&mut call.out);
    if let Some((vcpu, count)) = slots_short(call.context) {
        call.out.line(format_args!(
            "not all are in force on {vcpu}: the guest has come to use {count} of its debug registers"
        ));
    }
    Ok(())
}

/// Returns what a point is.
fn describe(key: PointKey) -> String {
    let access = match key.kind {
        PointKind::SoftwareBreakpoint => return "breakpoint".into(),
        PointKind::HardwareBreakpoint => return "hardware breakpoint".into(),
        PointKind::Watchpoint(WatchKind::Write) => "write",
        PointKind::Watchpoint(WatchKind::Read) => "read",
        PointKind::Watchpoint(WatchKind::Access) => "access",
    };
    format!("{access} watchpoint, {} bytes", key.len)
}

/// Returns where a point stands.
fn place(key: PointKey, call: &Call<'_, '_>) -> String {
    let gpas = call.context.core.points.gpas_of(key);
    let gpas: Vec<String> = gpas.map(|gpa| gpa.to_string()).collect();
    if gpas.is_empty() {
        return "in a hardware slot".into();
    }
    format!("in memory at physical {}", gpas.join(" and "))
}

fn owners(key: PointKey, call: &Call<'_, '_>) -> String {
    let core = &call.context.core;
    let name = |owner: PointOwner| {
        let session = owner.session();
        let name = core.monitor.roster.describe(session);
        if session == call.session.id {
            format!("{name}, this one")
        } else {
            name
        }
    };
    let mut names: Vec<String> = core.points.owners(key).map(name).collect();
    names.dedup();
    names.join("; ")
}
