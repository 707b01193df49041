//! vCPUs on this machine's KVM, with guests of a few bytes. Every test says plainly what it could
//! not run, and fails where it should have been able to.

mod debug;
mod events;
mod own_debug;
mod registers;
mod rig;
mod step;
mod stop;
