//! `disassemble`: code as the chosen vCPU would execute it, in its mode and with symbols.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use trapline_arch::Gva;
use trapline_arch::x86_64::instruction::{self, CodeSize, Syntax};
use trapline_arch::x86_64::mode::CpuMode;
use trapline_arch::x86_64::segment::SegmentRegister;

use super::commands::{Command, Completes, Family, LOOKS};
use super::memory::{Space, nothing_at};
use super::{Call, Failure};
use crate::cpu::CONTROL;
use crate::points::PointKind;

/// How many instructions are shown if no number is given.
const DEFAULT_COUNT: u64 = 12;

/// The most instructions that one command shows.
const MAX_COUNT: usize = 512;

/// How many of an instruction's bytes are shown; few have more.
const SHOWN_BYTES: usize = 10;

/// The shortest number in an operand that is taken for an address, in digits behind `0x`.
const MIN_TARGET_DIGITS: usize = 3;

pub(super) const COMMANDS: &[Command] = &[Command {
    name: "disassemble",
    aliases: &[("dis", ""), ("disas", ""), ("u", "")],
    arguments: "[ADDR [COUNT]]",
    completes: &[Completes::Address, Completes::Nothing],
    summary: "show code, from the pc on if no address is given",
    details: "The code is read in the mode that the vCPU is in: 16, 32 or 64 bits. => marks the pc,\n\
        * a breakpoint. Addresses are linear; where the code segment has a base, the targets of\n\
        jumps are offsets in it.",
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
    size: CodeSize,
    bits: u32,
    /// What is added to an offset in the code segment.
    base: u64,
    pc: Gva,
}

/// Shows `count` instructions and returns the address behind them.
pub(super) fn list(address: u64, count: usize, call: &mut Call<'_, '_>) -> Result<u64, Failure> {
    let mode = mode(call)?;
    let len = count.saturating_mul(instruction::MAX_LEN_BYTES);
    let space = call.space();
    let code = call.fetch(space, address, len)?;
    if code.is_empty() {
        return Err(nothing_at(space, address));
    }
    if mode.base != 0 {
        call.out.line(format_args!(
            "{}-bit code; the code segment begins at {:#x}",
            mode.bits, mode.base
        ));
    }
    let offset = address.wrapping_sub(mode.base);
    let lines = instruction::disassemble(&code, mode.size, offset, count, Syntax::Att);
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
        let bytes = bytes_column(&line.bytes);
        let text = annotate(&line.text, mode.base, call);
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
    call.require_x86()?;
    let pc = call.context.pc(vcpu)?;
    let file = call.context.registers(vcpu, CONTROL)?;
    let mode = CpuMode::of(file);
    let base = match mode {
        CpuMode::Long64 => 0,
        _ => SegmentRegister::Cs.base(file),
    };
    Ok(Mode {
        size: mode.into(),
        bits: mode.code_bits(),
        base,
        pc,
    })
}

fn breakpoints(call: &Call<'_, '_>) -> Vec<Gva> {
    let keys = call.context.core.points.keys();
    keys.into_iter()
        .filter(|key| !matches!(key.kind, PointKind::Watchpoint(_)))
        .map(|key| key.address)
        .collect()
}

fn bytes_column(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(SHOWN_BYTES) {
        let _ = write!(text, "{byte:02x} ");
    }
    if bytes.len() > SHOWN_BYTES {
        text.push('+');
    }
    let width = SHOWN_BYTES.saturating_mul(3);
    format!("{text:width$}")
}

/// Names the symbol behind the first address in an instruction's text.
fn annotate(text: &str, base: u64, call: &Call<'_, '_>) -> String {
    let symbol = target(text).map(|target| call.symbol(Gva(target.wrapping_add(base))));
    match symbol {
        Some(symbol) if !symbol.is_empty() => format!("{text}  <{symbol}>"),
        _ => text.into(),
    }
}

fn target(text: &str) -> Option<u64> {
    // What a pc-relative operand comes to is behind the instruction, as a comment.
    let operand = text.rsplit('#').next().unwrap_or(text);
    let (_, behind) = operand.split_once("0x")?;
    let digits = behind.find(|character: char| !character.is_ascii_hexdigit());
    let digits = behind.get(..digits.unwrap_or(behind.len()))?;
    if digits.len() < MIN_TARGET_DIGITS {
        return None;
    }
    u64::from_str_radix(digits, 16).ok()
}
