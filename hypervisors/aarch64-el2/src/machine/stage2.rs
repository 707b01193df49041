//! Stage 2: what the guest's physical addresses lead to.
//!
//! Nothing is mapped at first. What the guest touches is mapped 1:1, by the largest block that holds
//! nothing of the hypervisor's; so what it must not have is never mapped at all.

#![expect(
    unsafe_code,
    reason = "the tables' pages are shared with the processor"
)]

use alloc::vec::Vec;

use spin::Once;
use trapline_el2::tables::{Kept, MapError, Page, Tables};
use trapline_hypervisor::Span;

use super::lock::Lock;
use super::sysreg::{dsb, forget_stage_2, isb, mrs, msr};

/// Pages for stage 2, and for the hypervisor's own tables.
const PAGES: usize = 32;

#[repr(C, align(65536))]
struct Pool([Page; PAGES]);

static mut GUEST_POOL: Pool = Pool([[0; 512]; PAGES]);
static mut OWN_POOL: Pool = Pool([[0; 512]; PAGES]);

static GUEST: Once<Stage2> = Once::new();

struct Stage2 {
    tables: Lock<Tables<'static>>,
    hidden: Vec<Span>,
    vtcr: u64,
    root: u64,
}

/// Makes the hypervisor's own tables, to be filled and then used by [`use_own`].
pub(super) fn own_tables() -> Tables<'static> {
    let pool = &raw mut OWN_POOL;
    // SAFETY: this is called once, at boot, and nothing else names the pool.
    let pool = unsafe { &mut *pool };
    let base = (&raw const pool.0) as u64;
    Tables::new(&mut pool.0, base, 48)
}

/// Makes stage 2 for a guest that is to have all but `hidden`.
pub(super) fn prepare(hidden: Vec<Span>) {
    let range = mrs!("ID_AA64MMFR0_EL1") & 0xf;
    let bits = match range {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        _ => 48,
    };
    let pool = &raw mut GUEST_POOL;
    // SAFETY: this is called once, at boot, and nothing else names the pool.
    let pool = unsafe { &mut *pool };
    let base = (&raw const pool.0) as u64;
    let tables = Tables::new(&mut pool.0, base, bits);
    let start_level = u64::from(2 - tables.root_level());
    // T0SZ, SL0, write-back and inner shareable walks, 4 KiB, the processor's own width; bit 31 is
    // reserved as 1.
    let vtcr = (64 - u64::from(bits))
        | start_level << 6
        | 0b01 << 8
        | 0b01 << 10
        | 0b11 << 12
        | range.min(5) << 16
        | 1 << 31;
    let root = tables.root();
    GUEST.call_once(|| Stage2 {
        tables: Lock::new(tables),
        hidden,
        vtcr,
        root,
    });
}

/// Has the guest find at `span`, which is hidden, what begins at `target`.
pub(super) fn redirect(span: Span, target: u64) -> Result<(), MapError> {
    match GUEST.get() {
        Some(stage) => stage.tables.lock().redirect(span, target),
        None => Ok(()),
    }
}

/// Puts stage 2 into force on this processor.
pub(super) fn switch_on() {
    let Some(stage) = GUEST.get() else {
        return;
    };
    msr!("VTCR_EL2", stage.vtcr);
    msr!("VTTBR_EL2", stage.root);
    isb();
    forget_stage_2();
}

/// Maps what the guest has come upon.
pub(super) fn map_around(address: u64) -> Result<Kept, MapError> {
    let Some(stage) = GUEST.get() else {
        return Ok(Kept::Hidden);
    };
    let kept = stage.tables.lock().map_around(address, &stage.hidden);
    // An entry that was not valid is in no cache: only the tables must be seen.
    dsb();
    isb();
    kept
}
