//! The packets that only LLDB sends.
//!
//! Source: LLDB, "GDB Remote Protocol Extensions".

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use trapline_arch::aarch64::tags::{Half, PointerTags};
use trapline_arch::{Architecture, GenericRole, LayoutEntry, LayoutKind, WatchTiming};
use trapline_rsp::{Encoder, Request};

use super::queries::named_vcpu;
use super::registers::read_entry;
use super::work::Turn;
use super::{Answer, Answered, Refusal, Session, reply};
use crate::contract::VcpuId;
use crate::core::Context;
use crate::cpu::CONTROL;

/// What Mach-O files call 64-bit Arm: `CPU_TYPE_ARM64`.
const CPU_TYPE_ARM64: u32 = 0x0100_000c;

impl Session {
    pub(super) fn answer_lldb(
        &mut self,
        request: Request<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        match request {
            Request::HostInfo => {
                self.is_lldb = true;
                if self.look_for_image(context) == Turn::More {
                    return Ok(Answer::Unfinished);
                }
                self.host_info(out, context)
            }
            Request::ProcessInfo => {
                self.is_lldb = true;
                if self.look_for_image(context) == Turn::More {
                    return Ok(Answer::Unfinished);
                }
                self.process_info(out, context)
            }
            Request::ProcessInfoOf(_) => Err(Refusal::text(1, "there are no processes")),
            Request::RegisterInfo(number) => {
                self.has_description = true;
                match self.layout(context).register_info(number) {
                    Some(info) => reply::text(out, &info),
                    None => Err(Refusal::text(0x45, "no more registers")),
                }
            }
            Request::ThreadsInfo => self.threads_info(out, context),
            Request::ThreadStopInfo(thread) => {
                let vcpu = named_vcpu(thread, context)?;
                self.thread_stop_info(vcpu, out, context)
            }
            Request::EnableThreadSuffix => {
                self.is_lldb = true;
                reply::ok(out)
            }
            Request::EnableThreadsInStopReply => {
                self.features.threads_in_stop_reply = true;
                reply::ok(out)
            }
            Request::EnableErrorStrings => {
                self.features.error_strings = true;
                reply::ok(out)
            }
            Request::WatchpointSupport => {
                out.text("num:")
                    .display(context.core.config.capabilities.watchpoints)
                    .text(";");
                Ok(Answer::Reply)
            }
            Request::AttachOrWaitSupported => reply::unsupported(out),
            // Of a kernel LLDB takes this for where its header is. It reads the UUID there itself: `main-binary-uuid`
            // in `qProcessInfo` would have it complain first, up to LLDB 19 at least, that it finds no such file.
            Request::ShlibInfoAddress => match context.image() {
                Some(image) => {
                    out.hex_u64(image.address.0);
                    Ok(Answer::Reply)
                }
                None => Err(Refusal::text(1, "there is no list of libraries")),
            },
            Request::StructuredDataPlugins => reply::text(out, "[]"),
            Request::LoadedLibraries(_) => reply::text(out, "{\"images\":[]}"),
            Request::WorkingDirectory => {
                out.hex_text("/");
                Ok(Answer::Reply)
            }
            Request::Echo(packet) => {
                out.binary(packet);
                Ok(Answer::Reply)
            }
            Request::ServerVersion => reply::text(
                out,
                concat!("name:trapline;version:", env!("CARGO_PKG_VERSION"), ";"),
            ),
            _ => reply::unsupported(out),
        }
    }

    /// A kernel's image knows better than the processor.
    fn triple(&mut self, context: &mut Context<'_>) -> &'static str {
        if let Some(image) = context.image() {
            return image.triple;
        }
        match (
            context.core.config.architecture,
            self.layout(context).kind(),
        ) {
            (Architecture::X86_64, LayoutKind::I386) => "i386-unknown-none",
            (Architecture::X86_64, LayoutKind::X86_64 | LayoutKind::Aarch64) => {
                "x86_64-unknown-none"
            }
            (Architecture::Aarch64, _) => "aarch64-unknown-none",
        }
    }

    fn pointer_bytes(&mut self, context: &mut Context<'_>) -> u32 {
        match self.layout(context).kind() {
            LayoutKind::X86_64 | LayoutKind::Aarch64 => 8,
            LayoutKind::I386 => 4,
        }
    }

    /// `watchpoint_exceptions_received` says whether a watchpoint stops before the access or after.
    fn host_info(&mut self, out: &mut Encoder<'_>, context: &mut Context<'_>) -> Answered {
        let triple = self.triple(context);
        let pointer_bytes = self.pointer_bytes(context);
        out.key_hex_text("triple", triple);
        out.key_display("ptrsize", pointer_bytes);
        out.key_text("endian", "little");
        if context.core.config.architecture == Architecture::Aarch64 {
            out.key_display("cputype", CPU_TYPE_ARM64);
            out.key_display("cpusubtype", cpu_subtype(context));
            self.addressing_bits(out, context);
        }
        let timing = match context.core.config.architecture.watch_timing() {
            WatchTiming::BeforeAccess => "before",
            WatchTiming::AfterAccess => "after",
        };
        out.key_text("watchpoint_exceptions_received", timing);
        out.key_text("vm-page-size", "4096");
        out.key_hex_text("hostname", "guest");
        Ok(Answer::Reply)
    }

    fn process_info(&mut self, out: &mut Encoder<'_>, context: &mut Context<'_>) -> Answered {
        let triple = self.triple(context);
        let pointer_bytes = self.pointer_bytes(context);
        out.key_text("pid", "1");
        out.key_hex_text("triple", triple);
        out.key_text("endian", "little");
        out.key_display("ptrsize", pointer_bytes);
        if context.core.config.architecture == Architecture::Aarch64 {
            // Hexadecimal here, decimal in `qHostInfo`.
            out.key_hex("cputype", CPU_TYPE_ARM64.into());
            out.key_hex("cpusubtype", cpu_subtype(context).into());
        }
        Ok(Answer::Reply)
    }

    /// Says how many bits of a pointer are an address, in both halves: LLDB strips the others. They
    /// are left out where they are not known yet, and LLDB then takes pointers as they are.
    fn addressing_bits(&self, out: &mut Encoder<'_>, context: &mut Context<'_>) {
        let Ok(file) = context.registers(self.selected, CONTROL) else {
            return;
        };
        let tags = PointerTags::from_registers(file);
        for (key, half) in [
            ("low_mem_addressing_bits", Half::Lower),
            ("high_mem_addressing_bits", Half::Upper),
        ] {
            let bits = tags.address_bits(half);
            if bits < 64 {
                out.key_display(key, bits);
            }
        }
    }

    /// Answers `jThreadsInfo`: what each vCPU stopped for, with its general registers, so that LLDB
    /// needs one packet for a stop. Where there are too many vCPUs for that, with those registers
    /// alone that every backtrace begins with, as `lldb-server` does, or with none; LLDB asks for the
    /// others when it needs them.
    fn threads_info(&mut self, out: &mut Encoder<'_>, context: &mut Context<'_>) -> Answered {
        for registers in [Expedited::All, Expedited::Main, Expedited::None] {
            if let Some(json) = self.threads_json(registers, out.remaining_bytes(), context) {
                out.text(&json);
                return Ok(Answer::Reply);
            }
        }
        // LLDB asks for each thread then.
        Err(Refusal::text(reply::ENOSPC, "there are too many vCPUs"))
    }

    /// Returns the reply, or `None` if it does not fit into a packet that has so much room.
    fn threads_json(
        &mut self,
        registers: Expedited,
        room_bytes: usize,
        context: &mut Context<'_>,
    ) -> Option<String> {
        let mut json = String::from("[");
        let mut len_bytes: usize = 2;
        let last = context.core.run.last_stop();
        for vcpu in context.core.run.vcpu_ids() {
            let start = json.len();
            let separator = if start > 1 { "," } else { "" };
            let (tid, number) = (vcpu.0.wrapping_add(1), vcpu.0);
            // Writing to a string cannot fail.
            let _ = write!(
                json,
                "{separator}{{\"tid\":{tid},\"name\":\"vCPU {number}\""
            );
            if vcpu == last.vcpu {
                let (signal, reason) = super::stop_reply::signal_and_name(last.reason);
                let _ = write!(json, ",\"signal\":{signal},\"reason\":\"{reason}\"");
            }
            json.push_str(",\"registers\":{");
            self.registers_json(vcpu, registers, &mut json, context);
            json.push_str("}}");
            // Both braces are escaped on the wire.
            let added = json.len().saturating_sub(start).saturating_add(2);
            len_bytes = len_bytes.saturating_add(added);
            if len_bytes > room_bytes {
                return None;
            }
        }
        json.push(']');
        Some(json)
    }

    /// Adds the registers of a vCPU, but not those that it refuses to give.
    fn registers_json(
        &mut self,
        vcpu: VcpuId,
        registers: Expedited,
        json: &mut String,
        context: &mut Context<'_>,
    ) {
        let layout = self.layout(context);
        let mut separator = "";
        let mut value = Vec::new();
        for entry in layout
            .g_entries()
            .iter()
            .filter(|entry| registers.has(entry))
        {
            value.clear();
            if read_entry(vcpu, entry, &mut value, context).is_err() {
                continue;
            }
            let _ = write!(json, "{separator}\"{}\":\"", entry.number);
            for byte in &value {
                let _ = write!(json, "{byte:02x}");
            }
            json.push('"');
            separator = ",";
        }
    }
}

/// What Mach-O files call the processor besides its type.
fn cpu_subtype(context: &Context<'_>) -> u32 {
    context.image().map_or(0, |image| image.cpu_subtype)
}

/// Which registers are sent without being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expedited {
    /// All of the `g` packet but the wide ones.
    All,
    /// Program counter, stack pointer, frame pointer and flags.
    Main,
    /// None.
    None,
}

impl Expedited {
    pub(super) fn has(self, entry: &LayoutEntry) -> bool {
        const MAIN: [GenericRole; 4] = [
            GenericRole::Pc,
            GenericRole::Sp,
            GenericRole::Fp,
            GenericRole::Flags,
        ];
        match self {
            Self::All => entry.len_bytes() <= 8,
            Self::Main => entry.view.generic.is_some_and(|role| MAIN.contains(&role)),
            Self::None => false,
        }
    }
}
