//! Trapline's backend for Linux KVM: vCPU threads that a debugger can stop, step and read.
//!
//! It is for any virtual machine monitor built on `kvm-ioctls` and `vm-memory`:
//!
//! 1. [`Probe::run`] finds out what this machine's KVM can do.
//! 2. The monitor creates its VM, memory, devices and vCPUs as ever, wraps its memory in
//!    [`GuestRam`], each `VcpuFd` in a [`KvmVcpu`], and implements [`DeviceBus`].
//! 3. [`VcpuPool::start`] makes a thread for each vCPU. No vCPU runs yet.
//! 4. A debug server drives the pool: it passes
//!    [`Command::Run`](trapline_engine::Command::Run) and
//!    [`Command::Stop`](trapline_engine::Command::Stop) to [`VcpuPool::run_here`] and
//!    [`VcpuPool::stop`], is told of stops by its [`StopListener`], and reads registers and memory
//!    through [`VcpuPool::machine`]. A step that `run_here` has carried out on the spot is its
//!    return value; the listener is not told of it.
//! 5. The thread that serves debuggers calls [`wake_promptly`], so that guests that keep the
//!    processors busy do not keep it waiting.
//!
//! `examples/embed.rs` is a whole monitor with `trapline_server` as its debug server, in some 200
//! lines.
//!
//! # What the monitor leaves to the pool
//! - `KVM_RUN`, `KVM_SET_GUEST_DEBUG` and the pages that vCPUs share with KVM.
//! - One real-time signal, [`DEFAULT_KICK_SIGNAL`] unless configured otherwise. Its handler is
//!   installed with `SA_RESTART`, so that other system calls do not notice it.
//!
//! # What is not hidden from the guest
//! On AArch64, while breakpoints of the debugger stand in memory or slots are in use: kernels before Linux
//! 6.14 do not step a program in the guest that its own debugger steps by `MDSCR_EL1.SS`. Registers of the
//! physical timer run on over a pause; the virtual ones do not.
//!
//! After a triple fault on AMD, KVM itself resets the vCPU before it tells anybody, so the
//! registers are those of a reset processor.

#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

#[cfg(target_arch = "aarch64")]
pub mod aarch64;
mod bus;
mod control;
mod error;
mod gate;
mod machine;
mod memory;
mod pool;
mod probe;
mod run;
mod sys;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
use aarch64 as host;
#[cfg(target_arch = "x86_64")]
use x86_64 as host;

pub use bus::{AfterExit, DeviceBus, NoDevices, RUN_ERROR, StopListener, UNHANDLED_EXIT};
pub use error::KvmError;
pub use host::{ARCHITECTURE, KvmVcpu};
pub use machine::KvmMachine;
pub use memory::{GuestRam, SharedMemory};
pub use pool::{PoolConfig, VcpuPool};
pub use probe::{DeviceProblem, Finding, FindingState, HostKind, KvmReport, Probe};
pub use sys::wake_promptly;

/// The signal that brings vCPUs out of the guest where nothing else is configured, counted from
/// SIGRTMIN.
pub const DEFAULT_KICK_SIGNAL: u8 = 8;
