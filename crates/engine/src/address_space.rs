//! Virtual memory as one vCPU sees it, and as a debugger should.
//!
//! A kernel with page-table isolation runs user mode on tables that leave the kernel out. A
//! debugger that stops the vCPU there still wants the kernel's memory (rule M1), so an address that
//! the current tables do not map is looked up in the kernel's own tables, where those can be known.

use trapline_arch::{Architecture, Gpa, Gva, PhysicalMemory, RegisterFile, aarch64, x86_64};

use crate::contract::GuestMemory;
use crate::points::{PointSet, mask_patches};

/// In Linux's page-table isolation on x86 the two top-level tables of a process are neighbours: the
/// kernel's at an 8 KiB boundary, the user's 4 KiB after it.
const ISOLATION_BIT: u64 = 1 << 12;

/// On AArch64 Linux keeps two pages between the tables that user code runs with and the kernel's own
/// behind them, whatever the size of a page (`TRAMP_SWAPPER_OFFSET`, from Linux 5.12).
const TRAMPOLINE_PAGES: u64 = 2;

/// The most table entries that one look for a region's end goes through (rule S3).
const REGION_BUDGET: usize = 4096;

/// How virtual addresses are translated on one vCPU at one stop.
#[derive(Clone, Debug)]
pub(crate) struct AddressSpace {
    tables: Tables,
    /// An address that the tables in force and the kernel's own map alike.
    witness: Gva,
}

/// The tables in force, and the kernel's own where user code runs on tables without the kernel.
#[derive(Clone, Debug)]
enum Tables {
    X86 {
        current: x86_64::PagingState,
        kernel: Option<x86_64::PagingState>,
    },
    Aarch64 {
        current: aarch64::PagingState,
        kernel: Option<aarch64::PagingState>,
    },
}

/// Where a virtual address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) gpa: Gpa,
    /// The size of the page around it, which is aligned to that.
    pub(crate) page_size_bytes: u64,
}

/// A range of virtual addresses that is mapped alike, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: Gva,
    /// The last address, since a region may end where the address space does.
    pub(crate) last: Gva,
    pub(crate) allowed: Option<Allowed>,
}

/// What a page allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) write: bool,
    pub(crate) execute: bool,
    /// Programs have access, not only the kernel.
    pub(crate) user: bool,
}

impl From<x86_64::paging::PageFlags> for Allowed {
    fn from(flags: x86_64::paging::PageFlags) -> Self {
        use x86_64::paging::PageFlags;
        Self {
            write: flags.contains(PageFlags::WRITABLE),
            execute: flags.contains(PageFlags::EXECUTABLE),
            user: flags.contains(PageFlags::USER),
        }
    }
}

impl From<aarch64::paging::PageFlags> for Allowed {
    fn from(flags: aarch64::paging::PageFlags) -> Self {
        use aarch64::paging::PageFlags;
        Self {
            write: flags.intersects(PageFlags::WRITE),
            execute: flags.intersects(PageFlags::EXECUTE),
            user: flags.intersects(PageFlags::EL0),
        }
    }
}

impl AddressSpace {
    /// Takes the translation from a vCPU's control registers.
    pub(crate) fn of(architecture: Architecture, file: &RegisterFile) -> Self {
        match architecture {
            Architecture::X86_64 => Self::of_x86(file),
            Architecture::Aarch64 => Self::of_aarch64(file),
        }
    }

    fn of_x86(file: &RegisterFile) -> Self {
        let current = x86_64::paging::PagingState::from_registers(file);
        let root = file.u64(x86_64::registers::CR3);
        let is_isolated = x86_64::mode::cpl(file) == 3 && root & ISOLATION_BIT != 0;
        let kernel = is_isolated.then(|| current.with_root(root & !ISOLATION_BIT));
        Self {
            tables: Tables::X86 { current, kernel },
            witness: Gva(file.u64(x86_64::registers::RIP)),
        }
    }

    fn of_aarch64(file: &RegisterFile) -> Self {
        let current = aarch64::PagingState::from_registers(file);
        let is_user = aarch64::CpuMode::of(file).level() == Some(aarch64::ExceptionLevel::El0);
        let kernel = current.root(Gva(u64::MAX)).filter(|_| is_user);
        let kernel = kernel.map(|(geometry, ttbr)| {
            let page_bytes = 1_u64 << geometry.granule.page_bits();
            current.with_ttbr1(ttbr.wrapping_add(TRAMPOLINE_PAGES.wrapping_mul(page_bytes)))
        });
        Self {
            tables: Tables::Aarch64 { current, kernel },
            witness: Gva(file.u64(aarch64::registers::VBAR_EL1)),
        }
    }

    /// Returns the state that the current tables are walked with, of an x86 vCPU.
    pub(crate) fn x86(&self) -> Option<&x86_64::PagingState> {
        match &self.tables {
            Tables::X86 { current, .. } => Some(current),
            Tables::Aarch64 { .. } => None,
        }
    }

    /// Returns the state that the current tables are walked with, of an AArch64 vCPU.
    pub(crate) fn aarch64(&self) -> Option<&aarch64::PagingState> {
        match &self.tables {
            Tables::Aarch64 { current, .. } => Some(current),
            Tables::X86 { .. } => None,
        }
    }

    /// Returns where exceptions lead, as far as one register tells.
    pub(crate) fn vectors(&self) -> Option<Gva> {
        match &self.tables {
            Tables::X86 { .. } => None,
            Tables::Aarch64 { .. } => Some(self.witness),
        }
    }

    /// Removes a pointer's tag bits (rule M2).
    pub(crate) fn untag(&self, address: Gva) -> Gva {
        match &self.tables {
            Tables::X86 { current, .. } => current.untag(address),
            Tables::Aarch64 { current, .. } => current.untag(address),
        }
    }

    /// Returns whether anything can ever be at an address, wherever it is mapped.
    ///
    /// In modes whose addresses have 32 bits a debugger may already plant what is for the 64-bit
    /// code to come, perhaps with five-level paging. On AArch64 the bits above an address are a tag,
    /// or ask for translation to be turned on first.
    pub(crate) fn is_canonical(&self, address: Gva) -> bool {
        use x86_64::paging::PagingMode;
        match &self.tables {
            Tables::X86 { current, .. } => match current.mode() {
                PagingMode::None | PagingMode::Bits32 { .. } | PagingMode::Pae => {
                    PagingMode::FiveLevel
                }
                mode => mode,
            }
            .is_canonical(address),
            Tables::Aarch64 { .. } => true,
        }
    }

    /// Translates an address with the vCPU's tables, or with the kernel's where those leave it out.
    pub(crate) fn translate(&self, memory: &dyn PhysicalMemory, address: Gva) -> Option<Mapping> {
        let address = self.untag(address);
        self.translate_by_own(memory, address)
            .or_else(|| self.translate_by_kernel(memory, address))
    }

    /// Translates an address with the tables in force alone.
    pub(crate) fn translate_by_own(
        &self,
        memory: &dyn PhysicalMemory,
        address: Gva,
    ) -> Option<Mapping> {
        match &self.tables {
            Tables::X86 { current, .. } => x86_mapping(current, memory, address),
            Tables::Aarch64 { current, .. } => aarch64_mapping(current, memory, address),
        }
    }

    /// Translates an address with the kernel's tables, if they are what they seem: both map the
    /// witness to the same place.
    fn translate_by_kernel(&self, memory: &dyn PhysicalMemory, address: Gva) -> Option<Mapping> {
        let through_kernel = |address| match &self.tables {
            Tables::X86 { kernel, .. } => x86_mapping(kernel.as_ref()?, memory, address),
            Tables::Aarch64 { kernel, .. } => aarch64_mapping(kernel.as_ref()?, memory, address),
        };
        let found = through_kernel(address)?;
        let here = self.translate_by_own(memory, self.witness)?;
        (through_kernel(self.witness)?.gpa == here.gpa).then_some(found)
    }

    /// Returns the guest-physical address of `address`.
    pub(crate) fn gpa(&self, memory: &dyn PhysicalMemory, address: Gva) -> Option<Gpa> {
        self.translate(memory, address).map(|mapping| mapping.gpa)
    }

    /// Reads virtual memory as the guest wrote it, without breakpoint instructions (rule B1).
    /// Returns how many leading bytes could be read.
    pub(crate) fn read(
        &self,
        memory: &dyn GuestMemory,
        points: &PointSet,
        address: Gva,
        buffer: &mut [u8],
    ) -> usize {
        let buffer_len = buffer.len();
        self.for_each_piece(memory, address, buffer_len, |gpa, range| {
            let piece = buffer.get_mut(range).unwrap_or_default();
            let read = memory.read_physical(gpa, piece);
            mask_patches(
                points.patches(),
                gpa,
                piece.get_mut(..read).unwrap_or_default(),
            );
            read
        })
    }

    /// Calls `visit` for each physically contiguous piece of a virtual range until a page is not
    /// mapped or `visit` handles less than the piece. Returns how many leading bytes were handled.
    pub(crate) fn for_each_piece(
        &self,
        memory: &dyn PhysicalMemory,
        start: Gva,
        len_bytes: usize,
        mut visit: impl FnMut(Gpa, core::ops::Range<usize>) -> usize,
    ) -> usize {
        let mut done: usize = 0;
        while done < len_bytes {
            let Some(address) = self.untag(start).checked_add(done as u64) else {
                break;
            };
            let Some(translation) = self.translate(memory, address) else {
                break;
            };
            let page = translation.page_size_bytes;
            let left_in_page = page.saturating_sub(address.offset_in(page));
            let left = len_bytes.saturating_sub(done);
            let piece = usize::try_from(left_in_page).map_or(left, |in_page| in_page.min(left));
            let handled = visit(translation.gpa, done..done.saturating_add(piece));
            done = done.saturating_add(handled);
            if handled < piece || piece == 0 {
                break;
            }
        }
        done
    }

    /// Returns the mapped region, or the hole, that an address is in.
    pub(crate) fn region(&self, memory: &dyn PhysicalMemory, address: Gva) -> Option<Region> {
        self.regions(memory, address, REGION_BUDGET).next()
    }

    /// Lists what is mapped from an address on, looking at no more than `budget` table entries.
    pub(crate) fn regions<'a>(
        &self,
        memory: &'a dyn PhysicalMemory,
        address: Gva,
        budget: usize,
    ) -> Regions<'a> {
        let (start, last) = (self.untag(address), Gva(u64::MAX));
        match &self.tables {
            Tables::X86 { current, .. } => {
                Regions::X86(current.regions(memory, start, last, budget))
            }
            Tables::Aarch64 { current, .. } => {
                Regions::Aarch64(current.regions(memory, start, last, budget))
            }
        }
    }
}

fn x86_mapping(
    paging: &x86_64::PagingState,
    memory: &dyn PhysicalMemory,
    address: Gva,
) -> Option<Mapping> {
    let page = paging.translate(memory, address).ok()?;
    Some(Mapping {
        gpa: page.gpa,
        page_size_bytes: page.page_size_bytes,
    })
}

fn aarch64_mapping(
    paging: &aarch64::PagingState,
    memory: &dyn PhysicalMemory,
    address: Gva,
) -> Option<Mapping> {
    let page = paging.translate(memory, address).ok()?;
    Some(Mapping {
        gpa: page.gpa,
        page_size_bytes: page.page_size_bytes,
    })
}

/// An iterator over [`Region`]s in ascending order without gaps, bounded by a budget.
#[derive(Debug)]
pub(crate) enum Regions<'a> {
    X86(x86_64::paging::Regions<'a>),
    Aarch64(aarch64::paging::Regions<'a>),
}

impl Regions<'_> {
    /// Returns the first address not looked at, or `None` when all were.
    pub(crate) fn resume(&self) -> Option<Gva> {
        match self {
            Self::X86(regions) => regions.resume(),
            Self::Aarch64(regions) => regions.resume(),
        }
    }
}

impl Iterator for Regions<'_> {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        match self {
            Self::X86(regions) => regions.next().map(region),
            Self::Aarch64(regions) => regions.next().map(region),
        }
    }
}

fn region<P: Into<Allowed>>(region: trapline_arch::Region<P>) -> Region {
    Region {
        start: region.start,
        last: region.last,
        allowed: region.permissions.map(Into::into),
    }
}

#[cfg(test)]
mod tests;
