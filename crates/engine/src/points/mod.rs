//! Breakpoints and watchpoints: what clients asked for, and where that stands in the guest.
//!
//! [`PointTable`] is what clients asked for, with who asked. While the guest is stopped it is
//! brought into force as a whole ([`PointTable::publish`]): bytes are patched, slots are filled, and
//! the immutable [`PointSet`] that results goes to every vCPU with its next resume. So every vCPU
//! has the same points (rule B3), a client that removes and inserts the same breakpoint at each stop
//! costs nothing, and a vCPU decides about a hit without asking anybody.

mod key;
mod patch;
mod point;
mod set;
mod table;

pub(crate) use key::{InsertError, MAX_POINTS, PointKey, PointKind, PointOwner};
pub(crate) use patch::Patch;
pub use set::PointSet;
pub(crate) use set::SlotReport;
pub(crate) use table::PointTable;

pub(crate) use patch::{mask_patches, write_under_patches};

#[cfg(test)]
mod tests;
