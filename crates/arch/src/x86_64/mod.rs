//! x86-64 guests, in every mode of the processor.

pub mod registers;
