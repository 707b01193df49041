//! What a vCPU is doing, in words; and a warning where a client's view of it is not the whole truth.

use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::x86_64::mode::{self, CpuMode};
use trapline_arch::{Architecture, LayoutKind, RegisterGroups, aarch64};
use trapline_rsp::{Encoder, PACKET_SIZE_BYTES};

use super::{Session, reply};
use crate::contract::{StopReason, VcpuId};
use crate::core::Context;
use crate::cpu::CONTROL;

/// Returns what a client's user should read about a stop that no debugger has a word for.
pub(super) fn describe_failure(reason: StopReason) -> Option<String> {
    match reason {
        StopReason::Ended(end) => Some(alloc::format!("{end}")),
        StopReason::CannotStep => Some("this hypervisor cannot single-step".into()),
        StopReason::Failed(error) => Some(alloc::format!("the vCPU cannot go on: {error}")),
        _ => None,
    }
}

/// Writes a line for the client's user, to be shown before the stop that follows.
fn tell(text: &str, out: &mut Vec<u8>) {
    let mut encoder = Encoder::packet(out, PACKET_SIZE_BYTES);
    encoder.text("O").hex_text(text);
    reply::finish(encoder);
}

/// Returns the processor mode and the privilege level of a stopped vCPU.
pub(crate) fn mode_and_ring(vcpu: VcpuId, context: &mut Context<'_>) -> (String, String) {
    let architecture = context.core.config.architecture;
    match context.registers(vcpu, CONTROL) {
        Ok(file) => match architecture {
            Architecture::X86_64 => (
                alloc::format!("{}", CpuMode::of(file)),
                alloc::format!("ring {}", mode::cpl(file)),
            ),
            // The mode names the exception level.
            Architecture::Aarch64 => (
                alloc::format!("{}", aarch64::CpuMode::of(file)),
                String::new(),
            ),
        },
        Err(error) => (
            alloc::format!("registers unavailable ({error})"),
            String::new(),
        ),
    }
}

impl Session {
    /// Tells the client's user where the register layout of the session does not fit the mode that
    /// the vCPU is in, and what to type: GDB cannot change its idea of the target by itself.
    pub(super) fn announce_mode(
        &mut self,
        vcpu: VcpuId,
        out: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) {
        if self.layout.is_none() || context.core.config.architecture != Architecture::X86_64 {
            return;
        }
        let layout = self.layout(context).kind();
        let Ok(file) = context.registers(vcpu, RegisterGroups::GENERAL | CONTROL) else {
            return;
        };
        let mode = CpuMode::of(file);
        let bits = mode.code_bits();
        let (fits, wanted) = match layout {
            LayoutKind::X86_64 | LayoutKind::Aarch64 => (bits == 64, "i386"),
            LayoutKind::I386 => (bits != 64, "x86-64"),
        };
        if fits || self.told_mode.replace(mode) == Some(mode) {
            return;
        }
        let text = alloc::format!(
            "trapline: vCPU {} is in {mode}, but this session shows it with the {} registers. \
             Addresses and the pc are linear and right; disassembly is not ('monitor disassemble' \
             is). To change: 'monitor layout {wanted}', then connect again.\n",
            vcpu.0,
            layout.gdb_architecture(),
        );
        tell(&text, out);
    }

    /// Answers a command in words. LLDB shows console output as text and the reply as digits; GDB
    /// shows both as text, but its scripts are given the reply alone.
    pub(crate) fn say(&self, text: &str, out: &mut Vec<u8>) {
        let is_console = self.is_lldb && !text.is_empty();
        if is_console {
            tell(text, out);
        }
        let mut encoder = Encoder::packet(out, PACKET_SIZE_BYTES);
        if is_console || text.is_empty() {
            encoder.ok();
        } else {
            encoder.hex_text(text);
        }
        reply::finish(encoder);
    }

    /// Tells GDB's user of a stop that GDB can only call a signal. LLDB has a field for it in the stop
    /// reply.
    pub(super) fn announce_failure(&self, reason: StopReason, out: &mut Vec<u8>) {
        if let Some(text) = describe_failure(reason).filter(|_| !self.is_lldb) {
            let hint = match reason {
                StopReason::Ended(_) => "; registers and memory are still there to read",
                _ => "",
            };
            tell(&alloc::format!("trapline: {text}{hint}\n"), out);
        }
    }
}
