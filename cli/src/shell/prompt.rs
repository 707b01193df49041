//! A prompt that follows the guest while the user types.

use core::cell::OnceCell;
use rustyline::Prompt;

use super::notices::{GuestState, Notices};

/// The prompt. The editor asks for its text each time that it draws the line, so a stop that is
/// shown above it changes it. Its width must not change meanwhile: the texts for a running and a
/// stopped guest are of one length, and a vCPU whose number has more digits, or fewer, than the one
/// at first appears in the next prompt.
#[derive(Debug)]
pub(super) struct LivePrompt {
    notices: Notices,
    first: GuestState,
    /// The lowest number with as many digits as the vCPU at first, and a text for each number from
    /// that on, running and stopped, made when it is needed.
    lowest: u32,
    texts: Vec<[OnceCell<String>; 2]>,
}

/// The most digits of a vCPU's number for which the prompt follows from vCPU to vCPU.
const MAX_DIGITS: u32 = 3;

impl LivePrompt {
    pub(super) fn new(notices: &Notices) -> Self {
        let first = notices.state();
        let digits = first.vcpu.checked_ilog10().unwrap_or(0) + 1;
        let lowest = if digits == 1 {
            0
        } else {
            10_u32.pow(digits - 1)
        };
        let count = match digits {
            1..=MAX_DIGITS => 10_usize.pow(digits),
            _ => 0,
        };
        Self {
            notices: notices.clone(),
            first,
            lowest,
            texts: (0..count).map(|_| Default::default()).collect(),
        }
    }

    /// Returns the place of a state's text, if it is as long as the first.
    fn place(&self, state: GuestState) -> Option<&OnceCell<String>> {
        let digits = |vcpu: u32| vcpu.checked_ilog10().unwrap_or(0);
        if digits(state.vcpu) != digits(self.first.vcpu) {
            return None;
        }
        let index = usize::try_from(state.vcpu.checked_sub(self.lowest)?).ok()?;
        self.texts.get(index)?.get(usize::from(state.is_running))
    }
}

impl Prompt for LivePrompt {
    fn raw(&self) -> &str {
        let now = self.notices.state();
        [now, self.first]
            .into_iter()
            .find_map(|state| Some((self.place(state)?, state)))
            .map_or(FALLBACK, |(place, state)| place.get_or_init(|| text(state)))
    }
}

/// The prompt where none of the others fits.
const FALLBACK: &str = "trapline> ";

fn text(state: GuestState) -> String {
    let doing = if state.is_running {
        "running"
    } else {
        "stopped"
    };
    format!("vcpu {} {doing}> ", state.vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Notice;

    #[test]
    fn the_prompt_follows_the_guest_at_one_width() {
        let notices = Notices::default();
        let event = |text: &str| notices.receive(Notice::Event(text.into()));
        event("the guest runs");
        let prompt = LivePrompt::new(&notices);
        assert_eq!(prompt.raw(), "vcpu 0 running> ");
        event("vCPU 3 stopped by request");
        assert_eq!(prompt.raw(), "vcpu 3 stopped> ");
        event("vCPU 10 stopped by request");
        assert_eq!(prompt.raw(), "vcpu 0 running> ");
        assert_eq!(LivePrompt::new(&notices).raw(), "vcpu 10 stopped> ");
    }

    #[test]
    fn every_number_has_a_prompt() {
        for vcpu in [0, 9, 10, 99, 100, 999] {
            let notices = Notices::default();
            notices.note_answer("vcpu", &format!("vCPU {vcpu}: stopped"));
            let prompt = LivePrompt::new(&notices);
            assert_eq!(prompt.raw(), format!("vcpu {vcpu} stopped> "));
        }
        let notices = Notices::default();
        notices.note_answer("vcpu", "vCPU 1000: stopped");
        assert_eq!(LivePrompt::new(&notices).raw(), FALLBACK);
    }
}
