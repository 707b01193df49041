//! Page tables of x86 in words.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trapline_arch::x86_64::paging::{
    Entry, PageFlags, PagingMode, PagingState, Step, TranslateError, Translation,
};
use trapline_arch::{Gpa, Gva, PhysicalMemory};

use super::permissions;
use crate::monitor::info::size;
use crate::monitor::output::Table;

/// Returns where an address is and what its page is like, or why it is not mapped.
pub(super) fn page(
    paging: &PagingState,
    memory: &dyn PhysicalMemory,
    address: Gva,
) -> Result<(Gpa, String), String> {
    match paging.translate(memory, address) {
        Ok(page) => Ok((page.gpa, page_text(&page, paging))),
        Err(error) => Err(reason(error, paging.mode())),
    }
}

/// Puts the entries on the way to an address into `table`, and returns what the walk begins with.
pub(super) fn walk(
    paging: &PagingState,
    memory: &dyn PhysicalMemory,
    address: Gva,
    table: &mut Table,
) -> String {
    let walk = paging.walk(memory, address);
    for step in &walk.steps {
        table.row([
            entry_name(step.level).into(),
            step.gpa.to_string(),
            format!("{:016x}", step.entry.into_bits()),
            leads_to(step, &walk.steps, walk.result.as_ref().ok()),
            flags(step.entry, step.level),
        ]);
    }
    let root = paging.root().into_bits();
    format!("{}, cr3 {root:#x}", mode_name(paging.mode()))
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
        permissions(page.flags.into())
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
