//! Real GDB and real LLDB against real guests, by one set of verbs.
//!
//! - [`Debugger`] is what a scenario says: connect, break, watch, continue, step, interrupt, look.
//!   [`GdbSession`] says it to GDB over its machine interface, [`LldbSession`] to LLDB over a small
//!   driver that runs inside it. [`RawClient`] speaks the protocol itself, for what no debugger sends.
//! - [`GuestBuilder`] starts one of the tiny guests or a stock kernel in a [`Place`]: by `trapline run` on
//!   this computer's KVM, or on that of an emulated machine if the guest needs what this one does not
//!   have; or under the hypervisor for EL2, on an emulated Arm board of its own. [`Names`] is what
//!   scenarios must know of the guest's architecture.
//! - A [`Scenario`] is a fact with what it needs and the code that holds it; [`harness`] makes tests
//!   of scenarios.
//!
//! Every wait is for an event and has a limit. Nothing here sleeps. When a scenario fails its
//! transcript is shown: what was said to the debugger, what it answered, the packets between it and
//! the server, and what the server printed.

mod architecture;
mod debugger;
mod execution;
mod gdb;
mod guest;
pub mod harness;
mod json;
mod lldb;
mod place;
mod process;
mod raw;
mod scenario;
mod transcript;

pub use architecture::Names;
pub use debugger::{Debugger, Frame, Kind, Location, Memory, Point, Reason, Stop, Thread, Watch};
pub use execution::{Block, Detail, Exception, ExecutionLog, Stepping, TraceEvent};
pub use gdb::GdbSession;
pub use guest::{GuestBuilder, Image, RunningGuest};
pub use harness::run;
pub use lldb::LldbSession;
pub use place::{Needs, Place};
pub use raw::{Answer, RawClient};
pub use scenario::{Scenario, Stage, With};
pub use transcript::Transcript;

use core::time::Duration;

/// The longest wait for anything that should come at once.
///
/// An emulated machine on a busy computer answers a thousand times slower than hardware.
pub const LIMIT: Duration = Duration::from_secs(60);
