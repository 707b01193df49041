//! A model of a hypervisor and its guest, in virtual time and without threads.
//!
//! vCPUs interpret a small part of x86-64, or of A64, over a small memory with real page tables ([`cpu`]), each
//! driven by a `VcpuRun` exactly as a backend would drive it. What happens next (a vCPU's next
//! instruction, a command's arrival at a vCPU, the arrival of a vCPU's answer, a client's bytes) is
//! a choice ([`explore`]), so that interleavings can be enumerated or drawn at random.

pub(crate) mod aarch64;
pub(crate) mod client;
pub(crate) mod cpu;
pub(crate) mod explore;
pub(crate) mod fuzz;
mod hypervisor;
mod instructions;
pub(crate) mod memory;
pub(crate) mod os;
pub(crate) mod world;

pub(crate) use client::Client;
pub(crate) use explore::Choices;
pub(crate) use world::{Config, World};
