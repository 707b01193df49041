//! The rules of the engine, each shown by scripted clients against a model guest.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    clippy::std_instead_of_core,
    clippy::std_instead_of_alloc,
    reason = "a test that goes wrong fails"
)]

#[path = "../model/mod.rs"]
mod model;

mod aarch64;
mod memory;
mod own_debug;
mod play;
mod points;
mod random;
mod repeated;
mod run_control;
mod sessions;
mod shared_points;
mod simultaneous;
mod stepping;
mod turns;
mod wire;
