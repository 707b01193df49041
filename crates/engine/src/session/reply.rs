//! Replies that many requests share.

use alloc::string::String;

use trapline_rsp::{Encoder, ParseError, RunLength};

use super::{Answer, Answered, Session};
use crate::contract::AccessError;
use crate::points::InsertError;

/// A refusal's number for bad addresses; the numbers are those of Linux, as GDB's own server uses.
pub(crate) const EFAULT: u8 = 14;
/// A refusal's number for a request that its client has interrupted.
pub(crate) const EINTR: u8 = 4;
/// A refusal's number for a reply that does not fit.
pub(super) const ENOSPC: u8 = 28;
/// A refusal's number for bad arguments.
pub(crate) const EINVAL: u8 = 22;

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    number: u8,
    text: String,
}

impl Refusal {
    pub(crate) fn text(number: u8, text: impl Into<String>) -> Self {
        Self {
            number,
            text: text.into(),
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.text
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::text(EINVAL, alloc::format!("malformed packet: {error}"))
    }
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        Self::text(EINVAL, alloc::format!("{error}"))
    }
}

impl From<InsertError> for Refusal {
    fn from(error: InsertError) -> Self {
        Self::text(EINVAL, alloc::format!("{error}"))
    }
}

impl From<trapline_arch::RegisterError> for Refusal {
    fn from(error: trapline_arch::RegisterError) -> Self {
        Self::text(EINVAL, alloc::format!("{error}"))
    }
}

pub(super) fn ok(out: &mut Encoder<'_>) -> Answered {
    out.ok();
    Ok(Answer::Reply)
}

pub(super) fn text(out: &mut Encoder<'_>, text: &str) -> Answered {
    out.text(text);
    Ok(Answer::Reply)
}

/// Answers a packet that is not supported: an empty reply.
pub(super) fn unsupported(out: &mut Encoder<'_>) -> Answered {
    out.unsupported();
    Ok(Answer::Reply)
}

/// Completes a reply that is kept within the packet size where it is made, so that there is nothing
/// to be done about one that is too long, which the encoder takes back.
pub(super) fn finish(encoder: Encoder<'_>) {
    let finished = encoder.finish(RunLength::Off);
    debug_assert_eq!(finished, Ok(()), "a reply outgrew the packet size");
}

/// Completes a reply whose length depends on the client or the guest.
pub(super) fn try_finish(encoder: Encoder<'_>) -> Result<(), Refusal> {
    encoder
        .finish(RunLength::Off)
        .map_err(|error| Refusal::text(ENOSPC, alloc::format!("{error}")))
}

impl Session {
    /// Writes a refusal in the form that this client understands.
    pub(super) fn refuse(&self, refusal: &Refusal, out: &mut Encoder<'_>) {
        if self.features.error_text {
            out.error_text(&refusal.text);
        } else if self.features.error_strings {
            out.error_lldb(refusal.number, &refusal.text);
        } else {
            out.error(refusal.number);
        }
    }
}
