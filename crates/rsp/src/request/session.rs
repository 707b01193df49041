//! Sessions, threads chosen for later packets, and the `v` packets.

use super::fields::Named;
use super::{ParseError, Request, file, resume};
use crate::hex::{self, HexBytes};
use crate::thread_id::{ProcessId, ThreadSpec};

/// What the target does after a detach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDetach {
    /// It runs on.
    Run,
    /// It stays stopped: LLDB's `detach --keep-stopped true`.
    StayStopped,
}

/// The packets that a choice of thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadUse {
    /// `Hc`: `c`, `C`, `s` and `S`.
    Resume,
    /// `Hg`: all others, such as `g` and `m`.
    Other,
}

/// How a client asks to attach. A server of one guest refuses all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachWay<'a> {
    /// `vAttach;pid`
    Process(ProcessId),
    /// `vAttachName;name`
    Name(HexBytes<'a>),
    /// `vAttachWait;name`: to the next that starts.
    Wait(HexBytes<'a>),
    /// `vAttachOrWait;name`: to one that runs or else to the next that starts.
    OrWait(HexBytes<'a>),
}

/// ```text
/// D     D;pid     D1     D1;pid
///                  └ LLDB: stay stopped
/// ```
pub(super) fn detach(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (after, rest) = match rest.strip_prefix(b"1") {
        Some(rest) => (AfterDetach::StayStopped, rest),
        None => (AfterDetach::Run, rest),
    };
    let process = match rest.split_first() {
        None => None,
        Some((b';', pid)) => Some(ProcessId::parse(pid)?),
        Some(_) => return Err(ParseError::TrailingBytes),
    };
    Ok(Request::Detach { process, after })
}

/// ```text
/// H op tid
///   └ c or g
/// ```
pub(super) fn set_thread(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (&operation, thread) = rest.split_first().ok_or(ParseError::MissingField)?;
    let usage = match operation {
        b'c' => ThreadUse::Resume,
        b'g' => ThreadUse::Other,
        _ => return Ok(Request::Unknown),
    };
    Ok(Request::SetThread {
        usage,
        thread: ThreadSpec::parse(thread)?,
    })
}

/// The packets whose name starts with `v`.
///
/// ```text
/// vCont?     vCont;actions     vCtrlC     vStopped     vFile:…     vKill;pid
/// vAttach;pid     vAttachName;name     vAttachWait;name     vAttachOrWait;name
/// ```
pub(super) fn verbose(packet: Named<'_>) -> Result<Request<'_>, ParseError> {
    let rest = packet.rest;
    match (packet.name, packet.separator) {
        (b"vCont?", None) => Ok(Request::ResumeActions),
        (b"vCont", Some(b';')) => resume::actions(rest),
        (b"vCont", _) => Err(ParseError::MissingField),
        (b"vCtrlC", None) => Ok(Request::Interrupt),
        (b"vStopped", None) => Ok(Request::NextStopped),
        (b"vFile", Some(b':')) => file::parse(rest),
        (b"vKill", Some(b';')) => ProcessId::parse(rest).map(Request::KillProcess),
        (b"vAttach", Some(b';')) => ProcessId::parse(rest)
            .map(AttachWay::Process)
            .map(Request::Attach),
        (b"vAttachName", Some(b';')) => named(rest, AttachWay::Name),
        (b"vAttachWait", Some(b';')) => named(rest, AttachWay::Wait),
        (b"vAttachOrWait", Some(b';')) => named(rest, AttachWay::OrWait),
        _ => Ok(Request::Unknown),
    }
}

fn named<'a>(
    name: &'a [u8],
    way: fn(HexBytes<'a>) -> AttachWay<'a>,
) -> Result<Request<'a>, ParseError> {
    HexBytes::parse(name).map(way).map(Request::Attach)
}

/// ```text
/// qAttached [:pid]
/// ```
pub(super) fn attached(packet: Named<'_>) -> Result<Request<'_>, ParseError> {
    let process = match packet.separator {
        None => None,
        Some(_) => Some(hex::parse_u32(packet.rest).map(ProcessId::new)?),
    };
    Ok(Request::Attached(process))
}
