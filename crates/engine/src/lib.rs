//! The debug engine: run control, breakpoints, stepping and client sessions, without I/O.
//!
//! The engine has two halves, because a decision that every hit of a breakpoint needs must not
//! leave the vCPU that hit it:
//!
//! - [`VcpuRun`] lives where a vCPU runs (its thread, or the physical CPU at EL2 or in VMX root
//!   mode). It carries out one resume of one vCPU: it says how to enter the guest, looks at every
//!   VM exit, evaluates conditions and range steps on the spot, and ends with a [`StopReason`].
//! - [`Engine`] is one per guest. It holds the sessions, the table of breakpoints and the state of
//!   all vCPUs; it is fed bytes from clients and stop reasons from vCPUs, and yields bytes for
//!   clients and [`Command`]s for vCPUs.
//!
//! What a hypervisor implements to be debugged is in [`contract`].

#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;

mod address_space;
mod condition;
pub mod contract;
mod core;
mod cpu;
mod engine;
pub mod expression;
mod monitor;
mod pending;
mod points;
mod run_control;
mod session;
mod vcpu_run;

pub use self::core::GuestConfig;
pub use contract::{
    AccessError, Capabilities, Command, Entry, FindProgress, GuestEnd, GuestMemory, GuestOs,
    HardwarePoint, HardwarePoints, KernelImage, Machine, MemoryKind, MemoryRegion, PassFirst,
    PointAccess, PowerState, ResumeAction, ResumeRequest, StepMethod, StopReason, SymbolAt,
    Systems, Time, Vcpu, VcpuId, VirtualView, VmExit, WatchKind,
};
pub use engine::{Engine, MAX_SESSIONS, Start, TooManySessions};
pub use points::PointSet;
pub use session::{Access, SessionId};
pub use vcpu_run::{Held, Next, VcpuRun};
