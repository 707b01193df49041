//! Resuming: the old one-letter packets and `vCont`.

use super::{ParseError, Request, fields};
use crate::hex;
use crate::thread_id::ThreadSpec;

/// One action of a `vCont`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// What to do.
    pub kind: ActionKind,
    /// With which thread; `None` is all that no action before named.
    pub thread: Option<ThreadSpec>,
}

/// What a `vCont` does with a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionKind {
    /// `c`
    Continue,
    /// `C sig`
    ContinueWithSignal(u8),
    /// `s`
    Step,
    /// `S sig`
    StepWithSignal(u8),
    /// `t`: stop, in non-stop mode.
    Stop,
    /// `r start,end`: step for as long as the thread's PC is in the range after a step. An empty
    /// range is one step.
    RangeStep {
        /// The first address of the range.
        start: u64,
        /// The first address after the range.
        end: u64,
    },
}

/// The actions of a `vCont`, each known to be well formed. There is at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions<'a>(&'a [u8]);

impl<'a> Actions<'a> {
    /// Yields the actions in order. The first that fits a thread counts for it.
    pub fn iter(self) -> impl Iterator<Item = Action> + 'a {
        // All were parsed once before, so none is left out here.
        self.0
            .split(|&byte| byte == b';')
            .filter_map(|text| action(text).ok())
    }
}

/// ```text
/// vCont;action[:tid];action[:tid]…
///       └ rest
/// ```
pub(super) fn actions(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    // GDB's own server takes a trailing separator, and so do we.
    let list = rest.strip_suffix(b";").unwrap_or(rest);
    list.split(|&byte| byte == b';')
        .try_for_each(|text| action(text).map(drop))?;
    Ok(Request::Resume(Actions(list)))
}

/// ```text
/// c    C sig    s    S sig    t    r start,end        then [:tid]
/// ```
fn action(text: &[u8]) -> Result<Action, ParseError> {
    let (text, thread) = match fields::split_optional(text, b':') {
        Some((text, thread)) => (text, Some(ThreadSpec::parse(thread)?)),
        None => (text, None),
    };
    let (&letter, rest) = text.split_first().ok_or(ParseError::MissingField)?;
    let kind = match letter {
        b'c' => fields::end(rest).map(|()| ActionKind::Continue)?,
        b'C' => ActionKind::ContinueWithSignal(hex::parse_u8(rest)?),
        b's' => fields::end(rest).map(|()| ActionKind::Step)?,
        b'S' => ActionKind::StepWithSignal(hex::parse_u8(rest)?),
        b't' => fields::end(rest).map(|()| ActionKind::Stop)?,
        b'r' => {
            let (start, end) = fields::split(rest, b',')?;
            let (start, end) = (hex::parse_u64(start)?, hex::parse_u64(end)?);
            ActionKind::RangeStep { start, end }
        }
        _ => return Err(ParseError::BadValue),
    };
    Ok(Action { kind, thread })
}

/// ```text
/// c [addr]
/// ```
pub(super) fn continue_at(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    Ok(Request::Continue {
        signal: None,
        address: optional_address(rest)?,
    })
}

/// ```text
/// C sig[;addr]
/// ```
pub(super) fn continue_with_signal(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (signal, address) = signal_and_address(rest)?;
    Ok(Request::Continue {
        signal: Some(signal),
        address,
    })
}

/// ```text
/// s [addr]
/// ```
pub(super) fn step_at(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    Ok(Request::Step {
        signal: None,
        address: optional_address(rest)?,
    })
}

/// ```text
/// S sig[;addr]
/// ```
pub(super) fn step_with_signal(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    let (signal, address) = signal_and_address(rest)?;
    Ok(Request::Step {
        signal: Some(signal),
        address,
    })
}

fn optional_address(rest: &[u8]) -> Result<Option<u64>, ParseError> {
    if rest.is_empty() {
        Ok(None)
    } else {
        hex::parse_u64(rest).map(Some)
    }
}

fn signal_and_address(rest: &[u8]) -> Result<(u8, Option<u64>), ParseError> {
    match fields::split_optional(rest, b';') {
        Some((signal, address)) => Ok((hex::parse_u8(signal)?, Some(hex::parse_u64(address)?))),
        None => Ok((hex::parse_u8(rest)?, None)),
    }
}
