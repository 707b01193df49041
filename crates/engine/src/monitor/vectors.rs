//! `vectors` and `exception`: where exceptions of AArch64 lead, and what the last one was.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::aarch64::CpuMode;
use trapline_arch::aarch64::control::Pstate;
use trapline_arch::aarch64::exception::{Esr, ExceptionClass};
use trapline_arch::aarch64::instruction::{Branch, Instruction, LEN_BYTES};
use trapline_arch::aarch64::registers::{ELR_EL1, ESR_EL1, FAR_EL1, SPSR_EL1, VBAR_EL1};
use trapline_arch::{Architecture, Gva};

use super::commands::{Command, Completes, Family, LOOKS};
use super::memory::{Space, nothing_at};
use super::output::Table;
use super::{Call, Failure, parse};
use crate::cpu::CONTROL;

/// The length of one vector in bytes.
///
/// Source: Arm ARM, "Exception vectors".
const VECTOR_BYTES: usize = 0x80;

/// The length of the table of vectors in bytes.
const TABLE_BYTES: usize = 0x800;

/// The low bits of VBAR that are no address.
const ALIGNMENT_BYTES: u64 = 0x800;

/// Where exceptions come from, in the order of the table.
const ORIGINS: [&str; 4] = ["EL1t", "EL1h", "EL0, AArch64", "EL0, AArch32"];

/// The kinds of exceptions, in the order of the table.
const KINDS: [&str; 4] = ["synchronous", "IRQ", "FIQ", "SError"];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "vectors",
        summary: "show where exceptions lead on AArch64",
        details: "'leads to' is the first branch in the vector that is always taken.",
        family: Family::Paging,
        run: vectors,
        ..LOOKS
    },
    Command {
        name: "exception",
        aliases: &[("esr", "")],
        arguments: "[ESR]",
        completes: &[Completes::Nothing],
        summary: "explain the last exception on AArch64, or a syndrome",
        details: "Without a value it is about ESR_EL1 and what was saved with it.",
        family: Family::Paging,
        run: exception,
        ..LOOKS
    },
];

fn require_aarch64(call: &Call<'_, '_>, what: &str) -> Result<(), Failure> {
    let instead = "'idt' shows where exceptions lead";
    call.require(Architecture::Aarch64, what, instead)
}

fn vectors(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    require_aarch64(call, "exception vectors")?;
    call.arguments.end()?;
    let vcpu = call.vcpu();
    let file = call.context.registers(vcpu, CONTROL)?;
    let base = Gva(file.u64(VBAR_EL1)).align_down(ALIGNMENT_BYTES);
    let title = format!("{vcpu}, vectors at {base} {}", call.symbol(base));
    call.out.line(title.trim_end());
    let mut code = alloc::vec![0; TABLE_BYTES];
    let read = call.context.read_virtual(vcpu, base, &mut code)?;
    if read == 0 {
        return Err(nothing_at(Space::Virtual, base.0));
    }
    let mut table = Table::new(&["vector", "from", "kind", "symbol", "leads to", "symbol"]);
    let names = ORIGINS
        .iter()
        .flat_map(|origin| KINDS.iter().map(move |kind| (*origin, *kind)));
    let code = code.get(..read).unwrap_or_default();
    let mut vector = base;
    for ((origin, kind), code) in names.zip(code.chunks(VECTOR_BYTES)) {
        let target = first_branch(vector, code);
        table.row([
            format!("{vector}"),
            origin.into(),
            kind.into(),
            call.symbol(vector),
            target.map_or(String::new(), |target| format!("{target}")),
            target.map_or(String::new(), |target| call.symbol(target)),
        ]);
        vector = vector.wrapping_add(VECTOR_BYTES as u64);
    }
    table.write(&mut call.out);
    Ok(())
}

/// Returns the target of the first branch in `code`, which stands at `start`, that is always taken.
fn first_branch(start: Gva, code: &[u8]) -> Option<Gva> {
    let offsets = (0_u64..).step_by(LEN_BYTES);
    let mut instructions = code.chunks_exact(LEN_BYTES).zip(offsets);
    instructions.find_map(|(word, offset)| {
        let branch = Instruction::from_bytes(word)?.branch(start.wrapping_add(offset))?;
        matches!(branch, Branch::Always(_) | Branch::Call(_)).then(|| branch.target())
    })
}

fn exception(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    require_aarch64(call, "exception syndrome")?;
    if let Some(text) = call.arguments.next() {
        call.arguments.end()?;
        let esr = Esr::from_bits(parse::count(text, "syndrome")?);
        call.out.line(esr);
        return Ok(());
    }
    let vcpu = call.vcpu();
    let file = call.context.registers(vcpu, CONTROL)?;
    let [esr, far, elr, spsr] = [ESR_EL1, FAR_EL1, ELR_EL1, SPSR_EL1].map(|id| file.u64(id));
    let (syndrome, saved) = (Esr::from_bits(esr), Pstate::from_bits(spsr));
    let mode = CpuMode::of_pstate(saved);
    let mut rows: Vec<[String; 3]> = Vec::new();
    rows.push(["esr_el1".into(), format!("{esr:#x}"), format!("{syndrome}")]);
    if has_fault_address(syndrome.ec()) {
        rows.push(["far_el1".into(), format!("{far:#x}"), call.symbol(Gva(far))]);
    }
    rows.push(["elr_el1".into(), format!("{elr:#x}"), call.symbol(Gva(elr))]);
    rows.push(["spsr_el1".into(), format!("{spsr:#x}"), format!("{mode}")]);
    call.out.line(format_args!(
        "{vcpu}, the last exception that was taken to EL1"
    ));
    let mut table = Table::new(&["", "", ""]);
    rows.into_iter().for_each(|row| table.row(row));
    table.write(&mut call.out);
    Ok(())
}

/// Returns whether FAR holds an address after an exception of `class`.
///
/// Source: Arm ARM, "`FAR_EL1`, Fault Address Register (EL1)".
fn has_fault_address(class: ExceptionClass) -> bool {
    matches!(
        class,
        ExceptionClass::INSTRUCTION_ABORT_LOWER
            | ExceptionClass::INSTRUCTION_ABORT_SAME
            | ExceptionClass::PC_ALIGNMENT
            | ExceptionClass::DATA_ABORT_LOWER
            | ExceptionClass::DATA_ABORT_SAME
            | ExceptionClass::WATCHPOINT_LOWER
            | ExceptionClass::WATCHPOINT_SAME
    )
}
