//! `vcpus` and `vcpu`: the vCPUs at a glance, and which of them commands are about.

use alloc::format;
use alloc::string::{String, ToString};

use trapline_arch::x86_64::mode::{self, CpuMode};
use trapline_arch::x86_64::registers::CR3;
use trapline_arch::{Architecture, aarch64};

use super::commands::{Command, Completes, Family, LOOKS};
use super::output::Table;
use super::{Call, Failure, fail, is_running, parse, stops};
use crate::contract::{PowerState, VcpuId};
use crate::core::Context;
use crate::cpu::CONTROL;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "vcpus",
        aliases: &[("threads", ""), ("cpus", "")],
        summary: "list the vCPUs: where each is, its mode, and why it stopped",
        details: "The chosen vCPU has a mark. A hit that was not reported yet, because another came\n\
            first, is shown as pending.",
        family: Family::State,
        run: list,
        ..LOOKS
    },
    Command {
        name: "vcpu",
        aliases: &[("thread", ""), ("cpu", "")],
        arguments: "[NUMBER]",
        completes: &[Completes::Nothing],
        summary: "choose the vCPU that commands are about, or show which one is",
        details: "The choice holds until the next stop, which chooses the vCPU that stopped. It is\n\
            this session's alone, and no part of the debugger's own choice of a thread.",
        family: Family::State,
        run: choose,
        ..LOOKS
    },
];

fn list(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    let root = match call.context.core.config.architecture {
        Architecture::X86_64 => "cr3",
        Architecture::Aarch64 => "ttbr0_el1",
    };
    let mut table = Table::new(&[
        "",
        "vcpu",
        "state",
        "pc",
        "where",
        "mode",
        "ring",
        root,
        "stopped for",
    ]);
    let chosen = call.vcpu();
    for vcpu in call.context.core.run.vcpu_ids() {
        let mark = if vcpu == chosen { "*" } else { "" };
        let [pc, symbol, mode, ring, tables] = position(vcpu, call.context);
        table.row([
            mark.into(),
            vcpu.0.to_string(),
            state(vcpu, call.context).into(),
            pc,
            symbol,
            mode,
            ring,
            tables,
            reason(vcpu, call.context),
        ]);
    }
    table.write(&mut call.out);
    Ok(())
}

fn choose(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    if let Some(text) = call.arguments.next() {
        call.arguments.end()?;
        let last = call.context.core.run.vcpu_count().saturating_sub(1);
        let number = parse::count(text, "number of a vCPU")?;
        match u32::try_from(number) {
            Ok(number) if number <= last => call.session.monitor.vcpu = Some(VcpuId(number)),
            _ => {
                return Err(fail!(
                    "there is no vCPU {number}: the vCPUs are 0 to {last}"
                ));
            }
        }
    }
    let line = summary(call.vcpu(), call.context);
    call.out.line(line);
    Ok(())
}

/// Returns a vCPU's state in one line: `vCPU 0: stopped, 64-bit mode, ring 0, at start_kernel+0x0`.
pub(super) fn summary(vcpu: VcpuId, context: &mut Context<'_>) -> String {
    let state = state(vcpu, context);
    let [pc, symbol, mode, ring, _] = position(vcpu, context);
    let place = if symbol.is_empty() { pc } else { symbol };
    if place.is_empty() {
        return format!("{vcpu}: {state}");
    }
    if ring.is_empty() {
        return format!("{vcpu}: {state}, {mode}, at {place}");
    }
    format!("{vcpu}: {state}, {mode}, ring {ring}, at {place}")
}

fn state(vcpu: VcpuId, context: &mut Context<'_>) -> &'static str {
    match context.machine.power_state(vcpu) {
        PowerState::WaitingForStart => "waiting to be started",
        _ if is_running(context) && context.core.run.action(vcpu).is_some() => "running",
        PowerState::On => "stopped",
        PowerState::Halted => "halted",
    }
}

/// Returns the pc, its symbol, the mode, the ring and the root of the tables (CR3, TTBR0); all empty
/// where they are not to be had. On Arm there are no rings.
fn position(vcpu: VcpuId, context: &mut Context<'_>) -> [String; 5] {
    let architecture = context.core.config.architecture;
    let Ok(file) = context.registers(vcpu, CONTROL) else {
        return Default::default();
    };
    let pc = architecture.pc(file);
    let (mode, ring, root) = match architecture {
        Architecture::X86_64 => (
            CpuMode::of(file).to_string(),
            mode::cpl(file).to_string(),
            file.u64(CR3),
        ),
        // The mode names the exception level.
        Architecture::Aarch64 => (
            aarch64::CpuMode::of(file).to_string(),
            String::new(),
            file.u64(aarch64::registers::TTBR0_EL1),
        ),
    };
    let tables = format!("{root:#x}");
    let symbol = super::symbols::name_of(pc, context);
    [format!("{pc}"), symbol, mode, ring, tables]
}

fn reason(vcpu: VcpuId, context: &mut Context<'_>) -> String {
    let last = context.core.run.last_stop();
    if let Some(pending) = context.core.run.pending(vcpu) {
        return format!("{} (pending)", stops::cause(pending, context));
    }
    if is_running(context) || last.vcpu != vcpu {
        return String::new();
    }
    if !context.core.has_started {
        return "held before its first instruction".into();
    }
    stops::cause(last.reason, context)
}
