//! The state in which the boot processor begins, and what firmware would have left behind.

mod acpi;
mod cpuid;
mod state;

pub(crate) use acpi::write_tables;
pub(crate) use cpuid::set_cpuid;
pub(crate) use state::{set_entry, set_msrs, write_page_tables};
