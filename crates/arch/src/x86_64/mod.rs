//! x86-64 guests, in every mode of the processor.

pub mod control;
pub mod debug;
pub mod instruction;
pub mod interrupts;
pub mod mode;
pub mod paging;
pub mod registers;
pub mod segment;
pub mod xsave;

pub use mode::CpuMode;
pub use paging::PagingState;
pub use segment::{Segment, SegmentAttributes, SegmentRegister};
