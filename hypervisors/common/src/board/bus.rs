//! Buses, and where the processors have their addresses.
//!
//! Source: "Devicetree Specification", "`ranges`".

use alloc::vec::Vec;

use dtoolkit::model::DeviceTreeNode;

use super::{cell, number, value};
use crate::Span;

/// The cells of addresses and sizes in a node's children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells {
    pub(super) address: usize,
    size: usize,
}

impl Cells {
    fn of(node: &DeviceTreeNode) -> Self {
        let cells = |name, default| {
            let value = cell(node, name).and_then(|value| usize::try_from(value).ok());
            value.unwrap_or(default)
        };
        Self {
            address: cells("#address-cells", 2),
            size: cells("#size-cells", 1),
        }
    }

    /// Returns the ranges of a `reg`; wider numbers than 64 bits are of no bus that is looked at.
    fn ranges(self, reg: &[u8]) -> Vec<Span> {
        let row = self.address.saturating_add(self.size).saturating_mul(4);
        if row == 0 || self.address > 2 || self.size > 2 {
            return Vec::new();
        }
        let rows = reg.chunks_exact(row);
        rows.filter_map(|row| {
            let start = number(row, 0, self.address)?;
            Some(Span::new(start, number(row, self.address, self.size)?))
        })
        .collect()
    }
}

/// What a node's children are on.
#[derive(Clone, Debug)]
pub(super) struct Bus {
    pub(super) cells: Cells,
    /// Where its addresses are among the processors'; `None` if they are the same.
    windows: Option<Vec<Window>>,
    /// The phandle of the interrupt controller of those that name none.
    pub(super) interrupt_parent: Option<u64>,
}

/// Addresses of a bus, and where the processors have them.
#[derive(Clone, Copy, Debug)]
struct Window {
    bus: Span,
    processor: u64,
}

impl Bus {
    /// That of the root's children.
    pub(super) fn of_processors(root: &DeviceTreeNode) -> Self {
        Self {
            cells: Cells::of(root),
            windows: None,
            interrupt_parent: cell(root, "interrupt-parent"),
        }
    }

    /// Returns the bus below a node on this one, if what is there can be reached by address.
    pub(super) fn below(&self, node: &DeviceTreeNode, path: &str) -> Option<Self> {
        let cells = Cells::of(node);
        let windows = match value(node, "ranges") {
            // Addresses below these two are not of a bus.
            None if path == "/reserved-memory" || path == "/cpus" => None,
            None => return None,
            Some([]) => self.windows.clone(),
            Some(ranges) => Some(self.windows_of(ranges, cells)),
        };
        Some(Self {
            cells,
            windows,
            interrupt_parent: cell(node, "interrupt-parent").or(self.interrupt_parent),
        })
    }

    /// Reads a `ranges` of a bus that is on this one: its address, this one's, and a length.
    fn windows_of(&self, ranges: &[u8], below: Cells) -> Vec<Window> {
        let to_size = below.address.saturating_add(self.cells.address);
        let row = to_size.saturating_add(below.size).saturating_mul(4);
        if row == 0 {
            return Vec::new();
        }
        let rows = ranges.chunks_exact(row);
        rows.filter_map(|row| {
            let start = number(row, 0, below.address)?;
            let here = number(row, below.address, self.cells.address)?;
            let len_bytes = number(row, to_size, below.size)?;
            let processor = self.to_processor(Span::new(here, len_bytes))?;
            Some(Window {
                bus: Span::new(start, len_bytes),
                processor: processor.start,
            })
        })
        .collect()
    }

    /// Returns where the processors have addresses of this bus, if they have all of them in one piece.
    fn to_processor(&self, span: Span) -> Option<Span> {
        let Some(windows) = &self.windows else {
            return Some(span);
        };
        let mut windows = windows.iter();
        let window =
            windows.find(|Window { bus, .. }| bus.start <= span.start && span.end <= bus.end)?;
        let offset = span.start.saturating_sub(window.bus.start);
        let start = window.processor.checked_add(offset)?;
        Some(Span::new(start, span.len_bytes()))
    }

    /// Returns the ranges of a `reg` that the processors reach.
    pub(super) fn registers(&self, node: &DeviceTreeNode) -> Vec<Span> {
        let ranges = self.cells.ranges(value(node, "reg").unwrap_or_default());
        let ranges = ranges.into_iter();
        ranges.filter_map(|span| self.to_processor(span)).collect()
    }
}
