//! Emulated machines for tests, the demo and the benchmarks.
//!
//! Trapline needs a KVM that runs a stock kernel at a useful speed. A machine without VMX or SVM has
//! none, so there the same `trapline` binary runs one level down: inside QEMU's emulator, whose `max`
//! processor offers AMD SVM, under the same distribution kernel that is debugged later. In this crate
//! that emulated machine is called the *machine*, and what runs on its KVM is the *guest*.
//!
//! - [`Environment`] says where the kernel, busybox, QEMU, GDB and LLDB are. `./x setup` writes it.
//! - [`HostKvm`] says whether this computer's own `/dev/kvm` will do.
//! - [`Machine`] boots a machine, runs commands in it, copies files and forwards sockets.
//! - [`guest_initramfs`] makes the guest's root file system, and [`guest_disk`] one on a disk.
//! - [`did_not_run`] and [`this_did_not_run`] are how a test that cannot run here says so.
//!
//! Nothing here is specific to Trapline's protocol; that knowledge is in the tests themselves.

mod archive;
mod board;
mod deadline;
mod disk;
mod environment;
mod error;
mod host;
mod image;
mod libraries;
mod machine;
mod modules;
mod process;
pub mod protocol;
mod qemu;
mod qmp;
mod report;

pub use archive::Archive;
pub use board::{Board, Gic, StartLevel};
pub use disk::guest_disk;
pub use environment::{Architecture, Environment, find_program, workspace_root};
pub use error::MachineError;
pub use host::HostKvm;
pub use image::{GuestImage, guest_initramfs};
pub use libraries::shared_libraries;
pub use machine::{Machine, MachineOptions};
pub use modules::KernelModules;
pub use process::{Output, RemoteProcess};
pub use qmp::Monitor;
pub use report::{DID_NOT_RUN_VARIABLE, did_not_run, ran_after_all, this_did_not_run};
