//! `symbols` and `symbol`: what is known of the guest's kernel.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::commands::{Command, Completes, Family, LOOKS};
use super::output::Table;
use super::{Call, Failure, fail, parse};
use crate::contract::GuestOs;
use crate::core::Context;
use crate::session::work::Turn;

/// How far behind a symbol an address may be and still be called by it, in bytes: no function or
/// variable of a kernel is larger than this.
const MAX_OFFSET_BYTES: u64 = 4 << 20;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "symbols",
        aliases: &[("kernel", "")],
        summary: "show what is known of the guest's kernel, or why nothing is",
        family: Family::Symbols,
        run: show,
        ..LOOKS
    },
    Command {
        name: "symbol",
        aliases: &[("sym", "")],
        arguments: "NAME|ADDR",
        completes: &[Completes::Address],
        summary: "find a symbol's address, or the symbol that an address is in",
        family: Family::Symbols,
        run: find,
        ..LOOKS
    },
];

/// Returns `name+0x10` for an address in a symbol, or nothing.
pub(super) fn name_of(address: Gva, context: &Context<'_>) -> String {
    let os = context.core.os.as_ref();
    let found = os.and_then(|os| os.symbol_at(address));
    match found.filter(|found| found.offset_bytes < MAX_OFFSET_BYTES) {
        Some(found) => format!("{}+{:#x}", found.name, found.offset_bytes),
        None => String::new(),
    }
}

fn show(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    call.arguments.end()?;
    if call.look_for_system() == Turn::More {
        return Ok(());
    }
    let os = known_os(call.context)?;
    let mut table = Table::new(&["", ""]);
    if let Some(description) = os.description() {
        table.row(["system".into(), description]);
    }
    if let Some((text, moved)) = os.text_placement() {
        table.row(["text".into(), format!("{text}")]);
        table.row(["moved by".into(), format!("{moved:#x}")]);
    }
    for (name, value) in os.facts() {
        table.row([name.into(), value]);
    }
    if let Some(len) = os.symbol_file_len() {
        table.row([
            "symbol file".into(),
            format!("{len} bytes, served to debuggers"),
        ]);
    }
    table.write(&mut call.out);
    Ok(())
}

fn find(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let text = call.arguments.need("the symbol or address")?;
    call.arguments.end()?;
    if call.look_for_system() == Turn::More {
        return Ok(());
    }
    let os = known_os(call.context)?;
    if let Some(address) = os.address_of(text) {
        call.out.line(format!("{text} is at {address}"));
        return Ok(());
    }
    let is_name = parse::register(text, call.context).is_none()
        && text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && !text.contains(['+', '-']);
    if is_name {
        let names: Vec<String> = os.complete(text, 16);
        if names.is_empty() {
            return Err(parse::unknown_name(text, call.context));
        }
        call.out.line(format!("there is no {text}, but"));
        for name in names {
            call.out.line(format_args!("  {name}"));
        }
        return Ok(());
    }
    let is_system_known = os.description().is_some();
    let address = Gva(call.evaluate(text)?);
    let symbol = call.symbol(address);
    if symbol.is_empty() && !is_system_known {
        return Err(fail!("the guest's symbols are not known; see 'symbols'"));
    }
    if symbol.is_empty() {
        return Err(fail!("{address} is in no symbol of the kernel"));
    }
    call.out.line(format!("{address} is {symbol}"));
    Ok(())
}

impl Call<'_, '_> {
    /// Looks for the guest's kernel for one turn. After [`Turn::More`] the command has nothing to
    /// say yet, and is carried out again.
    fn look_for_system(&mut self) -> Turn {
        let vcpu = self.vcpu();
        self.session.look_for_system(vcpu, self.context)
    }
}

fn known_os<'a>(context: &'a Context<'_>) -> Result<&'a dyn GuestOs, Failure> {
    match &context.core.os {
        Some(os) => Ok(os.as_ref()),
        None => Err(fail!("this host does not look for a kernel in the guest")),
    }
}
