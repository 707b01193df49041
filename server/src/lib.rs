//! The engine's clients: sockets, serial lines and who may use them.
//!
//! A [`Hub`] holds the engine and the machine behind one lock. Two kinds of thread use it: the one
//! that runs the [`Server`]'s event loop and feeds it what clients send, and the vCPUs' own, which
//! hand in stops. Whichever it is, it also sends what the engine has to say, so a stop reply leaves
//! from the thread of the vCPU that stopped, by one system call and without waking another thread.
//! Nothing here ever waits for a client: what a socket does not take now is sent when it is ready.

mod address;
mod connection;
mod error;
mod hub;
mod listener;
mod readiness;
mod serial;
mod server;
mod waker;

pub use address::{AddressError, ListenAddress};
pub use error::ServerError;
pub use hub::{Hub, SharedMachine};
pub use server::{Exposure, Server};
