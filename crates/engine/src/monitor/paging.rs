//! `translate`, `pt`, `map`, `memory`: from virtual to physical addresses.

mod aarch64;
mod x86_64;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::commands::{Command, Completes, Family, LOOKS, Needs};
use super::info::size;
use super::output::Table;
use super::{Call, Failure};
use crate::address_space::{AddressSpace, Allowed, Region};
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
        details: "x86: P present, RW writable, US open to user code, PWT, PCD memory type, A accessed,\n\
            D dirty, PS a large page, G global, NX not executable. AArch64: AF accessed, nG not global,\n\
            DBM hardware may make it writable, cont one of a contiguous group, GP guarded, PXN and UXN\n\
            not executable at EL1 and EL0, AP access, attr memory type; of tables PXNTable and so on.",
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
    let own = space.translate_by_own(memory, address);
    let line = match (own, space.translate(memory, address)) {
        (None, Some(mapping)) => format!(
            "{address} is at physical {}: {} page, by the kernel's tables",
            mapping.gpa,
            size(mapping.page_size_bytes)
        ),
        _ => match page(&space, call, address) {
            Ok(text) => text,
            Err(reason) => {
                format!("{address} is not mapped: {reason}; 'pt {address}' shows the entries")
            }
        },
    };
    call.out.line(line);
    Ok(())
}

/// Says where the tables in force map an address and how, or why they do not.
fn page(space: &AddressSpace, call: &Call<'_, '_>, address: Gva) -> Result<String, String> {
    let memory = call.context.machine.memory();
    let page = match (space.x86(), space.aarch64()) {
        (Some(paging), _) => x86_64::page(paging, memory, address),
        (_, Some(paging)) => aarch64::page(paging, memory, address),
        (None, None) => return Err("its tables are not known".into()),
    };
    page.map(|(gpa, text)| format!("{address} is at physical {gpa}: {text}"))
}

fn walk(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = Gva(call.need_address()?);
    call.arguments.end()?;
    let vcpu = call.vcpu();
    let space = call.context.address_space(vcpu)?;
    let mut table = Table::new(&["entry", "at physical", "value", "leads to", "flags"]);
    let memory = call.context.machine.memory();
    let heading = match (space.x86(), space.aarch64()) {
        (Some(paging), _) => x86_64::walk(paging, memory, address, &mut table),
        (_, Some(paging)) => aarch64::walk(paging, memory, address, &mut table),
        (None, None) => String::new(),
    };
    call.out.line(format_args!("{vcpu}, {heading}"));
    if !table.is_empty() {
        table.write(&mut call.out);
    }
    let conclusion = match page(&space, call, address) {
        Ok(text) => text,
        Err(reason) => format!("{address} is not mapped: {reason}"),
    };
    call.out.line(conclusion);
    Ok(())
}

fn map(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let start = Gva(call.optional_address()?.unwrap_or(0));
    call.arguments.end()?;
    let vcpu = call.vcpu();
    let space = call.context.address_space(vcpu)?;
    let memory = call.context.machine.memory();
    let mut regions = space.regions(memory, start, ENTRY_BUDGET);
    let mut shown: Vec<Region> = Vec::new();
    let mut next = None;
    for region in regions.by_ref() {
        if region.allowed.is_none() {
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
        let Some(allowed) = region.allowed else {
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

fn permissions(allowed: Allowed) -> String {
    let write = if allowed.write { 'w' } else { '-' };
    let execute = if allowed.execute { 'x' } else { '-' };
    let who = if allowed.user { "user" } else { "kernel" };
    format!("r{write}{execute} {who}")
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
