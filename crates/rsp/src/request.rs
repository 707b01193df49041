//! Typed requests, parsed without copying.
//!
//! [`Request::parse`] looks at a packet's first byte and, for the named packets, at the whole name
//! up to its separator, so `qC` never matches `qCRC`. What follows has one file per packet family,
//! with the packet's bytes drawn above each parser:
//!
//! | file | packets |
//! |---|---|
//! | `registers` | `g G p P`, `QSaveRegisterState`, `QRestoreRegisterState` |
//! | `memory` | `m M x X`, `qCRC`, `qSearch:memory` |
//! | `resume` | `c C s S`, `vCont` |
//! | `breakpoint` | `z Z` with conditions and commands |
//! | `session` | `? k D H T`, `vKill`, `vAttach` |
//! | `features` | `qSupported` |
//! | `transfer` | `qXfer` |
//! | `file` | `vFile` |
//! | `query` | the other `q` and `Q` packets |
//! | `lldb` | the packets only LLDB sends |
//!
//! A packet not known gives [`Request::Unknown`], whose reply is empty; a known one that is
//! malformed gives a [`ParseError`], whose reply is an `E`. Parsing never allocates, and its work
//! is linear in the packet's length.
//!
//! Source: GDB manual, "Packets", "General Query Packets", "vCont Packets", "Host I/O Packets";
//! LLDB, `docs/resources/lldbgdbremote.md`.

mod breakpoint;
mod features;
mod fields;
mod file;
mod lldb;
mod memory;
mod query;
mod registers;
mod resume;
mod session;
mod transfer;

#[cfg(test)]
mod tests;

pub use breakpoint::{Breakpoint, BreakpointCommands, BreakpointType, Expressions};
pub use features::{Feature, FeatureValue, Features};
pub use file::FileRequest;
pub use memory::Search;
pub use query::{SignalList, SymbolAnswer, Toggle};
pub use resume::{Action, ActionKind, Actions};
pub use session::{AfterDetach, AttachWay, ThreadUse};
pub use transfer::{Transfer, TransferObject};

use crate::hex::HexBytes;
use crate::thread_id::{ProcessId, ThreadSpec};

/// Why a known packet could not be read. The fault is always the sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A part of the packet is not there.
    #[error("a field is missing")]
    MissingField,
    /// More follows where the packet should end.
    #[error("unexpected bytes after the last field")]
    TrailingBytes,
    /// A byte that is no hex digit stands where a number or hex bytes should.
    #[error("not a hexadecimal digit")]
    NotHex,
    /// Hex bytes with half a byte at the end.
    #[error("odd number of hexadecimal digits")]
    OddDigits,
    /// A number does not fit its field.
    #[error("number too large")]
    NumberTooLarge,
    /// A field that has few valid values has another one.
    #[error("value out of range")]
    BadValue,
    /// No thread or process id in any of its forms.
    #[error("malformed thread or process id")]
    BadThreadId,
    /// A count of bytes in the packet is not the number of bytes that follow.
    #[error("length says {declared_bytes} bytes, {actual_bytes} follow")]
    LengthMismatch {
        /// The count in the packet, in bytes of data.
        declared_bytes: u64,
        /// The bytes of data that are there.
        actual_bytes: u64,
    },
    /// A field that has to be text is not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// The packet is of no kind known here. [`Request::parse`] never returns this.
    #[error("unknown packet")]
    UnknownPacket,
}

/// A request, with its variable parts borrowed from the packet.
///
/// A `thread` of the register requests is LLDB's suffix; without one the thread chosen by `Hg` is
/// meant. Addresses are guest-virtual unless the session chose otherwise by
/// [`Self::SetPhysicalMemoryMode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request<'a> {
    /// Anything not known. The reply is empty.
    Unknown,

    // Session.
    /// `?`: why is the target stopped?
    StopReason,
    /// `k`: end the target. No reply.
    Kill,
    /// `vKill;pid`: end this process, and reply.
    KillProcess(ProcessId),
    /// `D`, `D;pid`, LLDB's `D1`: end the session.
    Detach {
        /// The process, with `multiprocess`.
        process: Option<ProcessId>,
        /// What the target does then.
        after: AfterDetach,
    },
    /// `qSupportsDetachAndStayStopped:`: is `D1` known?
    DetachStoppedSupported,
    /// `Hc`, `Hg`: choose the thread for later packets.
    SetThread {
        /// For which packets.
        usage: ThreadUse,
        /// The thread.
        thread: ThreadSpec,
    },
    /// `T`: is this thread alive?
    ThreadAlive(ThreadSpec),
    /// `vAttach`, `vAttachName`, `vAttachWait`, `vAttachOrWait`.
    Attach(AttachWay<'a>),

    // Registers.
    /// `g`: all registers of the description, in its order.
    ReadRegisters {
        /// LLDB's suffix.
        thread: Option<ThreadSpec>,
    },
    /// `G`: write all registers.
    WriteRegisters {
        /// Their bytes in target order, as `g` gives them.
        data: HexBytes<'a>,
        /// LLDB's suffix.
        thread: Option<ThreadSpec>,
    },
    /// `p`: one register.
    ReadRegister {
        /// Its number in the target description.
        number: u32,
        /// LLDB's suffix.
        thread: Option<ThreadSpec>,
    },
    /// `P`: write one register.
    WriteRegister {
        /// Its number in the target description.
        number: u32,
        /// Its bytes in target order. Not empty.
        value: HexBytes<'a>,
        /// LLDB's suffix.
        thread: Option<ThreadSpec>,
    },
    /// `QSaveRegisterState`: keep all registers and reply with a number for them.
    SaveRegisters {
        /// LLDB's suffix.
        thread: Option<ThreadSpec>,
    },
    /// `QRestoreRegisterState`: write back what was kept.
    RestoreRegisters {
        /// The number that the save replied.
        id: u32,
        /// LLDB's suffix.
        thread: Option<ThreadSpec>,
    },

    // Memory.
    /// `m`: read, reply in hex. A length past what a reply holds is to be shortened.
    ReadMemory {
        /// Where.
        address: u64,
        /// How much is asked for; any value.
        len_bytes: u64,
    },
    /// `x`: read, reply `b` and binary data. Shortened as `m`. LLDB before version 21 probes with
    /// a length of 0 and wants `OK` and then no `b`.
    ReadMemoryBinary {
        /// Where.
        address: u64,
        /// How much is asked for; any value.
        len_bytes: u64,
    },
    /// `M`: write.
    WriteMemory {
        /// Where.
        address: u64,
        /// What; as long as the packet says.
        data: HexBytes<'a>,
    },
    /// `X`: write. No data is GDB's way to ask whether the packet is known.
    WriteMemoryBinary {
        /// Where.
        address: u64,
        /// What; as long as the packet says.
        data: &'a [u8],
    },
    /// `_M`: allocate memory in the target, for expressions.
    AllocateMemory {
        /// How much.
        len_bytes: u64,
        /// Letters of `rwx`.
        permissions: &'a str,
    },
    /// `_m`: free what was allocated at this address.
    DeallocateMemory(u64),
    /// `qCRC`: the CRC-32 of a range.
    Crc {
        /// Where.
        address: u64,
        /// How much; any value.
        len_bytes: u64,
    },
    /// `qSearch:memory`: find bytes in a range.
    SearchMemory(Search<'a>),
    /// `qMemoryRegionInfo:addr`: the region an address is in.
    MemoryRegion(u64),
    /// `qMemoryRegionInfo`: is the packet known?
    MemoryRegionSupported,

    // Resume.
    /// `c`, `C`: continue; for the thread that `Hc` chose.
    Continue {
        /// The signal to deliver, of a `C`.
        signal: Option<u8>,
        /// Where to go on, if not where it stopped.
        address: Option<u64>,
    },
    /// `s`, `S`: step; for the thread that `Hc` chose.
    Step {
        /// The signal to deliver, of an `S`.
        signal: Option<u8>,
        /// Where to go on, if not where it stopped.
        address: Option<u64>,
    },
    /// `vCont;`: an action per thread. The first action that fits a thread is its own.
    Resume(Actions<'a>),
    /// `vCont?`: which actions are known?
    ResumeActions,
    /// `vCtrlC`: stop, as by the byte 03h.
    Interrupt,

    // Breakpoints.
    /// `Z0` to `Z4`.
    InsertBreakpoint(Breakpoint<'a>),
    /// `z0` to `z4`. Conditions and commands, should there be any, mean nothing.
    RemoveBreakpoint(Breakpoint<'a>),

    // Queries and settings.
    /// `qSupported`.
    Supported(Features<'a>),
    /// `QStartNoAckMode`.
    StartNoAckMode,
    /// `qXfer:object:…`.
    Transfer(Transfer<'a>),
    /// `vFile:…`.
    File(FileRequest<'a>),
    /// `qRcmd`: a command of the user's, by `monitor` or `process plugin packet monitor`.
    Monitor(HexBytes<'a>),
    /// `qC`: the current thread.
    CurrentThread,
    /// `qfThreadInfo`: the first piece of the list of threads.
    FirstThreads,
    /// `qsThreadInfo`: the next piece.
    NextThreads,
    /// `qThreadExtraInfo`: a text about a thread.
    ThreadExtraInfo(ThreadSpec),
    /// `qAttached`: was the process there before us?
    Attached(Option<ProcessId>),
    /// `qOffsets`: how far are the sections moved?
    Offsets,
    /// `qSymbol`: the client offers symbols, or answers about one.
    Symbol(SymbolAnswer<'a>),
    /// `QThreadEvents`: report threads that start and end.
    SetThreadEvents(Toggle),
    /// `QNonStop`.
    SetNonStop(Toggle),
    /// `QPassSignals`: signals that need no stop.
    PassSignals(SignalList<'a>),
    /// `QProgramSignals`: signals that the target may be given.
    ProgramSignals(SignalList<'a>),
    /// `vStopped`: the next pending stop, in non-stop mode.
    NextStopped,
    /// `Qqemu.PhyMemMode`: do addresses mean physical ones from now on?
    SetPhysicalMemoryMode(Toggle),
    /// `qqemu.PhyMemMode`: what was set?
    PhysicalMemoryMode,

    // LLDB.
    /// `qHostInfo`.
    HostInfo,
    /// `qProcessInfo`.
    ProcessInfo,
    /// `qProcessInfoPID:pid`. The number is decimal.
    ProcessInfoOf(u32),
    /// `qRegisterInfo`: the description of one register; past the last one, an error.
    RegisterInfo(u32),
    /// `jThreadsInfo`: stop reasons of all threads, as JSON.
    ThreadsInfo,
    /// `qThreadStopInfo`: a stop reply for this thread.
    ThreadStopInfo(ThreadSpec),
    /// `QThreadSuffixSupported`: register packets will name their thread.
    EnableThreadSuffix,
    /// `QListThreadsInStopReply`: stop replies shall list all threads.
    EnableThreadsInStopReply,
    /// `QEnableErrorStrings`: errors may be followed by text.
    EnableErrorStrings,
    /// `qWatchpointSupportInfo:`: how many watchpoints are there?
    WatchpointSupport,
    /// `qShlibInfoAddr`: where is the list of shared libraries?
    ShlibInfoAddress,
    /// `qVAttachOrWaitSupported`.
    AttachOrWaitSupported,
    /// `qStructuredDataPlugins`.
    StructuredDataPlugins,
    /// `jGetLoadedDynamicLibrariesInfos:`, with its JSON argument.
    LoadedLibraries(&'a str),
    /// `qGetWorkingDir`.
    WorkingDirectory,
    /// `qEcho:`: the reply is the whole packet, which is here.
    Echo(&'a [u8]),
    /// `qGDBServerVersion`.
    ServerVersion,
}

impl<'a> Request<'a> {
    /// Reads a packet's body, as [`crate::Event::Packet`] gives it.
    ///
    /// # Errors
    /// A [`ParseError`] for a known packet that is malformed.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ParseError> {
        let Some((&first, rest)) = payload.split_first() else {
            return Ok(Self::Unknown);
        };
        match first {
            b'?' => fields::end(rest).map(|()| Self::StopReason),
            b'g' => registers::read_all(rest),
            b'G' => registers::write_all(rest),
            b'p' => registers::read_one(rest),
            b'P' => registers::write_one(rest),
            b'm' => memory::read(rest),
            b'x' => memory::read_binary(rest),
            b'M' => memory::write(rest),
            b'X' => memory::write_binary(rest),
            b'_' => lldb::memory(rest),
            b'c' => resume::continue_at(rest),
            b'C' => resume::continue_with_signal(rest),
            b's' => resume::step_at(rest),
            b'S' => resume::step_with_signal(rest),
            b'z' => breakpoint::remove(rest),
            b'Z' => breakpoint::insert(rest),
            b'k' => fields::end(rest).map(|()| Self::Kill),
            b'D' => session::detach(rest),
            b'H' => session::set_thread(rest),
            b'T' => ThreadSpec::parse(rest).map(Self::ThreadAlive),
            b'v' | b'q' | b'Q' | b'j' => Self::parse_named(payload),
            _ => Ok(Self::Unknown),
        }
    }

    fn parse_named(payload: &'a [u8]) -> Result<Self, ParseError> {
        let named = fields::Named::split(payload);
        match payload.first() {
            Some(b'v') => session::verbose(named),
            _ => query::parse(named),
        }
    }
}
