//! The queries and settings that both debuggers send.

use trapline_rsp::request::{Features, Toggle};
use trapline_rsp::{Encoder, PACKET_SIZE_BYTES, Request};

use super::threads::{self, thread_of};
use super::work::Turn;
use super::{Answer, Answered, Refusal, Session, reply};
use crate::contract::VcpuId;
use crate::core::Context;
use crate::monitor;

/// What is offered in the reply to `qSupported`, besides the packet size.
const OFFERED: &str = "QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;error-message+;\
    binary-upload+;ConditionalBreakpoints+;BreakpointCommands-;multiprocess-;\
    qXfer:features:read+;qXfer:threads:read+;qXfer:exec-file:read+;qXfer:memory-map:read+;\
    QThreadEvents+;QNonStop-;vFile:setfs+";

impl Session {
    pub(super) fn answer_query(
        &mut self,
        request: Request<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        match request {
            Request::Supported(features) => self.supported(features, out),
            Request::StartNoAckMode => reply::ok(out),
            Request::Transfer(transfer) => self.transfer(&transfer, out, context),
            Request::File(file) => self.file(&file, out, context),
            Request::Monitor(command) => self.monitor(&command.to_vec(), context),
            Request::CurrentThread => {
                out.text("QC").thread(thread_of(self.selected));
                Ok(Answer::Reply)
            }
            Request::FirstThreads => Self::first_threads(out, context),
            Request::NextThreads => reply::text(out, "l"),
            Request::ThreadExtraInfo(thread) => Self::thread_extra_info(thread, out, context),
            // The guest was there before the client and stays when it goes: `detach`, not `kill`,
            // is what the client's `quit` does.
            Request::Attached(_) => reply::text(out, "1"),
            Request::Offsets => self.offsets(out, context),
            Request::Symbol(_) => reply::ok(out),
            Request::SetThreadEvents(toggle) => {
                Self::set_toggle(&mut self.wants_thread_events, toggle);
                reply::ok(out)
            }
            Request::SetNonStop(Toggle::Off) => reply::ok(out),
            Request::SetNonStop(Toggle::On) => {
                Err(Refusal::text(1, "non-stop mode is not supported"))
            }
            Request::PassSignals(_) | Request::ProgramSignals(_) => reply::ok(out),
            Request::NextStopped => reply::ok(out),
            Request::SetPhysicalMemoryMode(toggle) => {
                Self::set_toggle(&mut self.uses_physical_addresses, toggle);
                reply::ok(out)
            }
            Request::PhysicalMemoryMode => reply::text(
                out,
                if self.uses_physical_addresses {
                    "1"
                } else {
                    "0"
                },
            ),
            request => self.answer_lldb(request, out, context),
        }
    }

    fn supported(&mut self, features: Features<'_>, out: &mut Encoder<'_>) -> Answered {
        self.features.relocated_instructions = features.supports("qRelocInsn");
        self.features.software_breakpoint_reason = features.supports("swbreak");
        self.features.hardware_breakpoint_reason = features.supports("hwbreak");
        self.features.error_text = features.supports("error-message");
        out.text("PacketSize=")
            .hex_u64(PACKET_SIZE_BYTES as u64)
            .text(";")
            .text(OFFERED);
        Ok(Answer::Reply)
    }

    /// Answers `qOffsets` with where the kernel's text segment is. The address is absolute, so it
    /// moves a kernel's own image by the slide of KASLR and leaves the file of run-time symbols,
    /// which the server hands out itself, where it is. LLDB takes the address for a distance, and
    /// without an answer it shows no names; it is told that nothing is moved, which is true of that
    /// file.
    fn offsets(&mut self, out: &mut Encoder<'_>, context: &mut Context<'_>) -> Answered {
        if self.is_lldb && context.image().is_some() {
            // It finds the image by itself, and would move it.
            return reply::unsupported(out);
        }
        if self.is_lldb {
            return reply::text(out, "Text=0;Data=0;Bss=0");
        }
        if self.look_for_system(VcpuId(0), context) == Turn::More {
            return Ok(Answer::Unfinished);
        }
        match context.core.os.as_ref().and_then(|os| os.text_placement()) {
            Some((text, _)) => {
                out.text("TextSeg=").hex_u64(text.0);
                Ok(Answer::Reply)
            }
            None => reply::unsupported(out),
        }
    }

    /// Answers `qRcmd`: the same commands for GDB's `monitor`, LLDB's and the shell.
    fn monitor(&mut self, command: &[u8], context: &mut Context<'_>) -> Answered {
        let text = core::str::from_utf8(command)
            .map_err(|_| Refusal::text(reply::EINVAL, "the command is not UTF-8 text"))?;
        match monitor::execute(self, text, context) {
            monitor::Reply::Text(text) => Ok(Answer::Words(text)),
            monitor::Reply::Later => Ok(Answer::None),
            monitor::Reply::Unfinished => Ok(Answer::Unfinished),
        }
    }
}

/// Returns the vCPU of a thread id that must name one.
pub(super) fn named_vcpu(
    thread: trapline_rsp::ThreadSpec,
    context: &Context<'_>,
) -> Result<VcpuId, Refusal> {
    Ok(threads::vcpu_of(thread, context)?.unwrap_or(VcpuId(0)))
}
