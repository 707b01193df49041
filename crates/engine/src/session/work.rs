//! Requests that take longer than a moment: they are carried out in turns of bounded work, between
//! which other clients are served and stops are told (rule S3).
//!
//! ```text
//!  a request ──▶ its first turn ──▶ answered
//!                  │        ▲
//!                  ▼        │ Engine::work: the next turn, in a pause if the guest runs
//!            waits in the Wire, with its Work in the Session
//! ```
//!
//! In each turn the request is answered anew from its packet; [`Work`] says how far it is. The guest
//! may have run between two turns, so a long search is no picture of one moment.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Session;
use crate::contract::{FindProgress, VcpuId};
use crate::core::Context;
use crate::monitor::Finding;

/// How far a request is.
#[derive(Debug)]
pub(crate) enum Work {
    /// The guest's operating system is being looked for.
    System,
    /// The kernel's image is being looked for, as this vCPU sees memory.
    Image(VcpuId),
    /// `qCRC`.
    Crc {
        /// How much memory is in it.
        done_bytes: u64,
        /// The sum of that.
        crc: u32,
    },
    /// `qSearch:memory`.
    Search {
        /// Where to read next.
        next: u64,
        /// What precedes that and may be the pattern's beginning.
        window: Vec<u8>,
    },
    /// The command `find`.
    Find(Box<Finding>),
    /// The client has interrupted it.
    Cancelled,
}

/// What a turn of a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is an answer.
    Done,
    /// There is more to be done.
    More,
}

/// Through how many vCPUs' eyes a kernel's image is looked for: one may be off, in firmware or in a program.
const IMAGE_VCPUS: u32 = 4;

impl Session {
    /// Looks for the kernel's image for one turn, which is done at once where it is known. After [`Turn::More`]
    /// the request is to be answered by [`Answer::Unfinished`](super::Answer).
    pub(crate) fn look_for_image(&mut self, context: &mut Context<'_>) -> Turn {
        let mut vcpu = match &self.work {
            Some(Work::Image(vcpu)) => *vcpu,
            _ => VcpuId(0),
        };
        if context.find_image(vcpu) == FindProgress::Done {
            vcpu.0 = vcpu.0.saturating_add(1);
            let count = context.core.config.vcpu_count.min(IMAGE_VCPUS);
            if context.image().is_some() || vcpu.0 >= count {
                self.work = None;
                return Turn::Done;
            }
        }
        self.work = Some(Work::Image(vcpu));
        Turn::More
    }

    /// Looks for the guest's operating system for one turn, as `vcpu` sees memory. After
    /// [`Turn::More`] the request is to be answered by [`Answer::Unfinished`](super::Answer).
    pub(crate) fn look_for_system(&mut self, vcpu: VcpuId, context: &mut Context<'_>) -> Turn {
        match &self.work {
            None => context.ask_for_os(),
            Some(Work::System) => {}
            // It was looked for in an earlier turn.
            Some(_) => return Turn::Done,
        }
        let progress = context.find_os(vcpu);
        self.work = (progress == FindProgress::More).then_some(Work::System);
        match progress {
            FindProgress::More => Turn::More,
            FindProgress::Done => Turn::Done,
        }
    }
}
