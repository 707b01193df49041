//! `idt` and `gdt`: the descriptor tables of x86.

use alloc::format;
use alloc::string::{String, ToString};

use trapline_arch::x86_64::control::Efer;
use trapline_arch::x86_64::interrupts::{self, Gate, GateError, GateKind};
use trapline_arch::x86_64::registers::{GDTR_BASE, GDTR_LIMIT, IDTR_BASE, IDTR_LIMIT};
use trapline_arch::x86_64::segment::SegmentAttributes;
use trapline_arch::{Architecture, Gva};

use super::commands::{Command, Completes, Family, LOOKS};
use super::output::Table;
use super::{Call, Failure, fail, parse};
use crate::cpu::CONTROL;

/// The most descriptors that `gdt` shows: Linux has 16.
const MAX_DESCRIPTORS: u64 = 256;

/// The size of a descriptor in bytes. One of the system kinds takes two in long mode.
const DESCRIPTOR_BYTES: u64 = 8;

/// The types of system descriptors that take 16 bytes in long mode: LDT, available and busy TSS,
/// call gate (SDM vol. 3A, "System Descriptor Types").
const WIDE_TYPES: [u8; 4] = [0x2, 0x9, 0xb, 0xc];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "idt",
        arguments: "[VECTOR]",
        completes: &[Completes::Nothing],
        summary: "show where interrupts and exceptions lead on x86",
        details: "Vectors without a gate are left out. IST is the entry of the interrupt stack table.",
        family: Family::Paging,
        run: idt,
        ..LOOKS
    },
    Command {
        name: "gdt",
        summary: "show the segments of x86's global descriptor table",
        family: Family::Paging,
        run: gdt,
        ..LOOKS
    },
];

fn idt(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.require(
        Architecture::X86_64,
        "interrupt descriptor table",
        "'vectors' shows where exceptions lead",
    )?;
    let only = match call.arguments.next() {
        Some(text) => {
            let vector = parse::count(text, "vector")?;
            let vector = u8::try_from(vector);
            Some(vector.map_err(|_| fail!("'{text}' is no vector: they are 0 to 255"))?)
        }
        None => None,
    };
    call.arguments.end()?;
    title("idt", IDTR_BASE, IDTR_LIMIT, call)?;
    let mut table = Table::new(&[
        "vector", "handler", "symbol", "selector", "gate", "dpl", "ist",
    ]);
    let mut first_error = None;
    let mut is_empty = true;
    for vector in only.map_or(0..=u8::MAX, |vector| vector..=vector) {
        match gate(vector, call)? {
            Ok(gate) => {
                is_empty = false;
                table.row(gate_row(vector, gate, call));
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    if is_empty {
        let error = first_error.map_or_else(String::new, |error| format!(": {error}"));
        return Err(fail!("there is no gate{error}"));
    }
    table.write(&mut call.out);
    Ok(())
}

fn gate(vector: u8, call: &mut Call<'_, '_>) -> Result<Result<Gate, GateError>, Failure> {
    let vcpu = call.vcpu();
    let space = call.context.address_space(vcpu)?;
    let points = call.context.core.points.published();
    // The registers are fetched before memory is borrowed, and kept.
    let file = call.context.registers(vcpu, CONTROL)?.clone();
    let memory = call.context.machine.memory();
    let mut read = |address: Gva, buffer: &mut [u8]| {
        space.read(memory, &points, address, buffer) == buffer.len()
    };
    Ok(interrupts::gate(&file, vector, &mut read))
}

fn gate_row(vector: u8, gate: Gate, call: &Call<'_, '_>) -> [String; 7] {
    let kind = match gate.kind {
        GateKind::RealMode => "real mode",
        GateKind::Interrupt => "interrupt",
        GateKind::Trap => "trap",
    };
    let ist = if gate.ist == 0 {
        String::new()
    } else {
        gate.ist.to_string()
    };
    [
        format!("{vector:#04x}"),
        gate.handler.to_string(),
        call.symbol(gate.handler),
        format!("{:#06x}", gate.selector),
        kind.into(),
        gate.dpl.to_string(),
        ist,
    ]
}

fn gdt(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.require(
        Architecture::X86_64,
        "segments",
        "'map' shows what is mapped",
    )?;
    call.arguments.end()?;
    let (base, limit) = title("gdt", GDTR_BASE, GDTR_LIMIT, call)?;
    let vcpu = call.vcpu();
    let is_long_mode = Efer::read(call.context.registers(vcpu, CONTROL)?).lma();
    let mut table = Table::new(&["selector", "base", "limit", "dpl", "kind"]);
    let mut offset: u64 = 0;
    let count = limit.saturating_add(1) / DESCRIPTOR_BYTES;
    let end = count.min(MAX_DESCRIPTORS).saturating_mul(DESCRIPTOR_BYTES);
    while offset < end {
        let mut bytes = [0; 16];
        let at = Gva(base.wrapping_add(offset));
        let read = call.context.read_virtual(vcpu, at, &mut bytes)?;
        if read < 8 {
            table.write(&mut call.out);
            return Err(super::memory::nothing_at(
                super::memory::Space::Virtual,
                at.0,
            ));
        }
        let descriptor = Descriptor::new(bytes, is_long_mode);
        if bytes.iter().take(8).any(|byte| *byte != 0) {
            table.row(descriptor.row(offset));
        }
        offset = offset.saturating_add(descriptor.len_bytes());
    }
    if end == 0 {
        call.out.line("it is empty");
        return Ok(());
    }
    table.write(&mut call.out);
    if count > MAX_DESCRIPTORS {
        call.out.rest(format_args!(
            "{MAX_DESCRIPTORS} of {count} descriptors; 'read {:#x}' shows the next",
            base.wrapping_add(end)
        ));
    }
    Ok(())
}

/// Writes where a table is, and returns it.
fn title(
    name: &str,
    base: trapline_arch::RegisterId,
    limit: trapline_arch::RegisterId,
    call: &mut Call<'_, '_>,
) -> Result<(u64, u64), Failure> {
    let vcpu = call.vcpu();
    let file = call.context.registers(vcpu, CONTROL)?;
    let (base, limit) = (file.u64(base), file.u64(limit));
    call.out.line(format_args!(
        "{vcpu}, {name} at {base:#x}, limit {limit:#x}"
    ));
    Ok((base, limit))
}

/// A descriptor of 8 or 16 bytes.
///
/// ```text
///  byte 7     6              5        4..2      1..0
/// ┌────────┬──────┬───────┬────────┬─────────┬───────────┐
/// │ base   │ G D L│ limit │ P DPL  │ base    │ limit     │
/// │ 31:24  │ AVL  │ 19:16 │ S type │ 23:0    │ 15:0      │
/// └────────┴──────┴───────┴────────┴─────────┴───────────┘
/// ```
///
/// Source: SDM vol. 3A, "Segment Descriptors".
struct Descriptor {
    base: u64,
    limit: u64,
    attributes: SegmentAttributes,
    /// It has a second half, with the upper half of the base.
    is_wide: bool,
}

impl Descriptor {
    fn new(bytes: [u8; 16], is_long_mode: bool) -> Self {
        let [l0, l1, b0, b1, b2, access, mixed, b3, b4, b5, b6, b7, ..] = bytes;
        let attributes =
            SegmentAttributes::from_bits(u32::from_le_bytes([access, mixed & 0xf0, 0, 0]));
        let low = u64::from(u32::from_le_bytes([b0, b1, b2, b3]));
        let high = u64::from(u32::from_le_bytes([b4, b5, b6, b7]));
        let limit = u64::from(u32::from_le_bytes([l0, l1, mixed & 0x0f, 0]));
        let is_wide = is_long_mode && !attributes.s() && WIDE_TYPES.contains(&attributes.r#type());
        Self {
            base: if is_wide { low | high << 32 } else { low },
            limit: if attributes.g() {
                limit << 12 | 0xfff
            } else {
                limit
            },
            attributes,
            is_wide,
        }
    }

    fn len_bytes(&self) -> u64 {
        if self.is_wide {
            2 * DESCRIPTOR_BYTES
        } else {
            DESCRIPTOR_BYTES
        }
    }

    fn row(&self, offset: u64) -> [String; 5] {
        [
            format!("{offset:#06x}"),
            format!("{:#x}", self.base),
            format!("{:#x}", self.limit),
            self.attributes.dpl().to_string(),
            self.kind(),
        ]
    }

    fn kind(&self) -> String {
        let attributes = self.attributes;
        let ty = attributes.r#type();
        let absent = if attributes.p() { "" } else { ", not present" };
        let kind = match (attributes.s(), ty) {
            (true, 0x8..) => {
                let bits = match (attributes.l(), attributes.db()) {
                    (true, _) => "64-bit",
                    (false, true) => "32-bit",
                    (false, false) => "16-bit",
                };
                format!("{bits} code")
            }
            (true, _) if ty & 0b10 != 0 => "data, writable".into(),
            (true, _) => "data".into(),
            (false, 0x2) => "LDT".into(),
            (false, 0x1 | 0x9) => "TSS".into(),
            (false, 0x3 | 0xb) => "TSS, busy".into(),
            (false, 0x4 | 0xc) => "call gate".into(),
            (false, ty) => format!("system type {ty:#x}"),
        };
        format!("{kind}{absent}")
    }
}
