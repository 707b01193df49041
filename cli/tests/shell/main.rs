//! The program's `shell` and `symbols`, as a person and a script use them, against a server with a
//! small guest of its own.
#![expect(clippy::unwrap_used, reason = "the whole file is a test")]

mod batch;
mod elf;
mod fake;
mod interactive;
mod packets;
mod serial;
mod symbols;
mod terminal;
