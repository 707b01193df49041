//! `vCont`, `c`, `C`, `s`, `S`: setting vCPUs going.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use trapline_arch::aarch64::instruction::{Instruction, StepClass};
use trapline_arch::x86_64::instruction::{self, Repetition};
use trapline_arch::{Architecture, Gva};
use trapline_rsp::request::{Action, ActionKind, Actions};

use super::registers::set_pc;
use super::reply::EINVAL;
use super::{Answer, Answered, Refusal, Session, threads};
use crate::contract::{Command, ResumeAction, StepMethod, VcpuId};
use crate::core::Context;
use crate::cpu::CONTROL;

impl Session {
    /// Answers `vCont`: each vCPU does what the first action that fits it says, and stays stopped
    /// if none does (rule R5).
    pub(super) fn resume(&mut self, actions: Actions<'_>, context: &mut Context<'_>) -> Answered {
        let mut chosen = Vec::new();
        for Action { kind, thread } in actions.iter() {
            let vcpu = match thread {
                Some(thread) => threads::vcpu_of(thread, context)?,
                None => None,
            };
            chosen.push((vcpu, resume_action(kind)));
        }
        let first_fitting = |vcpu| {
            let fitting =
                |(named, _): &&(Option<VcpuId>, _)| named.is_none_or(|named| named == vcpu);
            chosen.iter().find(fitting).and_then(|(_, action)| *action)
        };
        self.go_with_whole_steps(context, first_fitting)
    }

    /// Answers `c` and `C`, which GDB sends when `vCont` was turned off.
    pub(super) fn legacy_continue(
        &mut self,
        address: Option<u64>,
        context: &mut Context<'_>,
    ) -> Answered {
        self.move_pc(address, context)?;
        let only = self.resumed;
        self.go(context, |vcpu| {
            only.is_none_or(|only| only == vcpu)
                .then_some(ResumeAction::Continue)
        })
    }

    /// Answers `s` and `S`: GDB may send them although `vCont` is offered.
    pub(super) fn legacy_step(
        &mut self,
        address: Option<u64>,
        context: &mut Context<'_>,
    ) -> Answered {
        self.move_pc(address, context)?;
        let only = self.resumed.unwrap_or(self.selected);
        self.go_with_whole_steps(context, |vcpu| (vcpu == only).then_some(ResumeAction::Step))
    }

    /// Sets vCPUs going, where a step is what this client takes for one.
    ///
    /// LLDB (19) makes a step again until the pc has moved, so that a repeated string instruction, of
    /// which a step is one iteration, costs it a round trip for each. It steps into sequences of
    /// exclusive accesses, which then never succeed. For LLDB such a step is made to the end, on the
    /// vCPU's thread, as a step over a range is. GDB wants the one iteration, and sets breakpoints
    /// behind such sequences itself.
    fn go_with_whole_steps(
        &mut self,
        context: &mut Context<'_>,
        action: impl Fn(VcpuId) -> Option<ResumeAction>,
    ) -> Answered {
        if !self.is_lldb {
            return self.go(context, action);
        }
        let mut whole = BTreeMap::new();
        for vcpu in context.core.run.vcpu_ids() {
            if action(vcpu) == Some(ResumeAction::Step)
                && let Some(pc) = whole_at(vcpu, context)
            {
                let end = pc.wrapping_add(1);
                whole.insert(vcpu, ResumeAction::RangeStep { start: pc, end });
            }
        }
        self.go(context, |vcpu| whole.get(&vcpu).copied().or(action(vcpu)))
    }

    /// Sets vCPUs going; the reply is the next stop reply.
    pub(crate) fn go(
        &mut self,
        context: &mut Context<'_>,
        action: impl Fn(VcpuId) -> Option<ResumeAction>,
    ) -> Answered {
        let steps = |vcpu| {
            matches!(
                action(vcpu),
                Some(ResumeAction::Step | ResumeAction::RangeStep { .. })
            )
        };
        if context.core.config.capabilities.step == StepMethod::None
            && context.core.run.vcpu_ids().any(steps)
        {
            return Err(Refusal::text(
                1,
                "this hypervisor cannot single-step; see 'monitor info'",
            ));
        }
        if context
            .core
            .run
            .vcpu_ids()
            .all(|vcpu| action(vcpu).is_none())
        {
            // There would be nothing to report a stop of.
            return Err(Refusal::text(EINVAL, "that resumes no vCPU"));
        }
        self.holds_stop = false;
        self.released_stop = true;
        if let Some(end) = context.core.run.ended()
            && context.core.run.is_end_told()
        {
            context.core.run.push_command(Command::End(end));
            return Ok(Answer::Exited(end));
        }
        self.awaits_stop = true;
        context.core.resumer = Some(self.id);
        context.resume(action);
        Ok(Answer::None)
    }

    fn move_pc(&self, address: Option<u64>, context: &mut Context<'_>) -> Result<(), Refusal> {
        match address {
            Some(address) => set_pc(self.resumed.unwrap_or(self.selected), Gva(address), context),
            None => Ok(()),
        }
    }
}

/// Returns the pc of a vCPU, if the instruction there is stepped as a whole for LLDB: a repeated
/// string instruction, or a Load-Exclusive, whose Store-Exclusive would never succeed else.
fn whole_at(vcpu: VcpuId, context: &mut Context<'_>) -> Option<Gva> {
    let architecture = context.core.config.architecture;
    let pc = context.pc(vcpu).ok()?;
    let mut bytes = [0; instruction::MAX_LEN_BYTES];
    let bytes = bytes.get_mut(..architecture.max_instruction_len_bytes())?;
    let read = context.read_virtual(vcpu, pc, bytes).ok()?;
    let code = bytes.get(..read)?;
    let is_whole = match architecture {
        Architecture::X86_64 => {
            let file = context.registers(vcpu, CONTROL).ok()?;
            instruction::decode_next(code, file)?.repetition() == Repetition::Repeats
        }
        Architecture::Aarch64 => {
            Instruction::from_bytes(code)?.step_class() == StepClass::LoadExclusive
        }
    };
    is_whole.then_some(pc)
}

/// Signals mean nothing to a virtual machine, so resuming with one is resuming. `t` is for non-stop
/// sessions; here the vCPU simply stays stopped.
fn resume_action(kind: ActionKind) -> Option<ResumeAction> {
    match kind {
        ActionKind::Continue | ActionKind::ContinueWithSignal(_) => Some(ResumeAction::Continue),
        ActionKind::Step | ActionKind::StepWithSignal(_) => Some(ResumeAction::Step),
        ActionKind::RangeStep { start, end } => Some(ResumeAction::RangeStep {
            start: Gva(start),
            end: Gva(end),
        }),
        ActionKind::Stop => None,
    }
}
