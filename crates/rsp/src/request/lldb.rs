//! The packets that only LLDB sends.
//!
//! Source: LLDB, `docs/resources/lldbgdbremote.md`.

use super::fields::Named;
use super::{ParseError, Request, fields, registers};
use crate::hex;
use crate::thread_id::ThreadSpec;

/// ```text
/// qHostInfo   qProcessInfo   jThreadsInfo   qShlibInfoAddr   qGetWorkingDir   …   nothing follows
/// qMemoryRegionInfo[:addr]   qProcessInfoPID:pid   QSaveRegisterState[;thread:tid;]
/// QRestoreRegisterState:id[;thread:tid;]   jGetLoadedDynamicLibrariesInfos:json   qEcho:…
/// ```
pub(super) fn parse(packet: Named<'_>) -> Result<Request<'_>, ParseError> {
    let rest = packet.rest;
    match (packet.name, packet.separator) {
        (b"qHostInfo", None) => Ok(Request::HostInfo),
        (b"qProcessInfo", None) => Ok(Request::ProcessInfo),
        (b"jThreadsInfo", None) => Ok(Request::ThreadsInfo),
        (b"QThreadSuffixSupported", None) => Ok(Request::EnableThreadSuffix),
        (b"QListThreadsInStopReply", None) => Ok(Request::EnableThreadsInStopReply),
        (b"QEnableErrorStrings", None) => Ok(Request::EnableErrorStrings),
        (b"qShlibInfoAddr", None) => Ok(Request::ShlibInfoAddress),
        (b"qVAttachOrWaitSupported", None) => Ok(Request::AttachOrWaitSupported),
        (b"qStructuredDataPlugins", None) => Ok(Request::StructuredDataPlugins),
        (b"qGetWorkingDir", None) => Ok(Request::WorkingDirectory),
        (b"qGDBServerVersion", None) => Ok(Request::ServerVersion),
        (b"qWatchpointSupportInfo", None | Some(b':')) => {
            fields::end(rest).map(|()| Request::WatchpointSupport)
        }
        (b"qSupportsDetachAndStayStopped", None | Some(b':')) => {
            fields::end(rest).map(|()| Request::DetachStoppedSupported)
        }
        (b"qMemoryRegionInfo", None) => Ok(Request::MemoryRegionSupported),
        (b"qMemoryRegionInfo", Some(b':')) => hex::parse_u64(rest).map(Request::MemoryRegion),
        (b"qProcessInfoPID", Some(b':')) => decimal(rest).map(Request::ProcessInfoOf),
        (b"QSaveRegisterState", None | Some(b';')) => registers::save(rest),
        (b"QRestoreRegisterState", Some(b':')) => registers::restore(rest),
        (b"jGetLoadedDynamicLibrariesInfos", Some(b':')) => {
            fields::text(rest).map(Request::LoadedLibraries)
        }
        (b"qEcho", Some(b':')) => Ok(Request::Echo(packet.whole)),
        (name, None) => glued(name),
        _ => Ok(Request::Unknown),
    }
}

/// The two packets that have no separator after the name.
///
/// ```text
/// qRegisterInfo n          qThreadStopInfo tid
///               └ hex
/// ```
fn glued(name: &[u8]) -> Result<Request<'_>, ParseError> {
    if let Some(number) = name.strip_prefix(b"qRegisterInfo") {
        return hex::parse_u32(number).map(Request::RegisterInfo);
    }
    if let Some(thread) = name.strip_prefix(b"qThreadStopInfo") {
        return ThreadSpec::parse(thread).map(Request::ThreadStopInfo);
    }
    Ok(Request::Unknown)
}

/// ```text
/// _M len,permissions          _m addr
/// ```
pub(super) fn memory(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    match rest.split_first() {
        Some((b'M', rest)) => {
            let (len, permissions) = fields::split(rest, b',')?;
            let len_bytes = hex::parse_u64(len)?;
            if !permissions
                .iter()
                .all(|letter| matches!(letter, b'r' | b'w' | b'x'))
            {
                return Err(ParseError::BadValue);
            }
            Ok(Request::AllocateMemory {
                len_bytes,
                permissions: fields::text(permissions)?,
            })
        }
        Some((b'm', address)) => hex::parse_u64(address).map(Request::DeallocateMemory),
        _ => Ok(Request::Unknown),
    }
}

/// Reads a decimal number of at most 32 bits, without a sign.
pub(super) fn decimal(digits: &[u8]) -> Result<u32, ParseError> {
    if digits.is_empty() {
        return Err(ParseError::MissingField);
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(ParseError::BadValue);
    }
    fields::text(digits)?
        .parse()
        .map_err(|_| ParseError::NumberTooLarge)
}
