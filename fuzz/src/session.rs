#[expect(dead_code, reason = "the engine's own tests use the rest")]
#[path = "../../crates/engine/tests/model/mod.rs"]
mod model;

/// Lets `data` say what clients of a debug server do, and in which order everything happens: client
/// bytes, instructions of the vCPUs, commands on their way to them and answers on their way back.
pub fn session(data: &[u8]) {
    model::fuzz::exercise(data);
}
