//! The `q` and `Q` packets of GDB that have no file of their own.

use super::fields::Named;
use super::{ParseError, Request, features, fields, lldb, memory, session, transfer};
use crate::hex::{self, HexBytes};
use crate::thread_id::ThreadSpec;

/// The value of a setting that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toggle {
    /// `0`
    Off,
    /// `1`
    On,
}

/// What a client says of symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SymbolAnswer<'a> {
    /// `qSymbol::`: it can look symbols up.
    Offer,
    /// `qSymbol:value:name`: the answer to a question of ours.
    Lookup {
        /// The symbol's value, or `None` if it has no such symbol.
        value: Option<u64>,
        /// The symbol's name.
        name: HexBytes<'a>,
    },
}

/// A list of signals, numbered as GDB does, each known to be a number of at most 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalList<'a>(&'a [u8]);

impl<'a> SignalList<'a> {
    /// Yields the signals in order.
    pub fn iter(self) -> impl Iterator<Item = u32> + 'a {
        // All were parsed once before; what is left out is an empty list's empty item.
        self.0
            .split(|&byte| byte == b';')
            .filter_map(|signal| hex::parse_u32(signal).ok())
    }

    fn parse(list: &'a [u8]) -> Result<Self, ParseError> {
        let list = list.strip_suffix(b";").unwrap_or(list);
        if !list.is_empty() {
            list.split(|&byte| byte == b';')
                .try_for_each(|one| hex::parse_u32(one).map(drop))?;
        }
        Ok(Self(list))
    }
}

/// ```text
/// qC   qfThreadInfo   qsThreadInfo   qOffsets   QStartNoAckMode   qqemu.PhyMemMode
/// qSupported[:features]   qXfer:…   qRcmd,hex   qThreadExtraInfo,tid   qAttached[:pid]
/// qSymbol:…   qCRC:addr,len   qSearch:memory:…   QThreadEvents:b   QNonStop:b
/// QPassSignals:list   QProgramSignals:list   Qqemu.PhyMemMode:b
/// ```
pub(super) fn parse(packet: Named<'_>) -> Result<Request<'_>, ParseError> {
    let rest = packet.rest;
    match (packet.name, packet.separator) {
        (b"qC", None) => Ok(Request::CurrentThread),
        (b"qfThreadInfo", None) => Ok(Request::FirstThreads),
        (b"qsThreadInfo", None) => Ok(Request::NextThreads),
        (b"qOffsets", None) => Ok(Request::Offsets),
        (b"QStartNoAckMode", None) => Ok(Request::StartNoAckMode),
        (b"qqemu.PhyMemMode", None) => Ok(Request::PhysicalMemoryMode),
        (b"qSupported", None | Some(b':')) => features::parse(rest),
        (b"qXfer", Some(b':')) => transfer::parse(rest),
        (b"qRcmd", Some(b',')) => HexBytes::parse(rest).map(Request::Monitor),
        (b"qThreadExtraInfo", Some(b',')) => ThreadSpec::parse(rest).map(Request::ThreadExtraInfo),
        (b"qAttached", None | Some(b':')) => session::attached(packet),
        (b"qSymbol", Some(b':')) => symbol(rest),
        (b"qCRC", Some(b':')) => memory::crc(rest),
        (b"qSearch", Some(b':')) => memory::search(rest),
        (b"QThreadEvents", Some(b':')) => toggle(rest).map(Request::SetThreadEvents),
        (b"QNonStop", Some(b':')) => toggle(rest).map(Request::SetNonStop),
        (b"QPassSignals", Some(b':')) => SignalList::parse(rest).map(Request::PassSignals),
        (b"QProgramSignals", Some(b':')) => SignalList::parse(rest).map(Request::ProgramSignals),
        (b"Qqemu.PhyMemMode", Some(b':')) => toggle(rest).map(Request::SetPhysicalMemoryMode),
        _ => lldb::parse(packet),
    }
}

fn toggle(value: &[u8]) -> Result<Toggle, ParseError> {
    match hex::parse_u64(value)? {
        0 => Ok(Toggle::Off),
        1 => Ok(Toggle::On),
        _ => Err(ParseError::BadValue),
    }
}

/// ```text
/// qSymbol::     qSymbol:value:name     qSymbol::name
///         └ rest starts before it; value is hex, name is hex bytes
/// ```
fn symbol(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (value, name) = fields::split(rest, b':')?;
    let value = if value.is_empty() {
        None
    } else {
        Some(hex::parse_u64(value)?)
    };
    let name = HexBytes::parse(name)?;
    Ok(Request::Symbol(match (value, name.is_empty()) {
        (None, true) => SymbolAnswer::Offer,
        (Some(_), true) => return Err(ParseError::MissingField),
        (value, false) => SymbolAnswer::Lookup { value, name },
    }))
}
