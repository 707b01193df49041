//! Breakpoints and watchpoints, with conditions and commands for the target's side.
//!
//! ```text
//! Z type,addr,kind [;X len,expr X len,expr…] [;cmds:persist,X len,expr X len,expr…]
//! z type,addr,kind
//!   │         │       │    └ agent bytecode, `len` bytes in hex    └ 1: outlive the client
//!   │         │       └ a list without separators; a `;` between is taken too
//!   │         └ length in bytes of the instruction or of the watched range
//!   └ 0 software, 1 hardware, 2 write, 3 read, 4 access
//! ```
//! Source: GDB manual, "Packets", `Z0` to `Z4`; LLDB sends the same without lists.

use super::{ParseError, Request, fields};
use crate::hex::{self, HexBytes};

/// What a breakpoint watches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakpointType {
    /// `0`: execution, by a changed instruction.
    Software,
    /// `1`: execution, by a debug register.
    Hardware,
    /// `2`: data is written.
    WriteWatch,
    /// `3`: data is read.
    ReadWatch,
    /// `4`: data is read or written.
    AccessWatch,
}

/// A breakpoint as a packet names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakpoint<'a> {
    /// What it watches for.
    pub ty: BreakpointType,
    /// Where.
    pub address: u64,
    /// The target's kind of instruction (on most targets its length in bytes), or the length in
    /// bytes of the watched range.
    pub kind: u64,
    /// It stops if one of these is true, or always if there are none.
    pub conditions: Expressions<'a>,
    /// What the target does at each stop by itself.
    pub commands: Option<BreakpointCommands<'a>>,
}

/// Commands run where the target stopped, such as `dprintf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakpointCommands<'a> {
    /// Whether they are to run on after the client has gone.
    pub persist: bool,
    /// The commands' bytecode.
    pub list: Expressions<'a>,
}

/// A list of agent expressions, each known to be as long as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Expressions<'a>(&'a [u8]);

impl<'a> Expressions<'a> {
    /// Tells whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Yields the expressions' bytecode in order.
    pub fn iter(self) -> impl Iterator<Item = HexBytes<'a>> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            // All were parsed once before, so nothing is left over.
            let (expression, tail) = expression(rest).ok()?;
            rest = tail;
            Some(expression)
        })
    }

    fn parse(list: &'a [u8]) -> Result<Self, ParseError> {
        let mut rest = list;
        while !rest.is_empty() {
            (_, rest) = expression(rest)?;
        }
        Ok(Self(list))
    }
}

pub(super) fn insert(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    Ok(breakpoint(rest)?.map_or(Request::Unknown, Request::InsertBreakpoint))
}

pub(super) fn remove(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    Ok(breakpoint(rest)?.map_or(Request::Unknown, Request::RemoveBreakpoint))
}

/// Reads what follows the letter. `None` is a type not known, whose reply has to be empty.
fn breakpoint(rest: &[u8]) -> Result<Option<Breakpoint<'_>>, ParseError> {
    let (ty, rest) = fields::split(rest, b',')?;
    let ty = match hex::parse_u8(ty)? {
        0 => BreakpointType::Software,
        1 => BreakpointType::Hardware,
        2 => BreakpointType::WriteWatch,
        3 => BreakpointType::ReadWatch,
        4 => BreakpointType::AccessWatch,
        _ => return Ok(None),
    };
    let (address, rest) = fields::split(rest, b',')?;
    let (kind, lists) = fields::split_optional(rest, b';').unwrap_or((rest, b""));
    let (conditions, commands) = split_commands(lists);
    Ok(Some(Breakpoint {
        ty,
        address: hex::parse_u64(address)?,
        kind: hex::parse_u64(kind)?,
        conditions: Expressions::parse(conditions)?,
        commands: commands.map(parse_commands).transpose()?,
    }))
}

/// Cuts the lists before `cmds:`, which is the only place where that letter can be.
fn split_commands(lists: &[u8]) -> (&[u8], Option<&[u8]>) {
    const MARK: &[u8] = b"cmds:";
    let Some(at) = lists.iter().position(|&byte| byte == b'm') else {
        return (lists, None);
    };
    let Some((conditions, tail)) = lists.split_at_checked(at.saturating_sub(1)) else {
        return (lists, None);
    };
    match tail.strip_prefix(MARK) {
        Some(commands) => (
            conditions.strip_suffix(b";").unwrap_or(conditions),
            Some(commands),
        ),
        None => (lists, None),
    }
}

/// ```text
/// persist,X len,expr X len,expr…
/// ```
fn parse_commands(commands: &[u8]) -> Result<BreakpointCommands<'_>, ParseError> {
    let (persist, list) = fields::split(commands, b',')?;
    let persist = match hex::parse_u64(persist)? {
        0 => false,
        1 => true,
        _ => return Err(ParseError::BadValue),
    };
    Ok(BreakpointCommands {
        persist,
        list: Expressions::parse(list)?,
    })
}

/// Takes one expression, and a separator after it, off a list.
///
/// ```text
/// X len,XX… [;]
/// ```
fn expression(list: &[u8]) -> Result<(HexBytes<'_>, &[u8]), ParseError> {
    let list = list.strip_prefix(b"X").ok_or(ParseError::BadValue)?;
    let (len, rest) = fields::split(list, b',')?;
    let len_bytes = hex::parse_u64(len)?;
    let digit_count = usize::try_from(len_bytes)
        .ok()
        .and_then(|len| len.checked_mul(2));
    let cut = digit_count.and_then(|count| rest.split_at_checked(count));
    let Some((digits, rest)) = cut else {
        let actual_bytes = u64::try_from(rest.len() / 2).unwrap_or(u64::MAX);
        return Err(ParseError::LengthMismatch {
            declared_bytes: len_bytes,
            actual_bytes,
        });
    };
    let rest = rest.strip_prefix(b";").unwrap_or(rest);
    Ok((HexBytes::parse(digits)?, rest))
}
