//! Stop replies, in GDB's and in LLDB's form.
//!
//! ```text
//! T05 thread:2; swbreak:; 10:…; 07:…; 06:…;              GDB: reason, then registers by number
//! T05 thread:2; threads:1,2; reason:breakpoint; 00:…;…   LLDB: reason by name, all of `g`
//! ```
//!
//! Source: GDB manual, "Stop Reply Packets"; LLDB, "Stop reply packet extensions".

use alloc::vec::Vec;

use trapline_arch::Gva;
use trapline_rsp::Encoder;

use super::describe::describe_failure;
use super::lldb::Expedited;
use super::registers::read_entry;
use super::threads::thread_of;
use super::{Answer, Answered, Session};
use crate::contract::{GuestEnd, StopReason, VcpuId, WatchKind};
use crate::core::Context;
use crate::points::{PointKey, PointKind};
use crate::run_control::Stop;

/// SIGINT, SIGTRAP, SIGABRT, SIGKILL as GDB numbers them.
const SIGINT: u8 = 2;
const SIGTRAP: u8 = 5;
const SIGABRT: u8 = 6;
const SIGKILL: u8 = 9;

fn signal(reason: StopReason, is_attach: bool) -> u8 {
    match reason {
        StopReason::Paused if is_attach => SIGTRAP,
        StopReason::Paused => SIGINT,
        StopReason::Ended(GuestEnd::PowerOff | GuestEnd::Reset) => SIGTRAP,
        StopReason::Ended(_) | StopReason::Failed(_) => SIGABRT,
        _ => SIGTRAP,
    }
}

/// Returns the signal and LLDB's name for a reason.
pub(super) fn signal_and_name(reason: StopReason) -> (u8, &'static str) {
    (signal(reason, false), reason_name(reason))
}

/// Writes that the guest is gone: an exit, or the end by a signal.
pub(super) fn exited(end: GuestEnd, out: &mut Encoder<'_>) {
    match end {
        GuestEnd::PowerOff | GuestEnd::Reset => out.text("W00"),
        GuestEnd::Killed => out.text("X").hex_bytes(&[SIGKILL]),
        GuestEnd::TripleFault | GuestEnd::EntryFailed(_) | GuestEnd::InternalError(_) => {
            out.text("X").hex_bytes(&[SIGABRT])
        }
    };
}

/// Returns LLDB's name for a reason.
fn reason_name(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Step => "trace",
        StopReason::SoftwareBreakpoint { .. } | StopReason::HardwareBreakpoint { .. } => {
            "breakpoint"
        }
        StopReason::Watchpoint { .. } => "watchpoint",
        _ => "signal",
    }
}

fn watch_key(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::Write => "watch",
        WatchKind::Read => "rwatch",
        WatchKind::Access => "awatch",
    }
}

impl Session {
    /// Writes the stop reply for a stop that is being reported.
    pub(super) fn stop_reply(
        &mut self,
        stop: Stop,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) {
        let is_attach = !context.core.has_started || core::mem::take(&mut self.is_attaching);
        out.stop(signal(stop.reason, is_attach));
        out.key_thread("thread", thread_of(stop.vcpu));
        if self.features.threads_in_stop_reply {
            self.thread_list(out, context);
        }
        self.reason(stop.reason, out, context);
        self.expedite(stop.vcpu, out, context);
    }

    fn reason(&self, reason: StopReason, out: &mut Encoder<'_>, context: &Context<'_>) {
        if self.is_lldb {
            out.key_text("reason", reason_name(reason));
            if let StopReason::Watchpoint {
                watched, address, ..
            } = reason
            {
                let slot = context
                    .core
                    .points
                    .published()
                    .slot_watching(watched)
                    .unwrap_or(0);
                let text = alloc::format!("{} {slot} {}", watched.0, address.0);
                out.key_hex_text("description", &text);
            } else if let Some(text) = describe_failure(reason) {
                out.key_hex_text("description", &text);
            }
            return;
        }
        match reason {
            StopReason::Watchpoint { kind, address, .. } => {
                out.key_hex(watch_key(kind), address.0);
            }
            StopReason::SoftwareBreakpoint { address, .. }
                if self.features.software_breakpoint_reason
                    && self.has_planted(PointKind::SoftwareBreakpoint, address, context) =>
            {
                out.key_text("swbreak", "");
            }
            StopReason::HardwareBreakpoint { address }
                if self.features.hardware_breakpoint_reason
                    && self.has_planted(PointKind::HardwareBreakpoint, address, context) =>
            {
                out.key_text("hwbreak", "");
            }
            _ => {}
        }
    }

    /// Returns whether this client's packets planted a breakpoint. GDB resumes by itself after the
    /// hit of a breakpoint that it does not know, so it must not be told of another client's as one
    /// (rule S1).
    fn has_planted(&self, kind: PointKind, address: Gva, context: &Context<'_>) -> bool {
        let len = 1;
        let key = PointKey { kind, address, len };
        context.core.points.is_claimed_by(self.id.into(), key)
    }

    /// Sends the registers that the client asks for first at every stop.
    fn expedite(&mut self, vcpu: VcpuId, out: &mut Encoder<'_>, context: &mut Context<'_>) {
        let layout = self.layout(context);
        let registers = if self.is_lldb {
            Expedited::All
        } else {
            Expedited::Main
        };
        for entry in layout
            .g_entries()
            .iter()
            .filter(|entry| registers.has(entry))
        {
            let mut value = Vec::new();
            if read_entry(vcpu, entry, &mut value, context).is_ok() {
                out.register(entry.number, &value);
            }
        }
    }

    /// Lists all threads and their pcs, so that LLDB need not ask for each.
    fn thread_list(&self, out: &mut Encoder<'_>, context: &mut Context<'_>) {
        let ids: Vec<VcpuId> = context.core.run.vcpu_ids().collect();
        for (key, pcs) in [("threads:", false), ("thread-pcs:", true)] {
            let mut separator = key;
            for &vcpu in &ids {
                out.text(separator);
                if pcs {
                    out.hex_u64(context.pc(vcpu).map_or(0, |pc| pc.0));
                } else {
                    out.thread(thread_of(vcpu));
                }
                separator = ",";
            }
            out.text(";");
        }
    }

    /// Answers `qThreadStopInfo`: the stop reply as this thread sees it.
    pub(super) fn thread_stop_info(
        &mut self,
        vcpu: VcpuId,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let last = context.core.run.last_stop();
        if last.vcpu == vcpu {
            self.stop_reply(last, out, context);
            return Ok(Answer::Reply);
        }
        out.stop(0);
        out.key_thread("thread", thread_of(vcpu));
        self.expedite(vcpu, out, context);
        Ok(Answer::Reply)
    }
}
