//! What names a point, who asked for it, and why it may be refused.

use core::fmt;

use trapline_arch::Gva;

use crate::contract::{PointAccess, WatchKind};
use crate::session::SessionId;

/// The most breakpoints and watchpoints at once, over all clients (rule S3).
pub(crate) const MAX_POINTS: usize = 16 * 1024;

/// The most memory that the conditions of all points take, in bytes (rule S3): a decoded expression
/// takes sixteen times its bytecode.
pub(super) const MAX_CONDITION_BYTES: usize = 4 * 1024 * 1024;

/// The longest watched range in bytes on x86: four slots of eight.
pub(super) const MAX_WATCH_BYTES: u64 = 32;

/// What a client asked for, by the number in its `Z` packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PointKind {
    /// `Z0`.
    SoftwareBreakpoint,
    /// `Z1`.
    HardwareBreakpoint,
    /// `Z2`, `Z3`, `Z4`.
    Watchpoint(WatchKind),
}

/// What names a breakpoint or watchpoint for a client: its insertion and removal with the same key
/// are of one point (rule B4). Two clients that name the same address in two address spaces have a
/// point each (rule B2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PointKey {
    /// What it is.
    pub(crate) kind: PointKind,
    /// Its virtual address, without tag bits.
    pub(crate) address: Gva,
    /// The packet's kind field: for watchpoints the length in bytes.
    pub(crate) len: u64,
}

/// Why a point could not be inserted. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum InsertError {
    /// The address, or one that is to be watched, is not canonical: nothing ever runs or lies there.
    NotCanonical(Gva),
    /// No instruction begins at the address, which should be a multiple of the number.
    Misaligned(Gva, u64),
    /// The address is not mapped, or mapped to no memory, and no hardware slot is free to hold the
    /// breakpoint instead.
    NotMapped(Gva),
    /// All hardware slots are in use; the number is how many there are.
    NoFreeSlot(usize),
    /// The guest itself uses so many of the processor's debug registers that none is left.
    UsedByGuest(usize),
    /// The watched length is zero or too long for the hardware.
    BadLength(u64),
    /// This host has no slots for what was asked for.
    Unsupported(PointAccess),
    /// There are [`MAX_POINTS`] already.
    TooMany,
    /// The conditions of all points would take more than [`MAX_CONDITION_BYTES`].
    ConditionsTooLong,
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCanonical(address) => write!(
                f,
                "{address} is not canonical: no instruction and no data can be there"
            ),
            Self::Misaligned(address, alignment) => write!(
                f,
                "no instruction begins at {address}, which is no multiple of {alignment}"
            ),
            Self::NotMapped(address) => write!(
                f,
                "{address} is not mapped now, and no hardware slot is free to wait for it there"
            ),
            Self::NoFreeSlot(count) => {
                write!(
                    f,
                    "all {count} hardware slots are in use; delete a hardware breakpoint or watchpoint first"
                )
            }
            Self::UsedByGuest(count) => write!(
                f,
                "the guest uses {count} of the processor's debug registers of that kind itself, so none is left"
            ),
            Self::BadLength(len) => write!(
                f,
                "cannot watch {len} bytes: they do not fit into the hardware slots"
            ),
            Self::Unsupported(PointAccess::Execute) => f.write_str(
                "this host has no hardware breakpoints; the command 'info' shows what it can do",
            ),
            Self::Unsupported(_) => {
                f.write_str("this host has no watchpoints; the command 'info' shows what it can do")
            }
            Self::TooMany => write!(f, "there are {MAX_POINTS} breakpoints already"),
            Self::ConditionsTooLong => write!(
                f,
                "the conditions of all breakpoints take more than {MAX_CONDITION_BYTES} bytes"
            ),
        }
    }
}

impl core::error::Error for InsertError {}

/// On whose behalf a point stands.
///
/// A session's packets and its monitor commands are two owners: a debugger removes what it planted
/// without regard to what its user typed, and takes only its own breakpoints for breakpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PointOwner {
    /// The session's `Z` packets.
    Packets(SessionId),
    /// The session's monitor commands.
    Monitor(SessionId),
}

impl PointOwner {
    /// Returns the session, with which the point goes.
    #[must_use]
    pub(crate) const fn session(self) -> SessionId {
        match self {
            Self::Packets(session) | Self::Monitor(session) => session,
        }
    }
}

impl From<SessionId> for PointOwner {
    fn from(session: SessionId) -> Self {
        Self::Packets(session)
    }
}
