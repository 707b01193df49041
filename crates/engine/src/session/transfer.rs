//! `qXfer`: documents read in pieces.

use alloc::string::String;
use core::fmt::Write as _;

use trapline_rsp::Encoder;
use trapline_rsp::request::{Transfer, TransferObject};

use super::threads::{describe, thread_of};
use super::work::Turn;
use super::{Answer, Answered, Refusal, Session, files, reply};
use crate::contract::{MemoryKind, VcpuId};
use crate::core::Context;

impl Session {
    pub(super) fn transfer(
        &mut self,
        transfer: &Transfer<'_>,
        out: &mut Encoder<'_>,
        context: &mut Context<'_>,
    ) -> Answered {
        let Transfer::Read {
            object,
            annex,
            offset_bytes,
            len_bytes,
        } = *transfer
        else {
            return reply::unsupported(out);
        };
        let document = match object {
            TransferObject::Features if annex == "target.xml" => {
                self.has_description = true;
                self.layout(context).target_xml()
            }
            TransferObject::Features => {
                return Err(Refusal::text(0, "there is only target.xml"));
            }
            TransferObject::Threads => threads_xml(context),
            TransferObject::MemoryMap => memory_map_xml(context),
            TransferObject::ExecFile => {
                if self.look_for_system(VcpuId(0), context) == Turn::More {
                    return Ok(Answer::Unfinished);
                }
                match files::symbol_file_len(context) {
                    Some(_) => String::from(files::SYMBOL_FILE),
                    None => return Err(Refusal::text(1, "the guest's kernel is not known yet")),
                }
            }
            _ => return reply::unsupported(out),
        };
        send_piece(document.as_bytes(), offset_bytes, len_bytes, out);
        Ok(Answer::Reply)
    }
}

/// Writes the part of a document that was asked for: `l` and the last bytes, or `m` and more to
/// come.
fn send_piece(document: &[u8], offset_bytes: u64, len_bytes: u64, out: &mut Encoder<'_>) {
    let from = usize::try_from(offset_bytes)
        .unwrap_or(usize::MAX)
        .min(document.len());
    let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
    // Escaping may double a byte.
    let room = out.remaining_bytes().saturating_sub(1) / 2;
    let to = from.saturating_add(len.min(room)).min(document.len());
    out.text(if to == document.len() { "l" } else { "m" });
    out.binary(document.get(from..to).unwrap_or_default());
}

fn threads_xml(context: &mut Context<'_>) -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<threads>\n");
    for vcpu in context.core.run.vcpu_ids() {
        let text = describe(vcpu, context);
        let id = thread_of(vcpu);
        let number = vcpu.0;
        // Writing to a string cannot fail.
        let _ = writeln!(
            xml,
            "<thread id=\"{id}\" core=\"{number}\" name=\"vCPU {number}\">{text}</thread>"
        );
    }
    xml.push_str("</threads>\n");
    xml
}

/// All of the address space is declared as RAM, as virtual addresses are: GDB takes the map for
/// virtual addresses and refuses to touch what is missing from it. It is declared in quarters: GDB
/// 13 keeps the rest of a region in a signed number, and dies of "virtual memory exhausted" when a
/// front end reads memory in a region of half the address space or more. The physical regions are
/// in a comment and in `monitor memory`.
fn memory_map_xml(context: &Context<'_>) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory \
         Map V1.0//EN\" \"gdb-memory-map.dtd\">\n<memory-map>\n<!-- guest-physical:\n",
    );
    for region in context.machine.memory().regions() {
        let kind = match region.kind {
            MemoryKind::Ram => "ram",
            MemoryKind::Rom => "rom",
        };
        let end = region.start.0.saturating_add(region.len_bytes);
        let _ = writeln!(xml, "{:#x} to {end:#x} {kind}", region.start.0);
    }
    xml.push_str("-->\n");
    for start in (0..4u64).map(|quarter| quarter << 62) {
        let _ = writeln!(
            xml,
            "<memory type=\"ram\" start=\"{start:#x}\" length=\"0x4000000000000000\"/>"
        );
    }
    xml.push_str("</memory-map>\n");
    xml
}
