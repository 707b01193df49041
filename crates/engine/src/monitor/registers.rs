//! `regs` and `set`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use trapline_arch::{
    FlagField, GdbType, Gva, Layout, Register, RegisterFile, RegisterGroup, RegisterGroups,
    RegisterId, Writable,
};

use super::commands::{CHANGES, Command, Completes, Family, LOOKS};
use super::output::columns;
use super::parse::{self, NamedRegister};
use super::{Call, Failure, fail, vcpus};
use crate::contract::AccessError;
use crate::session::Refusal;
use crate::session::registers::set_pc;

/// What `regs` can be asked for besides names of registers.
const GROUPS: &[&str] = &[
    "general", "system", "fpu", "vector", "debug", "msr", "pauth", "all",
];

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "regs",
        aliases: &[("registers", ""), ("r", "")],
        arguments: "[NAME|GROUP]...",
        completes: &[Completes::Register],
        summary: "show registers: the general ones, those named, or a group",
        details: "Groups: general, system, fpu, vector, debug, msr, pauth, all. On AArch64 msr has the\n\
            registers of timers and of identification.\n\
            Flags that are set are named behind the value.",
        family: Family::State,
        run: show,
        ..LOOKS
    },
    Command {
        name: "set",
        arguments: "REGISTER VALUE",
        completes: &[Completes::Register, Completes::Address],
        summary: "change a register of the chosen vCPU",
        details: "VALUE is a number or an address expression; a register wider than 64 bits takes\n\
            hexadecimal digits. 'set pc ADDR' takes a linear address in every mode.",
        family: Family::State,
        run: set,
        ..CHANGES
    },
];

fn show(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let Some(first) = call.arguments.next() else {
        let title = vcpus::summary(call.vcpu(), call.context);
        call.out.line(title);
        return general(call);
    };
    let mut name = Some(first);
    while let Some(word) = name {
        match word {
            "general" => general(call)?,
            "system" => group(call, |register| register.set == "System Registers")?,
            "fpu" => group(call, |register| register.set == "Floating Point Registers")?,
            "vector" => group(call, |register| register.set == "Vector Registers")?,
            "debug" => group(call, |register| register.group == RegisterGroup::Debug)?,
            "msr" => group(call, |register| MSR_SETS.contains(&register.set))?,
            "pauth" => group(call, |register| {
                register.set == "Pointer Authentication Registers"
            })?,
            "all" => {
                general(call)?;
                group(call, |register| register.set != GENERAL_SET)?;
            }
            name => one(name, call)?,
        }
        name = call.arguments.next();
    }
    Ok(())
}

/// The set that the table of registers gives those that `regs` shows by itself.
const GENERAL_SET: &str = "General Purpose Registers";

/// The sets that `regs msr` shows.
const MSR_SETS: [&str; 3] = [
    "Model-Specific Registers",
    "Timer Registers",
    "Identification Registers",
];

/// Shows the general registers, the flags, the selectors, and where the pc stands.
fn general(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    group(call, |register| {
        register.set == GENERAL_SET && register.group == RegisterGroup::General
    })?;
    let is_selector = |register: &Register| {
        register.set == GENERAL_SET && register.group == RegisterGroup::System
    };
    let selectors = values(call, is_selector).numbers;
    if !selectors.is_empty() {
        call.out.line(selectors.join("  "));
    }
    let vcpu = call.vcpu();
    let pc = call.context.pc(vcpu)?;
    let pc_register = call.context.core.config.architecture.pc_register();
    let file = call.context.registers(vcpu, RegisterGroups::GENERAL)?;
    if pc.0 != file.u64(pc_register) {
        call.out
            .line(format_args!("the linear address of cs:rip is {pc}"));
    }
    Ok(())
}

/// Registers with their values, as they are laid out.
#[derive(Default)]
struct Values {
    /// Those of 64 bits and less, for columns.
    numbers: Vec<String>,
    /// Wide ones and those with flags, for lines of their own.
    lines: Vec<String>,
    /// Those that could not be read, and why.
    missing: Vec<&'static str>,
    error: Option<AccessError>,
}

/// Shows the registers that are wanted.
fn group(call: &mut Call<'_, '_>, wanted: fn(&Register) -> bool) -> Result<(), Failure> {
    let values = values(call, wanted);
    columns(&values.numbers, &mut call.out);
    for line in values.lines {
        call.out.line(line);
    }
    if let Some(error) = values.error {
        let names = values.missing.join(", ");
        call.out
            .line(format_args!("not to be had: {names} ({error})"));
    }
    Ok(())
}

fn values(call: &mut Call<'_, '_>, wanted: impl Fn(&Register) -> bool) -> Values {
    let config = &call.context.core.config;
    let layout = Layout::new(config.architecture.native_layout(), config.features);
    let vcpu = call.vcpu();
    let is_plain = |register: &Register| {
        register.bits <= 64 && !matches!(register.view.gdb_type, GdbType::Flags { .. })
    };
    let entries = || {
        layout
            .entries()
            .iter()
            .filter(|entry| wanted(entry.register))
    };
    let width = |plain: bool| {
        let named = entries().filter(|entry| is_plain(entry.register) == plain);
        named
            .map(|entry| entry.register.name.len())
            .max()
            .unwrap_or(0)
    };
    let (number_width, line_width) = (width(true), width(false));
    let mut values = Values::default();
    let pc_register = call.context.core.config.architecture.pc_register();
    for entry in entries() {
        let register = entry.register;
        let is_plain = is_plain(register);
        let width = if is_plain { number_width } else { line_width };
        let text = match call.context.registers(vcpu, register.group.into()) {
            Ok(file) => line(register, width, entry.id, file),
            Err(error) => {
                values.missing.push(register.name);
                values.error = Some(error);
                continue;
            }
        };
        if entry.id == pc_register {
            let pc = call.context.pc(vcpu).unwrap_or_default();
            let text = format!("{text}  {}", call.symbol(pc));
            values.lines.push(text.trim_end().into());
        } else if is_plain {
            values.numbers.push(text);
        } else {
            values.lines.push(text);
        }
    }
    values
}

fn one(name: &str, call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let named = find(name, call)?;
    let vcpu = call.vcpu();
    let file = call.context.registers(vcpu, named.register.group.into())?;
    let text = if named.is_narrow {
        format!("{name} {:08x}", named.value(file))
    } else {
        line(named.register, 0, named.id, file)
    };
    let value = named.value(file);
    let symbol = if named.register.bits == 64 {
        call.symbol(Gva(value))
    } else {
        String::new()
    };
    call.out.line(format!("{text}  {symbol}").trim_end());
    Ok(())
}

fn find(name: &str, call: &Call<'_, '_>) -> Result<NamedRegister, Failure> {
    parse::register(name, call.context).ok_or_else(|| {
        fail!(
            "there is no register or group '{name}'; the groups are {}",
            GROUPS.join(", ")
        )
    })
}

/// Returns a register's name, at least `width` wide, its value in all its digits, and the flags that are set.
fn line(register: &Register, width: usize, id: RegisterId, file: &RegisterFile) -> String {
    let mut digits = String::new();
    for byte in file.bytes(id).iter().rev() {
        digits.push_str(&format!("{byte:02x}"));
    }
    let flags = match register.view.gdb_type {
        GdbType::Flags { fields, .. } => flags(fields, file.u64(id)),
        _ => String::new(),
    };
    format!("{:<width$} {digits}{flags}", register.name)
}

fn flags(fields: &[FlagField], value: u64) -> String {
    let mut names = Vec::new();
    for field in fields.iter().filter(|field| !field.name.is_empty()) {
        let width = u32::from(field.end.saturating_sub(field.start)).saturating_add(1);
        let mask = u64::MAX.unbounded_shr(64_u32.saturating_sub(width));
        let bits = value.unbounded_shr(field.start.into()) & mask;
        match (width, bits) {
            (_, 0) => {}
            (1, _) => names.push(field.name.to_string()),
            _ => names.push(format!("{}={bits:x}", field.name)),
        }
    }
    if names.is_empty() {
        return String::new();
    }
    format!("  [{}]", names.join(" "))
}

fn set(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let name = call.arguments.need("the register")?;
    let value = call.arguments.need("the value")?;
    call.arguments.end()?;
    call.need_stopped_guest()?;
    let vcpu = call.vcpu();
    if matches!(name, "pc" | "$pc") {
        let pc = call.evaluate(value)?;
        set_pc(vcpu, Gva(pc), call.context)?;
        let architecture = call.context.core.config.architecture;
        let register = architecture.registers();
        let register = register.get(usize::from(architecture.pc_register().0));
        return register.map_or(Ok(()), |register| one(register.name, call));
    }
    let named = find(name, call)?;
    let register = named.register;
    if register.writable == Writable::No {
        return Err(fail!("{} cannot be written", register.name));
    }
    let len = if named.is_narrow {
        4
    } else {
        register.len_bytes()
    };
    let bytes = value_bytes(value, len, call)?;
    call.context
        .update_registers(vcpu, register.group, |file| {
            for (to, from) in file.bytes_mut(named.id).iter_mut().zip(&bytes) {
                *to = *from;
            }
            Ok::<(), Refusal>(())
        })?;
    one(name, call)
}

/// Returns a value as `len` bytes, least significant first.
fn value_bytes(text: &str, len: usize, call: &mut Call<'_, '_>) -> Result<Vec<u8>, Failure> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if len > 8 {
        return wide_bytes(digits, len)
            .ok_or_else(|| fail!("'{text}' is no value of {len} bytes in hexadecimal digits"));
    }
    let value = call.evaluate(text)?;
    let bytes = value.to_le_bytes();
    let (low, high) = bytes.split_at_checked(len).unwrap_or((&bytes, &[]));
    if high.iter().any(|byte| *byte != 0) {
        let bits = len.saturating_mul(8);
        return Err(fail!(
            "{value:#x} is too large for a register of {bits} bits"
        ));
    }
    Ok(low.to_vec())
}

fn wide_bytes(digits: &str, len: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for pair in digits.as_bytes().rchunks(2) {
        bytes.push(u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?);
    }
    (bytes.len() <= len && !bytes.is_empty()).then(|| {
        bytes.resize(len, 0);
        bytes
    })
}
