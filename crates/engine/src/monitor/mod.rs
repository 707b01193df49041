//! Commands in words, for GDB's `monitor`, LLDB's `process plugin packet monitor` and the shell:
//! one implementation for all three.

use alloc::string::String;

use crate::core::Context;
use crate::session::Session;

/// Carries out one command line and returns what it has to say.
pub(crate) fn execute(_session: &mut Session, line: &str, _context: &mut Context<'_>) -> String {
    alloc::format!("there is no command '{line}'\n")
}

/// Returns as much of `output` as fits `limit_bytes`, cut at the end of a line.
pub(crate) fn fit(output: &str, limit_bytes: usize) -> &str {
    let mut end = output.len().min(limit_bytes);
    while !output.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    output.get(..end).unwrap_or_default()
}
