//! The program on bare metal.
//!
//! ```text
//!   entry.S ──▶ boot ──▶ run_loop ◀──▶ vectors.S ◀──▶ guest
//!                 │          │
//!                 │          ├── traps     memory, system registers, firmware calls
//!                 │          ├── gic       interrupts
//!                 │          └── hub       the engine, behind a lock
//!                 └── other processors: power
//! ```

mod boot;
mod console;
mod fault;
mod gic;
mod guest_memory;
mod heap;
mod hub;
mod lock;
mod mmio;
mod power;
mod registers;
mod run_loop;
mod stage2;
mod sysreg;
mod traps;

use heap::Heap;

/// The most processors.
pub(crate) const MAX_PROCESSORS: usize = 64;

#[global_allocator]
static HEAP: Heap = Heap::new();
