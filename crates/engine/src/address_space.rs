//! Virtual memory as one vCPU sees it, and as a debugger should.
//!
//! A kernel with page-table isolation runs user mode on tables that leave the kernel out. A
//! debugger that stops the vCPU there still wants the kernel's memory (rule M1), so an address that
//! the current tables do not map is looked up in the kernel's own tables, where those can be known.

use trapline_arch::x86_64::mode;
use trapline_arch::x86_64::paging::{PagingMode, PagingState, Region, TranslateError, Translation};
use trapline_arch::x86_64::registers::{CR3, RIP};
use trapline_arch::{Gpa, Gva, PhysicalMemory, RegisterFile};

use crate::contract::GuestMemory;
use crate::points::{PointSet, mask_patches};

/// In Linux's page-table isolation the two top-level tables of a process are neighbours: the
/// kernel's at an 8 KiB boundary, the user's 4 KiB after it.
const ISOLATION_BIT: u64 = 1 << 12;

/// The most table entries that one look for a region's end goes through (rule S3).
const REGION_BUDGET: usize = 4096;

/// How virtual addresses are translated on one vCPU at one stop.
#[derive(Clone, Debug)]
pub(crate) struct AddressSpace {
    current: PagingState,
    kernel: Option<PagingState>,
    witness: Gva,
}

impl AddressSpace {
    /// Takes the translation from a vCPU's control registers.
    pub(crate) fn of(file: &RegisterFile) -> Self {
        let current = PagingState::from_registers(file);
        let root = file.u64(CR3);
        let is_isolated = mode::cpl(file) == 3 && root & ISOLATION_BIT != 0;
        let kernel = is_isolated.then(|| current.with_root(root & !ISOLATION_BIT));
        Self {
            current,
            kernel,
            witness: Gva(file.u64(RIP)),
        }
    }

    /// Returns the state that the current tables are walked with.
    pub(crate) fn paging(&self) -> &PagingState {
        &self.current
    }

    /// Removes a pointer's tag bits (rule M2).
    pub(crate) fn untag(&self, address: Gva) -> Gva {
        self.current.untag(address)
    }

    /// Returns whether anything can ever be at an address, wherever it is mapped.
    ///
    /// In modes whose addresses have 32 bits a debugger may already plant what is for the 64-bit
    /// code to come, perhaps with five-level paging.
    pub(crate) fn is_canonical(&self, address: Gva) -> bool {
        let mode = match self.current.mode() {
            PagingMode::None | PagingMode::Bits32 { .. } | PagingMode::Pae => PagingMode::FiveLevel,
            mode => mode,
        };
        mode.is_canonical(address)
    }

    /// Translates an address with the vCPU's tables, or with the kernel's where those leave it out.
    pub(crate) fn translate(
        &self,
        memory: &dyn PhysicalMemory,
        address: Gva,
    ) -> Result<Translation, TranslateError> {
        let address = self.untag(address);
        self.current.translate(memory, address).or_else(|error| {
            let kernel = self.kernel_tables(memory).ok_or(error)?;
            kernel.translate(memory, address).map_err(|_| error)
        })
    }

    /// Returns the guest-physical address of `address`.
    pub(crate) fn gpa(&self, memory: &dyn PhysicalMemory, address: Gva) -> Option<Gpa> {
        self.translate(memory, address)
            .ok()
            .map(|translation| translation.gpa)
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
            let Ok(translation) = self.translate(memory, address) else {
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
        let start = self.untag(address);
        self.current
            .regions(memory, start, Gva(u64::MAX), REGION_BUDGET)
            .next()
    }

    /// Returns the kernel's tables if they are what they seem: both map the code that runs now to
    /// the same place.
    fn kernel_tables(&self, memory: &dyn PhysicalMemory) -> Option<&PagingState> {
        let kernel = self.kernel.as_ref()?;
        let here = self.current.translate(memory, self.witness).ok()?;
        let there = kernel.translate(memory, self.witness).ok()?;
        (here.gpa == there.gpa).then_some(kernel)
    }
}
