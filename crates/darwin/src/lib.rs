//! What the memory of a guest says of a Darwin kernel in it: where its image is, and which one it is.
//!
//! A Darwin kernel is a Mach-O image that is mapped from its header on. [`DarwinGuest`] finds the header
//! from code of the kernel, downwards, as LLDB does, but in the server: LLDB would ask for 8,192 pieces of
//! memory over the link, and only from a program counter in the kernel. [`Kernel`] reads it.
//!
//! All that is read here was written by the guest, which may be hostile: lengths are checked against limits
//! before anything is allocated, searches are cut into slices, and nothing here panics.
//!
//! Symbols are left to the debugger, which takes them from the kernel's own file.

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        reason = "a test that overflows fails"
    )
)]

extern crate alloc;

mod guest;
mod kernel;
#[cfg(test)]
mod testing;

pub use guest::DarwinGuest;
pub use kernel::{Kernel, Platform};
