//! Where the hypervisor's memory comes from.
//!
//! A part is kept back until the hypervisor has failed somewhere, which may be for want of memory: with it
//! the others can tell of the failure, and go on.

#![expect(unsafe_code, reason = "memory is given out and taken back")]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use linked_list_allocator::Heap as List;

use super::lock::Lock;

/// How much is kept back.
const RESERVE_BYTES: usize = 64 << 10;

/// Two heaps, of which the second is used when the first has nothing left and the hypervisor has failed.
#[derive(Debug)]
pub(crate) struct Heap {
    first: Lock<List>,
    reserve: Lock<List>,
    /// Where the second one begins.
    reserve_start: AtomicUsize,
    is_reserve_open: AtomicBool,
    /// A processor has failed in the midst of changing the first one: it stays as it is.
    is_first_lost: AtomicBool,
}

impl Heap {
    pub(super) const fn new() -> Self {
        Self {
            first: Lock::new(List::empty()),
            reserve: Lock::new(List::empty()),
            reserve_start: AtomicUsize::new(usize::MAX),
            is_reserve_open: AtomicBool::new(false),
            is_first_lost: AtomicBool::new(false),
        }
    }

    /// Takes the memory to give out.
    ///
    /// # Safety
    /// It is called once, with memory that nothing else uses, of more than the reserve.
    pub(super) unsafe fn begin(&self, start: *mut u8, len_bytes: usize) {
        let first_bytes = len_bytes - RESERVE_BYTES;
        let reserve = start.wrapping_add(first_bytes);
        // SAFETY: the caller's promise.
        unsafe { self.first.lock().init(start, first_bytes) };
        // SAFETY: the caller's promise; this is the part behind the first.
        unsafe { self.reserve.lock().init(reserve, RESERVE_BYTES) };
        self.reserve_start
            .store(reserve as usize, Ordering::Relaxed);
    }

    /// Gives out what was kept back, too.
    pub(super) fn open_reserve(&self) {
        self.is_reserve_open.store(true, Ordering::SeqCst);
    }

    /// Does something with the first heap, unless it is lost.
    fn with_first<T>(&self, act: impl FnOnce(&mut List) -> Option<T>) -> Option<T> {
        let mut first = self.first.lock();
        if first.was_left() {
            self.is_first_lost.store(true, Ordering::SeqCst);
        }
        if self.is_first_lost.load(Ordering::SeqCst) {
            return None;
        }
        act(&mut first)
    }
}

// SAFETY: what is given out is the list's, which gives nothing out twice; what is taken back goes to the
// list it is from.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let found = self.with_first(|first| first.allocate_first_fit(layout).ok());
        let found = found.or_else(|| {
            let is_open = self.is_reserve_open.load(Ordering::SeqCst);
            let reserve = is_open.then(|| self.reserve.lock());
            reserve.and_then(|mut reserve| reserve.allocate_first_fit(layout).ok())
        });
        found.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(start) = NonNull::new(pointer) else {
            return;
        };
        if pointer as usize >= self.reserve_start.load(Ordering::Relaxed) {
            // SAFETY: the caller's promise; it is from there.
            unsafe { self.reserve.lock().deallocate(start, layout) }
            return;
        }
        self.with_first(|first| {
            // SAFETY: the caller's promise; it is from there.
            unsafe { first.deallocate(start, layout) }
            Some(())
        });
    }
}
