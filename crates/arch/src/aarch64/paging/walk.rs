//! The walk through translation tables.

use alloc::vec::Vec;

use thiserror::Error;

use super::{
    Descriptor, DescriptorKind, PageFlags, PagingState, TableOrder, Tree, Trees,
    geometry::{Geometry, Validity, low_bits},
};
use crate::{Gpa, Gva, PhysicalMemory};

/// What an address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The address of the byte asked for: guest-physical from stage 1, physical from stage 2.
    pub gpa: Gpa,
    /// The size of the page or block around it.
    pub page_size_bytes: u64,
    /// The level of the entry that maps it, -1 to 3; 3 is the lowest.
    pub level: i8,
    /// The size of the group of contiguous entries that this one belongs to.
    pub contiguous_bytes: Option<u64>,
    /// Who may do what, and what was done.
    pub flags: PageFlags,
    /// The index of the memory type in MAIR, with NS above it; in stage 2 the memory type.
    pub attributes: u8,
}

impl Translation {
    /// Returns how many bytes there are from the byte asked for to the end of its page.
    #[must_use]
    pub const fn rest_of_page_bytes(&self) -> u64 {
        self.page_size_bytes
            .saturating_sub(self.gpa.offset_in(self.page_size_bytes))
    }
}

/// What kind of fault an address raises.
///
/// Source: Arm ARM, "MMU fault types".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultCause {
    /// No entry maps the address, or it is outside what the tables cover.
    Translation,
    /// An address in an entry or in TTBR is wider than physical addresses are.
    AddressSize,
    /// The access flag is clear and hardware does not set it.
    AccessFlag,
    /// The access is not permitted.
    Permission,
}

impl FaultCause {
    const fn name(self) -> &'static str {
        match self {
            Self::Translation => "translation fault",
            Self::AddressSize => "address size fault",
            Self::AccessFlag => "access flag fault",
            Self::Permission => "permission fault",
        }
    }
}

/// Why an address has no translation, or may not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TranslateError {
    /// Hardware raises a fault.
    #[error("{}, level {level}", cause.name())]
    Fault {
        /// What kind of fault.
        cause: FaultCause,
        /// The level it is reported at, -1 to 3.
        level: i8,
    },
    /// A table is not in guest memory.
    #[error("there is no memory at {gpa} for a level {level} descriptor")]
    TableMissing {
        /// Where the descriptor should be.
        gpa: Gpa,
        /// Its level.
        level: i8,
    },
    /// The tables have descriptors of 128 bits (`FEAT_D128`), which are not read.
    #[error("the translation tables have 128-bit descriptors")]
    WideDescriptors,
}

impl TranslateError {
    /// Returns the fault status code that hardware puts into ESR (DFSC, IFSC) and into PAR (FST) for
    /// this; `None` where hardware would go on.
    ///
    /// A table that is missing is a synchronous external abort on the walk.
    ///
    /// Source: Arm ARM, "ISS encoding for an exception from a Data Abort", field DFSC.
    #[must_use]
    pub const fn fault_status(&self) -> Option<u8> {
        let (code, below_zero, level) = match *self {
            Self::Fault { cause, level } => match cause {
                FaultCause::AddressSize => (0b00_0000, 0b10_1001, level),
                FaultCause::Translation => (0b00_0100, 0b10_1011, level),
                // Neither can be reported at level -1, where there are no blocks.
                FaultCause::AccessFlag => (0b00_1000, 0b00_1000, level),
                FaultCause::Permission => (0b00_1100, 0b00_1100, level),
            },
            Self::TableMissing { level, .. } => (0b01_0100, 0b01_0011, level),
            Self::WideDescriptors => return None,
        };
        Some(match level {
            0..=3 => code | level.unsigned_abs(),
            _ => below_zero,
        })
    }
}

/// One descriptor read in a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The descriptor's level, -1 to 3; 3 is the lowest.
    pub level: i8,
    /// Where the descriptor is.
    pub gpa: Gpa,
    /// The descriptor, in the byte order of the processor.
    pub descriptor: Descriptor,
    /// What it is.
    pub kind: DescriptorKind,
    /// The address it leads to, if it is valid.
    pub output: Option<Gpa>,
}

/// A translation with the descriptors it came from.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The descriptors read, from the first level on; the last one decided the result.
    pub steps: Vec<Step>,
    /// What the address translates to.
    pub result: Result<Translation, TranslateError>,
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin<'a> {
    /// Nowhere: the output is the input.
    Identity,
    /// At the first of a tree's tables.
    Tables {
        /// The tree.
        tree: &'a Tree,
        /// The table.
        table: Gpa,
    },
}

impl PagingState {
    /// Translates an address; a tag and a signature in it are removed (rule M2).
    ///
    /// # Errors
    ///
    /// See [`TranslateError`]; of faults only `Translation` and `AddressSize` occur.
    pub fn translate(
        &self,
        memory: &dyn PhysicalMemory,
        address: Gva,
    ) -> Result<Translation, TranslateError> {
        self.visit(memory, address, &mut |_| ())
    }

    /// Translates an address and keeps every descriptor that was read.
    #[must_use]
    pub fn walk(&self, memory: &dyn PhysicalMemory, address: Gva) -> Walk {
        let mut steps = Vec::new();
        let result = self.visit(memory, address, &mut |step| steps.push(step));
        Walk { steps, result }
    }

    fn visit(
        &self,
        memory: &dyn PhysicalMemory,
        address: Gva,
        visit: &mut dyn FnMut(Step),
    ) -> Result<Translation, TranslateError> {
        let address = self.untag(address);
        match self.begin(address)? {
            Begin::Identity => Ok(identity(address)),
            Begin::Tables { tree, table } => self.descend(memory, (tree, table), address, visit),
        }
    }

    /// Returns where the walk for an address without tag begins.
    pub(super) fn begin(&self, address: Gva) -> Result<Begin<'_>, TranslateError> {
        let tree = match (&self.trees, self.tree(address)) {
            (_, Some(tree)) => tree,
            (Trees::Wide, None) => return Err(TranslateError::WideDescriptors),
            (Trees::Off | Trees::Halves { .. } | Trees::Stage2 { .. }, None) => {
                if is_too_wide(Gpa(address.0), self.physical_bits) {
                    return fault(FaultCause::AddressSize, 0);
                }
                return Ok(Begin::Identity);
            }
        };
        let is_valid = tree.geometry.validity == Validity::Valid;
        if !tree.is_walked || !is_valid || !self.covers(tree, address) {
            return fault(FaultCause::Translation, 0);
        }
        let table = tree.start();
        if is_too_wide(table, self.output_bits(tree)) {
            return fault(FaultCause::AddressSize, 0);
        }
        Ok(Begin::Tables { tree, table })
    }

    fn output_bits(&self, tree: &Tree) -> u32 {
        tree.geometry.output_bits.min(self.physical_bits)
    }

    /// Walks from the first table to the entry that maps the page or ends the walk: at most five
    /// reads.
    pub(super) fn descend(
        &self,
        memory: &dyn PhysicalMemory,
        (tree, start): (&Tree, Gpa),
        address: Gva,
        visit: &mut dyn FnMut(Step),
    ) -> Result<Translation, TranslateError> {
        let mut table = start;
        let mut limits = PageFlags::PERMISSIONS;
        let mut level = tree.geometry.start_level;
        loop {
            let step = self.read(memory, &tree.geometry, table, level, address)?;
            visit(step);
            let Some(output) = step.output else {
                return fault(FaultCause::Translation, level);
            };
            if is_too_wide(output, self.output_bits(tree)) {
                return fault(FaultCause::AddressSize, level);
            }
            if step.kind != DescriptorKind::Table {
                return Ok(leaf(tree, step, output, address, limits));
            }
            limits &= tree.permissions.limits_of(step.descriptor);
            table = output;
            // At level 3 no descriptor is a table.
            level = level.saturating_add(1);
        }
    }

    /// Returns whether an address without tag is in the range that a tree covers.
    fn covers(&self, tree: &Tree, address: Gva) -> bool {
        let above = address.0 & !low_bits(tree.geometry.input_bits);
        match self.trees {
            Trees::Halves { .. } => above == 0 || above == !low_bits(tree.geometry.input_bits),
            Trees::Stage2 { .. } => above == 0,
            Trees::Off | Trees::Wide => true,
        }
    }

    fn read(
        &self,
        memory: &dyn PhysicalMemory,
        geometry: &Geometry,
        table: Gpa,
        level: i8,
        address: Gva,
    ) -> Result<Step, TranslateError> {
        let index = geometry.index(level, address.0);
        let gpa = table.wrapping_add(index.saturating_mul(8));
        let bits = memory.read_u64(gpa);
        let bits = bits.ok_or(TranslateError::TableMissing { gpa, level })?;
        let descriptor = Descriptor::from_bits(match self.order {
            TableOrder::Little => bits,
            TableOrder::Big => bits.swap_bytes(),
        });
        let kind = descriptor.kind(geometry, level);
        let shift = match kind {
            DescriptorKind::Table => Some(geometry.granule.page_bits()),
            DescriptorKind::Block | DescriptorKind::Page => Some(geometry.shift(level)),
            DescriptorKind::Invalid => None,
        };
        Ok(Step {
            level,
            gpa,
            descriptor,
            kind,
            output: shift.map(|shift| Gpa(descriptor.output(geometry, shift))),
        })
    }
}

/// Translates an address without tables: everything is allowed.
///
/// Source: Arm ARM, "The effects of disabling an address translation stage".
const fn identity(address: Gva) -> Translation {
    Translation {
        gpa: Gpa(address.0),
        page_size_bytes: 4096,
        level: 0,
        contiguous_bytes: None,
        flags: PageFlags::PERMISSIONS.union(PageFlags::ACCESSED),
        attributes: 0,
    }
}

const fn fault<T>(cause: FaultCause, level: i8) -> Result<T, TranslateError> {
    Err(TranslateError::Fault { cause, level })
}

const fn is_too_wide(address: Gpa, bits: u32) -> bool {
    address.0 & !low_bits(bits) != 0
}

fn leaf(
    tree: &Tree,
    Step {
        level, descriptor, ..
    }: Step,
    start: Gpa,
    address: Gva,
    limits: PageFlags,
) -> Translation {
    let geometry = &tree.geometry;
    let page_size_bytes = geometry.covered_bytes(level);
    let group = geometry.contiguous_entries(level);
    Translation {
        gpa: start.wrapping_add(address.offset_in(page_size_bytes)),
        page_size_bytes,
        level,
        contiguous_bytes: group
            .filter(|_| descriptor.contiguous())
            .map(|entries| entries.saturating_mul(page_size_bytes)),
        flags: tree.permissions.flags_of(descriptor, limits),
        attributes: descriptor.attributes(),
    }
}
