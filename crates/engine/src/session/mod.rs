//! One client's session: what it has chosen, and how its requests are answered.
//!
//! A request is answered at once where that is possible. One that needs stopped vCPUs while they
//! run waits in the [`Wire`] for a pause of the machine, which its arrival asks for (rule S1). The
//! answers are in one file per family of packets, as the requests are in `trapline_rsp::request`.

pub(crate) mod describe;
mod files;
mod lldb;
mod memory;
mod needs;
pub(crate) mod points;
mod queries;
mod regions;
pub(crate) mod registers;
mod reply;
mod resume;
mod stop_reply;
mod threads;
mod transfer;
mod wire;
pub(crate) mod work;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use trapline_arch::x86_64::mode::CpuMode;
use trapline_arch::{Layout, LayoutKind, RegisterFile};
use trapline_rsp::request::{AfterDetach, ThreadUse, Toggle};
use trapline_rsp::{Encoder, PACKET_SIZE_BYTES, ParseError, Request};

use crate::contract::{Command, GuestEnd, Time, VcpuId};
use crate::core::Context;
use crate::monitor;
use crate::run_control::Phase;

pub(crate) use reply::Refusal;
use wire::Taken;
pub(crate) use wire::{Until, Wire};
use work::Work;

/// A client's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All.
    Full,
    /// Look at the guest, without stopping it for longer than a moment or changing anything.
    ReadOnly,
}

/// A client: its connection's bytes and its session.
pub(crate) struct Client {
    pub(crate) wire: Wire,
    pub(crate) session: Session,
}

/// Whether more of a client's input can be answered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    More,
    Done,
}

/// What a client has chosen, and what it waits for.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) access: Access,
    /// A stop is to be reported to this client: once for each of its resumes (rule R3).
    pub(crate) awaits_stop: bool,
    /// This client was told that the guest is stopped, and has not resumed it since.
    pub(crate) holds_stop: bool,
    /// This client's last request resumed the guest for all.
    pub(crate) released_stop: bool,
    /// When the client detached, if it has.
    pub(crate) detached: Option<Time>,
    pub(crate) is_lldb: bool,
    features: ClientFeatures,
    /// The vCPU of `Hg`, which registers and memory are about.
    pub(crate) selected: VcpuId,
    /// The vCPU of `Hc`, or `None` for all.
    resumed: Option<VcpuId>,
    layout: Option<Arc<Layout>>,
    pub(crate) uses_physical_addresses: bool,
    pub(crate) monitor: monitor::State,
    saved_registers: BTreeMap<u32, RegisterFile>,
    files: files::OpenFiles,
    wants_thread_events: bool,
    /// The next stop is the one by which this client attaches.
    is_attaching: bool,
    /// The mode that the client was told its registers do not fit.
    told_mode: Option<CpuMode>,
    /// The client has read which registers there are. Until then it takes for granted the ones that
    /// every description of the architecture begins with.
    has_description: bool,
    /// Memory for data on its way into a reply.
    scratch: Vec<u8>,
    /// How far the request is that waits for its next turn.
    pub(crate) work: Option<Work>,
}

/// What the client says it understands.
#[derive(Clone, Copy, Debug, Default)]
struct ClientFeatures {
    software_breakpoint_reason: bool,
    hardware_breakpoint_reason: bool,
    error_text: bool,
    error_strings: bool,
    /// Of both debuggers GDB alone offers this.
    relocated_instructions: bool,
    threads_in_stop_reply: bool,
}

/// What a request came to.
pub(crate) enum Answer {
    /// The reply is in the encoder.
    Reply,
    /// The reply is a stop reply, sent when the machine has stopped, or there is none.
    None,
    /// The reply is this text, the answer to a command in words.
    Words(String),
    /// The guest had come to its end before, and the client is now told that it is gone.
    Exited(GuestEnd),
    /// None yet: the request goes on in another turn, from where [`Session::work`] says.
    Unfinished,
}

type Answered = Result<Answer, Refusal>;

impl Client {
    pub(crate) fn new(id: SessionId, access: Access) -> Self {
        Self {
            wire: Wire::new(),
            session: Session::new(id, access),
        }
    }

    /// Takes one event from the client's input and answers it.
    pub(crate) fn intake(&mut self, context: &mut Context<'_>) -> Intake {
        let is_stopped = context.is_stopped() && !self.session.monitor.is_deferred();
        let Some(taken) = self.wire.take(is_stopped) else {
            return Intake::Done;
        };
        match taken {
            Taken::Nothing => Intake::More,
            Taken::Interrupt => {
                self.session.interrupt(context);
                Intake::More
            }
            Taken::Packet(packet) => {
                let intake = self.serve_packet(&packet, context);
                self.wire.give_back(packet);
                intake
            }
        }
    }

    fn serve_packet(&mut self, packet: &[u8], context: &mut Context<'_>) -> Intake {
        // A client that does not wait for its answer gets it before the next one all the same.
        if self.session.monitor.is_deferred() {
            self.wire.wait(packet, Until::Paused);
            return Intake::Done;
        }
        let request = Request::parse(packet);
        if let Ok(request) = &request
            && !context.is_stopped()
            && self.session.needs_stopped(request)
        {
            self.wire.wait(packet, Until::Paused);
            context.core.run.pause();
            return if context.is_stopped() {
                Intake::More
            } else {
                Intake::Done
            };
        }
        if self.answer(request, context) == work::Turn::More {
            self.wire.wait(packet, Until::Turn);
            context.core.last_turn = (self.session.id, context.now);
            // A request to stop may have come behind it.
            return Intake::More;
        }
        self.session.work = None;
        Intake::More
    }

    /// Answers a request, or says that it needs another turn.
    fn answer(
        &mut self,
        request: Result<Request<'_>, ParseError>,
        context: &mut Context<'_>,
    ) -> work::Turn {
        let mut turn = work::Turn::Done;
        let session = &mut self.session;
        let starts_no_ack = matches!(request, Ok(Request::StartNoAckMode));
        self.wire.reply(|out| {
            let mut encoder = Encoder::packet(out, PACKET_SIZE_BYTES);
            let answered = request
                .map_err(Refusal::from)
                .and_then(|request| session.answer(request, &mut encoder, context));
            if matches!(answered, Ok(Answer::Unfinished)) {
                turn = work::Turn::More;
            }
            let finished = match answered {
                Ok(Answer::Reply) => reply::try_finish(encoder),
                Ok(Answer::None | Answer::Unfinished) => {
                    drop(encoder);
                    Ok(())
                }
                Ok(Answer::Words(text)) => {
                    drop(encoder);
                    session.say(&text, out);
                    Ok(())
                }
                Ok(Answer::Exited(end)) => {
                    stop_reply::exited(end, &mut encoder);
                    reply::try_finish(encoder)
                }
                Err(refusal) => {
                    drop(encoder);
                    Err(refusal)
                }
            };
            if let Err(refusal) = finished {
                let mut encoder = Encoder::packet(out, PACKET_SIZE_BYTES);
                session.refuse(&refusal, &mut encoder);
                reply::finish(encoder);
            }
        });
        if starts_no_ack {
            self.wire.stop_acknowledging();
        }
        turn
    }

    /// Tells the client of a stop if it waits for one or a command of its does, and returns whether
    /// it did.
    pub(crate) fn report_stop(&mut self, context: &mut Context<'_>) -> bool {
        let is_told = monitor::notify::tell_stop(self, context);
        if !core::mem::take(&mut self.session.awaits_stop) {
            return is_told;
        }
        self.session.holds_stop = true;
        let session = &mut self.session;
        let stop = context.core.run.last_stop();
        session.selected = stop.vcpu;
        self.wire.reply(|out| {
            session.announce_failure(stop.reason, out);
            session.announce_mode(stop.vcpu, out, context);
            let mut encoder = Encoder::packet(out, PACKET_SIZE_BYTES);
            session.stop_reply(stop, &mut encoder, context);
            reply::finish(encoder);
        });
        true
    }
}

impl Session {
    fn new(id: SessionId, access: Access) -> Self {
        Self {
            id,
            access,
            awaits_stop: false,
            holds_stop: false,
            released_stop: false,
            detached: None,
            is_lldb: false,
            features: ClientFeatures::default(),
            selected: VcpuId(0),
            resumed: None,
            layout: None,
            uses_physical_addresses: false,
            monitor: monitor::State::default(),
            saved_registers: BTreeMap::new(),
            files: files::OpenFiles::default(),
            wants_thread_events: false,
            is_attaching: false,
            told_mode: None,
            has_description: false,
            scratch: Vec::new(),
            work: None,
        }
    }

    /// Takes a request to stop that is no packet (rule R3): without a resume of this client's to
    /// answer there is nothing to say, but a request that goes on for several turns ends with it.
    fn interrupt(&mut self, context: &mut Context<'_>) {
        let is_waiting = self.awaits_stop || self.monitor.is_deferred();
        if is_waiting && self.access == Access::Full {
            context.interrupt();
        } else if let Some(work) = &mut self.work {
            *work = Work::Cancelled;
        }
    }

    fn answer(
        &mut self,
        request: Request<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        self.check_access(&request)?;
        if matches!(self.work, Some(Work::Cancelled)) {
            return Err(Refusal::text(reply::EINTR, "interrupted"));
        }
        match request {
            Request::StopReason => self.stop_reason(out, context),
            Request::Kill => self.kill(context),
            Request::KillProcess(_) => {
                self.kill(context)?;
                reply::ok(out)
            }
            Request::Detach { after, .. } => self.detach(after, out, context),
            Request::DetachStoppedSupported => reply::ok(out),
            Request::SetThread { usage, thread } => self.set_thread(usage, thread, out, context),
            Request::ThreadAlive(thread) => self.thread_alive(thread, out, context),
            Request::Attach(_) => Err(Refusal::text(
                1,
                "the guest is attached to already; there are no processes to choose from",
            )),

            Request::ReadRegisters { thread } => self.read_registers(thread, out, context),
            Request::WriteRegisters { data, thread } => {
                self.write_registers(data, thread, out, context)
            }
            Request::ReadRegister { number, thread } => {
                self.read_register(number, thread, out, context)
            }
            Request::WriteRegister {
                number,
                value,
                thread,
            } => self.write_register(number, value, thread, out, context),
            Request::SaveRegisters { thread } => self.save_registers(thread, out, context),
            Request::RestoreRegisters { id, thread } => {
                self.restore_registers(id, thread, out, context)
            }

            Request::ReadMemory { address, len_bytes } => {
                self.read_memory(address, len_bytes, out, context)
            }
            Request::ReadMemoryBinary { address, len_bytes } => {
                self.read_memory_binary(address, len_bytes, out, context)
            }
            Request::WriteMemory { address, data } => {
                self.write_memory(address, &data.to_vec(), out, context)
            }
            Request::WriteMemoryBinary { address, data } => {
                self.write_memory(address, data, out, context)
            }
            Request::Crc { address, len_bytes } => self.crc(address, len_bytes, out, context),
            Request::SearchMemory(search) => self.search_memory(search, out, context),
            Request::MemoryRegionSupported => reply::ok(out),
            Request::MemoryRegion(address) => self.memory_region(address, out, context),

            Request::Continue { address, .. } => self.legacy_continue(address, context),
            Request::Step { address, .. } => self.legacy_step(address, context),
            Request::Resume(actions) => self.resume(actions, context),
            Request::ResumeActions => reply::text(out, "vCont;c;C;s;S;t;r"),
            Request::Interrupt => {
                self.interrupt(context);
                reply::ok(out)
            }
            Request::InsertBreakpoint(point) => self.insert_point(&point, out, context),
            Request::RemoveBreakpoint(point) => self.remove_point(&point, out, context),
            request => self.answer_query(request, out, context),
        }
    }

    /// Answers `?`: the guest is stopped for a client that attaches to it.
    fn stop_reason(&mut self, out: &mut Encoder<'_>, context: &mut Context<'_>) -> Answered {
        if context.core.run.phase() == Phase::Stopped || self.access == Access::ReadOnly {
            self.holds_stop = self.access == Access::Full;
            if self.holds_stop {
                context.core.run.tell_withheld();
            }
            let stop = context.core.run.last_stop();
            self.selected = stop.vcpu;
            self.stop_reply(stop, out, context);
            return Ok(Answer::Reply);
        }
        self.awaits_stop = true;
        self.is_attaching = true;
        context.interrupt();
        Ok(Answer::None)
    }

    fn kill(&mut self, context: &mut Context<'_>) -> Answered {
        let end = context.core.run.ended().unwrap_or(GuestEnd::Killed);
        context.core.run.push_command(Command::End(end));
        Ok(Answer::None)
    }

    fn detach(
        &mut self,
        after: AfterDetach,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        context.core.points.release(self.id);
        context.publish_points();
        self.detached = Some(context.now);
        if after == AfterDetach::StayStopped {
            self.holds_stop = false;
        } else if self.access == Access::Full {
            // An explicit detach lets even a guest go that was held before its first instruction.
            context.core.has_started = true;
            self.holds_stop |= context.core.run.phase() == Phase::Stopped;
        }
        reply::ok(out)
    }

    fn set_thread(
        &mut self,
        usage: ThreadUse,
        thread: trapline_rsp::ThreadSpec,
        out: &mut Encoder<'_>,
        context: &Context<'_>,
    ) -> Answered {
        let chosen = threads::vcpu_of(thread, context)?;
        match usage {
            ThreadUse::Resume => self.resumed = chosen,
            ThreadUse::Other => self.selected = chosen.unwrap_or(self.selected),
        }
        reply::ok(out)
    }

    fn thread_alive(
        &mut self,
        thread: trapline_rsp::ThreadSpec,
        out: &mut Encoder<'_>,
        context: &Context<'_>,
    ) -> Answered {
        threads::vcpu_of(thread, context)?;
        reply::ok(out)
    }

    /// Returns the vCPU that a request is about.
    fn vcpu(
        &self,
        thread: Option<trapline_rsp::ThreadSpec>,
        context: &Context<'_>,
    ) -> Result<VcpuId, Refusal> {
        let named = thread
            .map(|thread| threads::vcpu_of(thread, context))
            .transpose()?;
        Ok(named.flatten().unwrap_or(self.selected))
    }

    /// Returns the registers as this client numbers them.
    fn layout(&mut self, context: &mut Context<'_>) -> Arc<Layout> {
        let vcpu = self.selected;
        let layout = self.layout.get_or_insert_with(|| {
            let kind = context.core.monitor.layout.resolve(vcpu, context);
            Arc::new(Layout::new(kind, context.core.config.features))
        });
        Arc::clone(layout)
    }

    /// Returns which registers the client was shown, if it was shown any.
    pub(crate) fn shown_layout(&self) -> Option<LayoutKind> {
        self.layout.as_ref().map(|layout| layout.kind())
    }

    /// Returns whether the client offers what only GDB does.
    pub(crate) fn offers_gdb_features(&self) -> bool {
        self.features.relocated_instructions
    }

    fn set_toggle(flag: &mut bool, toggle: Toggle) {
        *flag = toggle == Toggle::On;
    }
}
