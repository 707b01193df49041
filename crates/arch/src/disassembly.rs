//! Disassembly as every architecture gives it.

use alloc::{string::String, vec::Vec};

/// One line of disassembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisassembledLine {
    /// Where the instruction starts.
    pub ip: u64,
    /// Its bytes, at least 1 and at most as many as the architecture's longest instruction has.
    pub bytes: Vec<u8>,
    /// Its text. What is no instruction is named as such.
    pub text: String,
}
