//! Disassembly for people.

use alloc::{format, string::String, vec::Vec};

use yaxpeax_arch::{Arch, Decoder as _, U8Reader};
use yaxpeax_arm::armv8::a64::{ARMv8, Operand};

use super::{Instruction, LEN_BYTES};
use crate::DisassembledLine;

/// ADRP's offset is from the start of the page that it stands in.
const ADRP_PAGE_BYTES: u64 = 4096;

/// Disassembles up to `max_lines` instructions at the start of `bytes`, which stand at `pc`.
///
/// Targets of branches and of pc-relative operands are written as addresses. A word that is no
/// instruction, or none that is known here, takes a line as `.inst`. An instruction that the end of
/// `bytes` cuts off is left out.
#[must_use]
pub fn disassemble(bytes: &[u8], pc: u64, max_lines: usize) -> Vec<DisassembledLine> {
    let words = bytes.chunks_exact(LEN_BYTES).take(max_lines);
    let mut ip = pc;
    let mut lines = Vec::new();
    for word in words {
        let text = text(word, ip);
        lines.push(DisassembledLine {
            ip,
            bytes: word.into(),
            text,
        });
        ip = ip.wrapping_add(LEN_BYTES as u64);
    }
    lines
}

fn text(word: &[u8], pc: u64) -> String {
    let decoder = <ARMv8 as Arch>::Decoder::default();
    let Ok(instruction) = decoder.decode(&mut U8Reader::new(word)) else {
        let value = Instruction::from_bytes(word).map_or(0, |instruction| instruction.0);
        return format!(".inst {value:#010x}");
    };
    let text = format!("{instruction}");
    let mut operands = instruction.operands.iter();
    let offset = operands.find_map(|operand| match operand {
        Operand::PCOffset(offset) => Some(*offset),
        _ => None,
    });
    // The operand is written as `$+0x10` or `$-0x10`, and nothing stands behind it.
    match (offset, text.find('$')) {
        (Some(offset), Some(start)) => {
            let base = if text.starts_with("adrp") {
                pc & !(ADRP_PAGE_BYTES - 1)
            } else {
                pc
            };
            let before = text.get(..start).unwrap_or_default();
            format!("{before}{:#x}", base.wrapping_add_signed(offset))
        }
        _ => text,
    }
}
