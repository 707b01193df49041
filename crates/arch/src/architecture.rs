//! The guest's architecture as a value.

/// A guest's instruction set architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// x86 with the 64-bit extension, in whatever mode it runs.
    X86_64,
}
