//! Disassembly for people.

use alloc::{string::String, vec::Vec};
use core::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction, IntelFormatter};

use super::CodeSize;
use crate::DisassembledLine;

/// How instructions are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Syntax {
    /// AT&T, as GNU tools write by default.
    #[default]
    Att,
    /// Intel.
    Intel,
}

/// Disassembles up to `max_lines` instructions at the start of `bytes`, which stand at `ip`.
///
/// A byte that starts no instruction takes a line of its own, `(bad)`. An instruction that the end of
/// `bytes` cuts off is left out.
#[must_use]
pub fn disassemble(
    bytes: &[u8],
    size: CodeSize,
    ip: u64,
    max_lines: usize,
    syntax: Syntax,
) -> Vec<DisassembledLine> {
    let mut formatter = TextFormatter::new(syntax);
    let mut lines = Vec::new();
    let (mut rest, mut ip) = (bytes, ip);
    while lines.len() < max_lines && !rest.is_empty() {
        let mut decoder = Decoder::with_ip(size.bits(), rest, ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let (len_bytes, text) = if !instruction.is_invalid() {
            (instruction.len(), formatter.text(&instruction))
        } else if decoder.last_error() == iced_x86::DecoderError::NoMoreBytes {
            break;
        } else {
            (1, String::from("(bad)"))
        };
        let Some((taken, tail)) = rest.split_at_checked(len_bytes) else {
            break;
        };
        lines.push(DisassembledLine {
            ip,
            bytes: taken.into(),
            text,
        });
        rest = tail;
        ip = ip.wrapping_add(u64::try_from(len_bytes).unwrap_or(0));
    }
    lines
}

/// One of iced's formatters, set to write numbers as C does.
enum TextFormatter {
    Att(GasFormatter),
    Intel(IntelFormatter),
}

impl TextFormatter {
    fn new(syntax: Syntax) -> Self {
        let mut formatter = match syntax {
            Syntax::Att => Self::Att(GasFormatter::new()),
            Syntax::Intel => Self::Intel(IntelFormatter::new()),
        };
        let options = match &mut formatter {
            Self::Att(formatter) => formatter.options_mut(),
            Self::Intel(formatter) => formatter.options_mut(),
        };
        options.set_uppercase_hex(false);
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_space_after_operand_separator(false);
        options.set_branch_leading_zeros(false);
        options.set_rip_relative_addresses(true);
        formatter
    }

    fn text(&mut self, instruction: &Instruction) -> String {
        let mut text = String::new();
        match self {
            Self::Att(formatter) => formatter.format(instruction, &mut text),
            Self::Intel(formatter) => formatter.format(instruction, &mut text),
        }
        if instruction.is_ip_rel_memory_operand() {
            // Writing to a string cannot fail.
            let _ = write!(text, "  # {:#x}", instruction.ip_rel_memory_address());
        }
        text
    }
}
