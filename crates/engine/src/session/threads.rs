//! vCPUs as the protocol's threads: vCPU n is thread n + 1, in no process.

use alloc::string::String;

use trapline_rsp::{Encoder, ThreadId, ThreadSpec};

use super::{Answer, Answered, Refusal, Session, reply};
use crate::contract::{PowerState, VcpuId};
use crate::core::Context;

/// Returns the vCPU that a thread id names, or `None` for all or any of them.
pub(super) fn vcpu_of(spec: ThreadSpec, context: &Context<'_>) -> Result<Option<VcpuId>, Refusal> {
    let ThreadId::Id(number) = spec.thread else {
        return Ok(None);
    };
    let vcpu = VcpuId(number.get().wrapping_sub(1));
    if vcpu.0 < context.core.run.vcpu_count() {
        return Ok(Some(vcpu));
    }
    let last = context.core.run.vcpu_count();
    Err(Refusal::text(
        reply::EINVAL,
        alloc::format!("there is no thread {number}: the guest's vCPUs are threads 1 to {last}"),
    ))
}

/// Returns the thread id of a vCPU.
pub(super) fn thread_of(vcpu: VcpuId) -> ThreadSpec {
    ThreadSpec::thread(ThreadId::new(vcpu.0.wrapping_add(1)))
}

/// Returns what `info threads` shows beside a vCPU.
pub(super) fn describe(vcpu: VcpuId, context: &mut Context<'_>) -> String {
    let state = match context.machine.power_state(vcpu) {
        PowerState::On => {
            let (mode, ring) = super::describe::mode_and_ring(vcpu, context);
            return alloc::format!("vCPU {}: {mode}, {ring}", vcpu.0);
        }
        PowerState::Halted => "halted",
        PowerState::WaitingForStart => "waiting to be started",
    };
    alloc::format!("vCPU {}: {state}", vcpu.0)
}

impl Session {
    /// Answers `qfThreadInfo` with all threads: the limit of vCPUs fits one packet.
    pub(super) fn first_threads(out: &mut Encoder<'_>, context: &Context<'_>) -> Answered {
        let mut separator = "m";
        for vcpu in context.core.run.vcpu_ids() {
            out.text(separator).thread(thread_of(vcpu));
            separator = ",";
        }
        Ok(Answer::Reply)
    }

    pub(super) fn thread_extra_info(
        thread: ThreadSpec,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let vcpu = vcpu_of(thread, context)?.unwrap_or(VcpuId(0));
        out.hex_text(&describe(vcpu, context));
        Ok(Answer::Reply)
    }
}
