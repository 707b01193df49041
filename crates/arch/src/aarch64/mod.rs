//! AArch64 guests, and what a debugger outside must know of AArch32 code at EL0.

pub mod control;
pub mod debug;
pub mod delivery;
pub mod exception;
pub mod instruction;
pub mod mode;
pub mod paging;
pub mod registers;
pub mod tags;

pub use mode::{CpuMode, ExceptionLevel};
pub use paging::PagingState;
pub use tags::PointerTags;
