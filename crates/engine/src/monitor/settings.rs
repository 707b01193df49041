//! What a session, or the engine, can be told to do otherwise.

use alloc::format;

use trapline_arch::x86_64::mode::CpuMode;
use trapline_arch::{Architecture, LayoutKind};

use super::commands::{CHANGES, Command, Completes, Effect, Family, LOOKS, Needs};
use super::{Call, ClientKind, Failure, fail, is_running, stops};
use crate::contract::VcpuId;
use crate::core::Context;
use crate::cpu::CONTROL;
use crate::session::Access;

const ON_OFF: &[Completes] = &[Completes::Words(&["on", "off"])];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "layout",
        arguments: "[auto|x86-64|i386]",
        completes: &[Completes::Words(&["auto", "x86-64", "i386"])],
        summary: "choose which registers new connections are shown",
        details: "i386 lets a debugger disassemble 16- and 32-bit code; auto takes what fits the vCPU's\n\
            mode when the debugger connects. A debugger keeps the registers it was shown, so it has to\n\
            connect again.",
        family: Family::Session,
        effect: Effect::Looks,
        needs: Needs::Nothing,
        run: layout,
        ..LOOKS
    },
    Command {
        name: "phys",
        aliases: &[("physical", "")],
        arguments: "[on|off]",
        completes: ON_OFF,
        summary: "take the addresses of memory commands and packets as guest-physical",
        details: "It is about this session's m, x, M and X packets and about read, x, write, find and\n\
            disassemble.",
        family: Family::Session,
        needs: Needs::Nothing,
        run: physical,
        ..LOOKS
    },
    Command {
        name: "events",
        arguments: "[on|off]",
        completes: ON_OFF,
        summary: "send this session a line at each stop and resume",
        details: "They are notifications, %Trapline: and a line of text as hexadecimal digits. A session\n\
            that has them is one that was told of the stop: the guest stays stopped while it is there.",
        family: Family::Session,
        run: events,
        ..LOOKS
    },
    Command {
        name: "detach-policy",
        arguments: "[run|stop]",
        completes: &[Completes::Words(&["run", "stop"])],
        summary: "say what becomes of a stopped guest when the last client goes",
        details: "run lets it run on, which is the default; stop leaves it stopped.",
        family: Family::Session,
        needs: Needs::Nothing,
        run: detach_policy,
        ..CHANGES
    },
];

/// Which registers new connections are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayoutChoice {
    /// These.
    Fixed(LayoutKind),
    /// Those that fit the mode a vCPU is in.
    Auto,
}

impl LayoutChoice {
    /// Returns the layout for a session that is about to be shown registers for the first time.
    pub(crate) fn resolve(self, vcpu: VcpuId, context: &mut Context<'_>) -> LayoutKind {
        let architecture = context.core.config.architecture;
        match self {
            Self::Fixed(kind) => kind,
            Self::Auto if !context.is_stopped() || architecture != Architecture::X86_64 => {
                architecture.native_layout()
            }
            Self::Auto => match context.registers(vcpu, CONTROL) {
                Ok(file) if CpuMode::of(file) != CpuMode::Long64 => LayoutKind::I386,
                Ok(_) | Err(_) => architecture.native_layout(),
            },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fixed(LayoutKind::X86_64) => "x86-64",
            Self::Fixed(LayoutKind::I386) => "i386",
            Self::Fixed(LayoutKind::Aarch64) => "aarch64",
        }
    }
}

fn layout(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let is_x86 = call.context.core.config.architecture == Architecture::X86_64;
    let chosen = match call.arguments.next() {
        None => None,
        Some(word) if !is_x86 => {
            return Err(fail!(
                "'{word}' cannot be chosen: AArch64 guests have one layout"
            ));
        }
        Some("auto") => Some(LayoutChoice::Auto),
        Some("x86-64" | "x86_64" | "i386:x86-64") => Some(LayoutChoice::Fixed(LayoutKind::X86_64)),
        Some("i386") => Some(LayoutChoice::Fixed(LayoutKind::I386)),
        Some(word) => {
            return Err(fail!(
                "'{word}' is no layout; they are auto, x86-64 and i386"
            ));
        }
    };
    call.arguments.end()?;
    if let Some(choice) = chosen {
        if call.session.access == Access::ReadOnly {
            return Err(fail!(
                "this session is read-only, so it cannot choose for others"
            ));
        }
        call.context.core.monitor.layout = choice;
    }
    let default = call.context.core.monitor.layout.name();
    match call.session.shown_layout() {
        None => call
            .out
            .line(format_args!("registers are shown as {default}")),
        Some(shown) => {
            let shown = LayoutChoice::Fixed(shown).name();
            let hint = if chosen.is_some() && shown != default {
                "; connect again to have them"
            } else {
                ""
            };
            call.out.line(format_args!(
                "this connection has the registers of {shown}, new ones those of {default}{hint}"
            ))
        }
    };
    Ok(())
}

/// Takes `on` or `off`, if a word is left.
fn on_off(call: &mut Call<'_, '_>) -> Result<Option<bool>, Failure> {
    let chosen = match call.arguments.next() {
        None => None,
        Some("on" | "1") => Some(true),
        Some("off" | "0") => Some(false),
        Some(word) => return Err(fail!("'{word}' is neither on nor off")),
    };
    call.arguments.end()?;
    Ok(chosen)
}

fn physical(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    if let Some(chosen) = on_off(call)? {
        call.session.uses_physical_addresses = chosen;
    }
    let kind = if call.session.uses_physical_addresses {
        "guest-physical"
    } else {
        "virtual"
    };
    call.out.line(format_args!("addresses are {kind}"));
    Ok(())
}

fn events(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    if let Some(chosen) = on_off(call)? {
        call.session.monitor.wants_events = chosen;
    }
    if !call.session.monitor.wants_events {
        call.out.line("events are not sent");
        return Ok(());
    }
    let state = if is_running(call.context) {
        "the guest runs".into()
    } else {
        if call.session.access == Access::Full {
            call.session.holds_stop = true;
        }
        let stop = call.context.core.run.last_stop();
        call.session.monitor.vcpu = call.session.monitor.vcpu.or(Some(stop.vcpu));
        stops::describe(stop, call.context)
    };
    call.out.line(format!("events are sent; {state}"));
    Ok(())
}

fn detach_policy(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    match call.arguments.next() {
        None => {}
        Some("run") => call.context.core.stays_stopped = false,
        Some("stop") => call.context.core.stays_stopped = true,
        Some(word) => return Err(fail!("'{word}' is no policy; they are run and stop")),
    }
    call.arguments.end()?;
    let policy = if call.context.core.stays_stopped {
        "stays stopped"
    } else {
        "runs on"
    };
    call.out.line(format_args!(
        "when the last client goes, a stopped guest {policy}"
    ));
    Ok(())
}

impl crate::session::Session {
    /// Returns what the client has shown itself to be.
    pub(crate) fn kind(&self) -> ClientKind {
        if self.is_lldb {
            ClientKind::Lldb
        } else if self.offers_gdb_features() {
            ClientKind::Gdb
        } else if self.monitor.wants_events() {
            ClientKind::Shell
        } else {
            ClientKind::Unknown
        }
    }
}
