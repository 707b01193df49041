//! Stops in words.

use alloc::format;
use alloc::string::String;

use trapline_arch::{Gva, WatchTiming};

use super::symbols;
use crate::contract::{StopReason, VcpuId, WatchKind};
use crate::core::Context;
use crate::points::PointKey;
use crate::run_control::Stop;

/// Returns a stop as one line, such as `vCPU 1 stopped at breakpoint 2, do_sys_openat2+0x0`.
pub(super) fn describe(stop: Stop, context: &mut Context<'_>) -> String {
    let Stop { vcpu, reason } = stop;
    if !context.core.has_started {
        return format!(
            "{vcpu} is held before its first instruction{}",
            place(vcpu, ", ", context)
        );
    }
    let cause = cause(reason, context);
    match reason {
        StopReason::Step => format!("{vcpu} stepped{}", place(vcpu, " to ", context)),
        StopReason::Ended(_) => {
            format!(
                "{cause}; registers and memory are as {vcpu} left them{}",
                place(vcpu, ", at ", context)
            )
        }
        StopReason::Paused => format!("{vcpu} stopped by request{}", place(vcpu, ", ", context)),
        StopReason::CannotStep | StopReason::Failed(_) => {
            format!("{vcpu} stopped: {cause}{}", place(vcpu, ", at ", context))
        }
        StopReason::SoftwareBreakpoint { .. }
        | StopReason::HardwareBreakpoint { .. }
        | StopReason::Watchpoint { .. } => {
            format!("{vcpu} stopped at {cause}{}", place(vcpu, ", ", context))
        }
    }
}

/// Returns what a vCPU stopped for, in a few words.
pub(super) fn cause(reason: StopReason, context: &mut Context<'_>) -> String {
    let number = key_of(reason, context).map(|key| {
        let shared = &mut context.core.monitor;
        format!(" {}", shared.numbers.number(key, &context.core.points))
    });
    let number = number.unwrap_or_default();
    match reason {
        StopReason::Paused => "request".into(),
        StopReason::Step => "step".into(),
        StopReason::SoftwareBreakpoint { .. } => format!("breakpoint{number}"),
        StopReason::HardwareBreakpoint { .. } => format!("hardware breakpoint{number}"),
        StopReason::Watchpoint { kind, address, .. } => {
            let access = match kind {
                WatchKind::Write => "written",
                WatchKind::Read => "read",
                WatchKind::Access => "accessed",
            };
            let when = match context.core.config.architecture.watch_timing() {
                WatchTiming::BeforeAccess => "is about to be",
                WatchTiming::AfterAccess => "was",
            };
            format!("watchpoint{number}: {address} {when} {access}")
        }
        StopReason::Ended(end) => format!("{end}"),
        StopReason::CannotStep => "this hypervisor cannot single-step".into(),
        StopReason::Failed(error) => format!("{error}"),
    }
}

/// Returns the breakpoint or watchpoint that a vCPU stopped for.
pub(super) fn key_of(reason: StopReason, context: &Context<'_>) -> Option<PointKey> {
    context.core.points.key_of(reason)
}

/// Returns where a stopped vCPU stands, after `separator`, or nothing if that is not to be had.
fn place(vcpu: VcpuId, separator: &str, context: &mut Context<'_>) -> String {
    match context.pc(vcpu) {
        Ok(pc) => format!("{separator}{}", symbol_or_address(pc, context)),
        Err(_) => String::new(),
    }
}

/// Returns the symbol an address is in, or the address itself.
pub(super) fn symbol_or_address(address: Gva, context: &Context<'_>) -> String {
    let name = symbols::name_of(address, context);
    if name.is_empty() {
        format!("{address}")
    } else {
        name
    }
}
