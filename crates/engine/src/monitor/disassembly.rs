//! `disassemble`: code as the chosen vCPU would execute it, in its mode and with symbols.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use trapline_arch::x86_64::instruction::{CodeSize, Syntax};
use trapline_arch::x86_64::segment::SegmentRegister;
use trapline_arch::{Architecture, DisassembledLine, Gva, aarch64, x86_64};

use super::commands::{Command, Completes, Family, LOOKS};
use super::memory::{Space, nothing_at};
use super::{Call, Failure, fail};
use crate::cpu::CONTROL;
use crate::points::PointKind;

/// How many instructions are shown if no number is given.
const DEFAULT_COUNT: u64 = 12;

/// The most instructions that one command shows.
const MAX_COUNT: usize = 512;

/// The shortest number in an operand that is taken for an address, in digits behind `0x`.
const MIN_TARGET_DIGITS: usize = 3;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "disassemble",
    aliases: &[("dis", ""), ("disas", ""), ("u", "")],
    arguments: "[ADDR [COUNT]]",
    completes: &[Completes::Address, Completes::Nothing],
    summary: "show code, from the pc on if no address is given",
    details: "The code is read in the mode that the vCPU is in, on x86 16, 32 or 64 bits. => marks\n\
        the pc, * a breakpoint. Addresses are linear; where the code segment of x86 has a base, the\n\
        targets of jumps are offsets in it.",
    family: Family::Memory,
    run: disassemble,
    ..LOOKS
}];

fn disassemble(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = match call.optional_address()? {
        Some(address) => address,
        None => {
            let vcpu = call.vcpu();
            call.context.pc(vcpu)?.0
        }
    };
    let count = call.optional_count("count")?.unwrap_or(DEFAULT_COUNT);
    call.arguments.end()?;
    let shown = usize::try_from(count).unwrap_or(MAX_COUNT).min(MAX_COUNT);
    let next = list(address, shown, call)?;
    if (shown as u64) < count {
        let left = count.saturating_sub(shown as u64);
        call.out.rest(format_args!(
            "'disassemble {next:#x} {left}' shows the rest"
        ));
    }
    Ok(())
}

/// Code as the vCPU's mode has it.
struct Mode {
    code: Code,
    /// What is added to an offset in the code segment.
    base: u64,
    pc: Gva,
}

/// An instruction set.
enum Code {
    X86 { size: CodeSize, bits: u32 },
    A64,
}

impl Code {
    fn max_len_bytes(&self) -> usize {
        match self {
            Self::X86 { .. } => Architecture::X86_64.max_instruction_len_bytes(),
            Self::A64 => Architecture::Aarch64.max_instruction_len_bytes(),
        }
    }

    fn disassemble(&self, bytes: &[u8], ip: u64, count: usize) -> Vec<DisassembledLine> {
        match self {
            Self::X86 { size, .. } => {
                x86_64::instruction::disassemble(bytes, *size, ip, count, Syntax::Att)
            }
            Self::A64 => aarch64::instruction::disassemble(bytes, ip, count),
        }
    }

    /// How wide the bytes of an instruction are shown; few of x86 have more.
    fn shown_bytes(&self) -> usize {
        match self {
            Self::X86 { .. } => 10,
            Self::A64 => aarch64::instruction::LEN_BYTES,
        }
    }
}

/// Shows `count` instructions and returns the address behind them.
pub(super) fn list(address: u64, count: usize, call: &mut Call<'_, '_>) -> Result<u64, Failure> {
    let mode = mode(call)?;
    let len = count.saturating_mul(mode.code.max_len_bytes());
    let space = call.space();
    let code = call.fetch(space, address, len)?;
    if code.is_empty() {
        return Err(nothing_at(space, address));
    }
    if let Code::X86 { bits, .. } = mode.code
        && mode.base != 0
    {
        let base = mode.base;
        call.out.line(format_args!(
            "{bits}-bit code; the code segment begins at {base:#x}"
        ));
    }
    let offset = address.wrapping_sub(mode.base);
    let lines = mode.code.disassemble(&code, offset, count);
    let breakpoints = breakpoints(call);
    let mut next = address;
    let mut symbol_shown = String::new();
    for line in lines {
        let at = Gva(line.ip.wrapping_add(mode.base));
        let symbol = call.symbol(at);
        let function = symbol.split('+').next().unwrap_or_default();
        if space == Space::Virtual && function != symbol_shown {
            symbol_shown = function.into();
            if !function.is_empty() {
                let heading = symbol.strip_suffix("+0x0").unwrap_or(&symbol);
                call.out.line(format_args!("{heading}:"));
            }
        }
        let pc_mark = if at == mode.pc && space == Space::Virtual {
            "=>"
        } else {
            "  "
        };
        let point_mark = if breakpoints.contains(&at) { "*" } else { " " };
        let bytes = bytes_column(&line.bytes, mode.code.shown_bytes());
        let text = annotate(&line.text, &mode, call);
        call.out.line(format_args!(
            "{pc_mark}{point_mark} {:016x}  {bytes}  {text}",
            at.0
        ));
        next = at.0.wrapping_add(line.bytes.len() as u64);
    }
    if code.len() < len && next.wrapping_sub(address) >= code.len() as u64 {
        let Failure(reason) = nothing_at(space, next);
        call.out.rest(reason);
    }
    Ok(next)
}

fn mode(call: &mut Call<'_, '_>) -> Result<Mode, Failure> {
    let vcpu = call.vcpu();
    let pc = call.context.pc(vcpu)?;
    let architecture = call.context.core.config.architecture;
    let file = call.context.registers(vcpu, CONTROL)?;
    match architecture {
        Architecture::X86_64 => {
            let mode = x86_64::CpuMode::of(file);
            let base = match mode {
                x86_64::CpuMode::Long64 => 0,
                _ => SegmentRegister::Cs.base(file),
            };
            let (size, bits) = (mode.into(), mode.code_bits());
            let code = Code::X86 { size, bits };
            Ok(Mode { code, base, pc })
        }
        Architecture::Aarch64 => {
            if let aarch64::CpuMode::Aarch32 { .. } = aarch64::CpuMode::of(file) {
                return Err(fail!(
                    "{vcpu} is in AArch32 state, whose code is not disassembled here"
                ));
            }
            let code = Code::A64;
            Ok(Mode { code, base: 0, pc })
        }
    }
}

fn breakpoints(call: &Call<'_, '_>) -> Vec<Gva> {
    let keys = call.context.core.points.keys();
    keys.into_iter()
        .filter(|key| !matches!(key.kind, PointKind::Watchpoint(_)))
        .map(|key| key.address)
        .collect()
}

fn bytes_column(bytes: &[u8], shown: usize) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(shown) {
        let _ = write!(text, "{byte:02x} ");
    }
    if bytes.len() > shown {
        text.push('+');
    }
    let width = shown.saturating_mul(3);
    format!("{text:width$}")
}

/// Names the symbol behind the address in an instruction's text.
fn annotate(text: &str, mode: &Mode, call: &Call<'_, '_>) -> String {
    let target = target(text, &mode.code);
    let symbol = target.map(|target| call.symbol(Gva(target.wrapping_add(mode.base))));
    match symbol {
        Some(symbol) if !symbol.is_empty() => format!("{text}  <{symbol}>"),
        _ => text.into(),
    }
}

fn target(text: &str, code: &Code) -> Option<u64> {
    let (_, behind) = match code {
        // What a pc-relative operand comes to is behind the instruction, as a comment.
        Code::X86 { .. } => text.rsplit('#').next().unwrap_or(text).split_once("0x")?,
        // The target of a branch is its last operand.
        Code::A64 => text.rsplit_once("0x")?,
    };
    let digits = behind.find(|character: char| !character.is_ascii_hexdigit());
    let digits = behind.get(..digits.unwrap_or(behind.len()))?;
    if digits.len() < MIN_TARGET_DIGITS {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}
