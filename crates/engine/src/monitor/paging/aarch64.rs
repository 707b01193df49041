//! Translation tables of AArch64 in words.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trapline_arch::aarch64::paging::{
    Descriptor, DescriptorKind, PageFlags, PagingState, Step, Translation,
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
        Err(error) => Err(error.to_string()),
    }
}

/// Puts the descriptors on the way to an address into `table`, and returns what the walk begins with.
pub(super) fn walk(
    paging: &PagingState,
    memory: &dyn PhysicalMemory,
    address: Gva,
    table: &mut Table,
) -> String {
    for step in &paging.walk(memory, address).steps {
        table.row([
            format!("level {}", step.level),
            step.gpa.to_string(),
            format!("{:016x}", step.descriptor.into_bits()),
            leads_to(step),
            flags(step),
        ]);
    }
    let address = paging.untag(address);
    let half = if address.0 >> 55 & 1 == 0 { 0 } else { 1 };
    match paging.root(address) {
        Some((geometry, ttbr)) => format!(
            "{} granule, {} bits of address, ttbr{half}_el1 {ttbr:#x}",
            size(1 << geometry.granule.page_bits()),
            geometry.input_bits
        ),
        None if paging.is_on() => format!("the tables of ttbr{half}_el1 are not walked"),
        None => "no translation: virtual addresses are physical ones".into(),
    }
}

fn leads_to(step: &Step) -> String {
    match (step.kind, step.output) {
        (DescriptorKind::Invalid, _) | (_, None) => "-".into(),
        (DescriptorKind::Table, Some(output)) => format!("table {output}"),
        (DescriptorKind::Block, Some(output)) => format!("block {output}"),
        (DescriptorKind::Page, Some(output)) => format!("page {output}"),
    }
}

fn flags(step: &Step) -> String {
    let entry = step.descriptor;
    match step.kind {
        DescriptorKind::Invalid => "invalid".into(),
        DescriptorKind::Table => table_flags(entry),
        DescriptorKind::Block | DescriptorKind::Page => page_flags(entry),
    }
}

fn table_flags(entry: Descriptor) -> String {
    let mut text = join(&[
        (entry.pxn_table(), "PXNTable"),
        (entry.uxn_table(), "UXNTable"),
        (entry.ns_table(), "NSTable"),
    ]);
    if entry.ap_table() != 0 {
        text.push_str(&format!(" APTable={:02b}", entry.ap_table()));
    }
    text
}

fn page_flags(entry: Descriptor) -> String {
    let set = join(&[
        (entry.af(), "AF"),
        (entry.n_g(), "nG"),
        (entry.dbm(), "DBM"),
        (entry.contiguous(), "cont"),
        (entry.gp(), "GP"),
        (entry.pxn(), "PXN"),
        (entry.uxn(), "UXN"),
    ]);
    format!("AP={:02b} attr={} {set}", entry.ap(), entry.attributes())
}

fn join(names: &[(bool, &str)]) -> String {
    let set: Vec<&str> = names
        .iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, name)| *name)
        .collect();
    set.join(" ")
}

/// Returns a page's size and who may do what with it.
fn page_text(page: &Translation, paging: &PagingState) -> String {
    if !paging.is_on() {
        return "no translation".into();
    }
    let mut text = format!(
        "{} page, {}, memory type {}",
        size(page.page_size_bytes),
        permissions(page.flags.into()),
        page.attributes
    );
    for (flag, name) in [
        (PageFlags::ACCESSED, "accessed"),
        (PageFlags::CLEAN, "clean"),
        (PageFlags::GLOBAL, "global"),
        (PageFlags::CONTIGUOUS, "contiguous"),
    ] {
        if page.flags.contains(flag) {
            text.push_str(", ");
            text.push_str(name);
        }
    }
    text
}
