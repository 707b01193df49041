#[expect(dead_code, reason = "the engine's own tests use the rest")]
#[path = "../../crates/engine/tests/model/mod.rs"]
mod model;

use trapline_arch::Architecture;

/// Lets `data` say what clients of a debug server do, and in which order everything happens: client
/// bytes, instructions of the vCPUs, commands on their way to them and answers on their way back.
pub fn session(data: &[u8]) {
    model::fuzz::exercise(Architecture::X86_64, data);
}

/// The same about a guest of AArch64.
pub fn session_aarch64(data: &[u8]) {
    model::fuzz::exercise(Architecture::Aarch64, data);
}
