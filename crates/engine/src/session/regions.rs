//! `qMemoryRegionInfo`: where memory is mapped, and how.

use trapline_arch::Gva;
use trapline_rsp::Encoder;

use super::{Answer, Answered, Refusal, Session, reply};
use crate::core::Context;

impl Session {
    /// Answers with the mapped range or the hole that an address is in.
    pub(super) fn memory_region(
        &mut self,
        address: u64,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let space = context.address_space(self.selected)?;
        let Some(region) = space.region(context.machine.memory(), Gva(address)) else {
            return Err(Refusal::text(
                reply::EFAULT,
                "that is past the end of the address space",
            ));
        };
        out.key_hex("start", region.start.0);
        let size = region.last.0.wrapping_sub(region.start.0).saturating_add(1);
        out.key_hex("size", size);
        if let Some(allowed) = region.allowed {
            let write = if allowed.write { "w" } else { "" };
            let execute = if allowed.execute { "x" } else { "" };
            out.key_text("permissions", &alloc::format!("r{write}{execute}"));
        }
        Ok(Answer::Reply)
    }
}
