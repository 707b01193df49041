//! `translate`, `pt`, `map`, `memory`: from virtual to physical addresses.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trapline_arch::Gva;
use trapline_arch::x86_64::paging::{
    Entry, PageFlags, PagingMode, PagingState, Region, Step, TranslateError, Translation,
};

use super::commands::{Command, Completes, Family, LOOKS, Needs};
use super::info::size;
use super::output::Table;
use super::{Call, Failure};
use crate::contract::MemoryKind;

/// The most regions that `map` shows.
const MAX_REGIONS: usize = 64;

/// The most page-table entries that `map` goes through (rule S3).
const ENTRY_BUDGET: usize = 128 * 1024;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "translate",
        aliases: &[("v2p", ""), ("gva2gpa", "")],
        arguments: "ADDR",
        completes: &[Completes::Address],
        summary: "translate a virtual address to a guest-physical one",
        details: "By the chosen vCPU's own tables, or by the kernel's where the vCPU runs a user\n\
            process on tables that leave the kernel out.",
        family: Family::Paging,
        run: translate,
        ..LOOKS
    },
    Command {
        name: "pt",
        aliases: &[("walk", ""), ("ptwalk", "")],
        arguments: "ADDR",
        completes: &[Completes::Address],
        summary: "show each page-table entry on the way to a virtual address",
        details: "P present, RW writable, US open to user code, PWT, PCD memory type, A accessed, D dirty,\n\
            PS a large page, G global, NX not executable.",
        family: Family::Paging,
        run: walk,
        ..LOOKS
    },
    Command {
        name: "map",
        aliases: &[("regions", "")],
        arguments: "[ADDR]",
        completes: &[Completes::Address],
        summary: "list what is mapped, from an address on",
        family: Family::Paging,
        run: map,
        ..LOOKS
    },
    Command {
        name: "memory",
        summary: "list the regions of guest-physical memory",
        family: Family::Paging,
        needs: Needs::Nothing,
        run: memory,
        ..LOOKS
    },
];

fn translate(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = Gva(call.need_address()?);
    call.arguments.end()?;
    let vcpu = call.vcpu();
    let space = call.context.address_space(vcpu)?;
    let memory = call.context.machine.memory();
    let own = space.paging().translate(memory, address);
    let line = match own.or_else(|error| space.translate(memory, address).map_err(|_| error)) {
        Ok(page) => {
            let by = if own.is_ok() {
                ""
            } else {
                ", by the kernel's tables"
            };
            format!(
                "{address} is at physical {}: {}{by}",
                page.gpa,
                page_text(&page, space.paging())
            )
        }
        Err(error) => {
            let reason = reason(error, space.paging().mode());
            format!("{address} is not mapped: {reason}; 'pt {address}' shows the entries")
        }
    };
    call.out.line(line);
    Ok(())
}

fn walk(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.require_x86()?;
    let address = Gva(call.need_address()?);
    call.arguments.end()?;
    let vcpu = call.vcpu();
    let space = call.context.address_space(vcpu)?;
    let paging = space.paging();
    let root = paging.root().into_bits();
    let mode = mode_name(paging.mode());
    call.out.line(format_args!("{vcpu}, {mode}, cr3 {root:#x}"));
    let walk = paging.walk(call.context.machine.memory(), address);
    let mut table = Table::new(&["entry", "at physical", "value", "leads to", "flags"]);
    for step in &walk.steps {
        table.row([
            entry_name(step.level).into(),
            step.gpa.to_string(),
            format!("{:016x}", step.entry.into_bits()),
            leads_to(step, &walk.steps, walk.result.as_ref().ok()),
            flags(step.entry, step.level),
        ]);
    }
    if !walk.steps.is_empty() {
        table.write(&mut call.out);
    }
    let conclusion = match walk.result {
        Ok(page) => format!(
            "{address} is at physical {}: {}",
            page.gpa,
            page_text(&page, paging)
        ),
        Err(error) => format!("{address} is not mapped: {}", reason(error, paging.mode())),
    };
    call.out.line(conclusion);
    Ok(())
}

/// Returns where an entry points: to the next table, or to the page.
fn leads_to(step: &Step, steps: &[Step], page: Option<&Translation>) -> String {
    let is_last = steps.last() == Some(step);
    match page {
        _ if !step.entry.p() => "-".into(),
        Some(page) if is_last => {
            let start = page.gpa.align_down(page.page_size_bytes);
            format!("page {start}")
        }
        _ => format!("table {:#x}", step.entry.frame() << 12),
    }
}

/// Says why an address has no translation, in the manual's names.
fn reason(error: TranslateError, mode: PagingMode) -> String {
    match error {
        TranslateError::NonCanonical { .. } => {
            let bits = mode.linear_bits();
            format!("it does not fit {bits} bits, of which the highest is repeated above them")
        }
        TranslateError::NotPresent { level, .. } => {
            format!("the {} is not present", entry_name(level))
        }
        TranslateError::ReservedBit { level, .. } => {
            format!("the {} has reserved bits set", entry_name(level))
        }
        TranslateError::TableMissing { gpa, level } => {
            let name = entry_name(level);
            format!("there is no memory at physical {gpa}, where the {name} should be")
        }
    }
}

fn mode_name(mode: PagingMode) -> &'static str {
    match mode {
        PagingMode::None => "no paging: virtual addresses are physical ones",
        PagingMode::Bits32 { .. } => "32-bit paging",
        PagingMode::Pae => "PAE paging",
        PagingMode::FourLevel => "4-level paging",
        PagingMode::FiveLevel => "5-level paging",
    }
}

/// Returns the manual's name of an entry.
fn entry_name(level: u8) -> &'static str {
    match level {
        1 => "PTE",
        2 => "PDE",
        3 => "PDPTE",
        4 => "PML4E",
        _ => "PML5E",
    }
}

fn flags(entry: Entry, level: u8) -> String {
    let names = [
        (entry.p(), "P"),
        (entry.rw(), "RW"),
        (entry.us(), "US"),
        (entry.pwt(), "PWT"),
        (entry.pcd(), "PCD"),
        (entry.a(), "A"),
        (entry.d(), "D"),
        // In the lowest level the bit is of the memory type.
        (entry.ps(), if level == 1 { "PAT" } else { "PS" }),
        (entry.g(), "G"),
        (entry.nx(), "NX"),
    ];
    let set: Vec<&str> = names
        .into_iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, name)| name)
        .collect();
    set.join(" ")
}

/// Returns a page's size and who may do what with it.
fn page_text(page: &Translation, paging: &PagingState) -> String {
    if paging.mode() == PagingMode::None {
        return "no paging".into();
    }
    let mut text = format!(
        "{} page, {}",
        size(page.page_size_bytes),
        permissions(page.flags)
    );
    for (flag, name) in [
        (PageFlags::ACCESSED, "accessed"),
        (PageFlags::DIRTY, "dirty"),
        (PageFlags::GLOBAL, "global"),
    ] {
        if page.flags.contains(flag) {
            text.push_str(", ");
            text.push_str(name);
        }
    }
    text
}

fn permissions(flags: PageFlags) -> String {
    let write = if flags.contains(PageFlags::WRITABLE) {
        'w'
    } else {
        '-'
    };
    let execute = if flags.contains(PageFlags::EXECUTABLE) {
        'x'
    } else {
        '-'
    };
    let who = if flags.contains(PageFlags::USER) {
        "user"
    } else {
        "kernel"
    };
    format!("r{write}{execute} {who}")
}

fn map(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let start = Gva(call.optional_address()?.unwrap_or(0));
    call.arguments.end()?;
    let vcpu = call.vcpu();
    let space = call.context.address_space(vcpu)?;
    let memory = call.context.machine.memory();
    let mut regions =
        space
            .paging()
            .regions(memory, space.untag(start), Gva(u64::MAX), ENTRY_BUDGET);
    let mut shown: Vec<Region> = Vec::new();
    let mut next = None;
    for region in regions.by_ref() {
        if region.permissions.is_none() {
            continue;
        }
        if shown.len() == MAX_REGIONS {
            next = Some(region.start);
            break;
        }
        shown.push(region);
    }
    let next = next.or_else(|| regions.resume());
    drop(regions);
    write_map(&shown, call);
    match next {
        Some(next) => call
            .out
            .rest(format_args!("'map {next}' goes on from there")),
        None if shown.is_empty() => {
            call.out
                .line(format_args!("nothing is mapped from {start} on"));
        }
        None => {}
    }
    Ok(())
}

fn write_map(shown: &[Region], call: &mut Call<'_, '_>) {
    let mut table = Table::new(&["from", "to", "size", "access", "first symbol"]);
    for region in shown {
        let Some(allowed) = region.permissions else {
            continue;
        };
        let len = region.last.0.wrapping_sub(region.start.0).saturating_add(1);
        table.row([
            format!("{:016x}", region.start),
            format!("{:016x}", region.last),
            size(len),
            permissions(allowed),
            call.symbol(region.start),
        ]);
    }
    if !shown.is_empty() {
        table.write(&mut call.out);
    }
}

fn memory(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    let mut table = Table::new(&["from", "to", "size", "kind"]);
    let mut total: u64 = 0;
    for region in call.context.machine.memory().regions() {
        let kind = match region.kind {
            MemoryKind::Ram => "RAM",
            MemoryKind::Rom => "ROM",
        };
        let last = region
            .start
            .0
            .saturating_add(region.len_bytes.saturating_sub(1));
        total = total.saturating_add(region.len_bytes);
        table.row([
            format!("{:016x}", region.start),
            format!("{last:016x}"),
            size(region.len_bytes),
            kind.into(),
        ]);
    }
    table.write(&mut call.out);
    call.out.line(format_args!("{} in all", size(total)));
    Ok(())
}
