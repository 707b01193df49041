//! A thin hypervisor at EL2 with the debug server inside: what of it needs no hardware.
//!
//! The guest owns the machine: memory is mapped 1:1, devices are its own, each processor is one vCPU. The
//! hypervisor keeps its own memory, a serial port for debuggers, and the interrupts that it needs.
//!
//! | module | what |
//! |---|---|
//! | [`tables`] | translation tables, of the hypervisor and of stage 2 |
//! | [`distributor`] | what of the interrupt controller's registers the guest may change |
//! | [`trap`] | why the guest came out |
//! | [`psci`] | the calls of power management that the hypervisor must see |
//!
//! The program itself is in `main.rs` and `machine/`, and is built for bare metal alone.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod distributor;
pub mod psci;
pub mod tables;
pub mod trap;
