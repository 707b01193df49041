//! The GDB remote serial protocol as bytes: framing, typed requests and replies.
//!
//! Everything here works on slices the caller owns and knows nothing of threads of execution,
//! guests or sockets. The pieces, in the order in which a byte meets them:
//!
//! - [`framing`]: a [`Deframer`] turns a byte stream into packets, acknowledgements and interrupt
//!   requests, whichever end of the line it stands on.
//! - [`request`]: [`Request::parse`] gives a packet's body its meaning, without copying.
//! - [`encoder`]: an [`Encoder`] builds a reply (or a request) in a buffer of the caller's.
//! - [`client`]: what only a client needs: building requests and reading stop replies.
//!
//! What to answer, when to acknowledge and what to resend is for the session that owns these.
//!
//! Source for all of it: GDB manual, appendix "GDB Remote Serial Protocol", and LLDB's
//! `docs/resources/lldbgdbremote.md` for the packets only LLDB sends.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

extern crate alloc;

pub mod client;
pub mod encoder;
pub mod framing;
pub mod hex;
pub mod request;
pub mod thread_id;

pub use encoder::{EncodeError, Encoder, RunLength};
pub use framing::{AckMode, Deframer, Event};
pub use hex::HexBytes;
pub use request::{ParseError, Request};
pub use thread_id::{ProcessId, ThreadId, ThreadSpec};

/// The longest packet body either side may send, in bytes between `$` and `#`.
///
/// A server announces it as `PacketSize=20000`: the number is hexadecimal on the wire. The frame
/// (`$`, `#` and two checksum digits) does not count (GDB manual, "General Query Packets",
/// `qSupported`).
pub const PACKET_SIZE_BYTES: usize = 0x2_0000;
