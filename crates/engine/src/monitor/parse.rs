//! What the words of a command line mean: addresses, sizes, registers, bytes.
//!
//! ```text
//! ADDR = TERM { ("+" | "-") TERM }
//! TERM = 0x1f00 | 4096 | 4K | ffffffff81000000 (16 digits) | rsp | $rip | do_sys_openat2
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use trapline_arch::{Gva, Register, RegisterFile, RegisterId};

use super::{Failure, fail};
use crate::contract::VcpuId;
use crate::core::Context;
use crate::cpu::CONTROL;

/// How many digits an address has as the kernel prints it, without `0x`.
const ADDRESS_DIGITS: usize = 16;

/// The most symbols that are named where one was not found.
const SUGGESTIONS: usize = 4;

/// The longest name for which others are suggested, in bytes: each letter costs a search.
const LONGEST_SUGGESTED_FOR: usize = 64;

/// The words after a command's name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arguments<'a> {
    rest: &'a str,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            rest: text.trim_start(),
        }
    }

    /// Takes the next word.
    pub(super) fn next(&mut self) -> Option<&'a str> {
        let (word, rest) = split_word(self.rest);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    /// Takes the next word, which there must be; `what` names it.
    pub(super) fn need(&mut self, what: &str) -> Result<&'a str, Failure> {
        self.next().ok_or_else(|| fail!("{what} is missing"))
    }

    /// Takes all that is left.
    pub(super) fn take_rest(&mut self) -> &'a str {
        core::mem::take(&mut self.rest)
    }

    /// Refuses what is left.
    pub(super) fn end(&mut self) -> Result<(), Failure> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(fail!("'{word}' is one word too many")),
        }
    }
}

/// Splits the first word off `text`.
pub(super) fn split_word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// Reads a number: hexadecimal after `0x`, decimal otherwise, with K, M or G for powers of 1024.
/// Sixteen digits are hexadecimal without `0x`, as the kernel prints addresses.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    if digits.is_none() && text.len() == ADDRESS_DIGITS {
        return hexadecimal(text);
    }
    let (plain, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len().saturating_sub(1))?, 10),
        b'm' | b'M' => (text.get(..text.len().saturating_sub(1))?, 20),
        b'g' | b'G' => (text.get(..text.len().saturating_sub(1))?, 30),
        _ => (text, 0),
    };
    let value = match plain
        .strip_prefix("0x")
        .or_else(|| plain.strip_prefix("0X"))
    {
        Some(digits) => hexadecimal(digits)?,
        None if plain.bytes().all(|byte| byte.is_ascii_digit()) => plain.parse().ok()?,
        None => return None,
    };
    value.checked_mul(1_u64.checked_shl(shift)?)
}

fn hexadecimal(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Reads a number that counts something.
pub(super) fn count(text: &str, what: &str) -> Result<u64, Failure> {
    number(text).ok_or_else(|| fail!("'{text}' is no {what}; type a number such as 16, 0x10 or 4K"))
}

/// Reads bytes: pairs of hexadecimal digits, with or without spaces between them, or a text in
/// quotation marks.
pub(super) fn bytes(text: &str) -> Result<Vec<u8>, Failure> {
    let text = text.trim();
    if let Some(quoted) = text.strip_prefix('"') {
        let inner = quoted
            .strip_suffix('"')
            .ok_or_else(|| fail!("the text has no closing quotation mark"))?;
        return Ok(inner.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let digits = word.strip_prefix("0x").unwrap_or(word);
        let (pairs, odd) = digits.as_bytes().as_chunks::<2>();
        let pair = |pair: &[u8; 2]| u8::try_from(hexadecimal(str::from_utf8(pair).ok()?)?).ok();
        let values: Option<Vec<u8>> = pairs.iter().map(pair).collect();
        match values {
            Some(values) if odd.is_empty() => bytes.extend(values),
            _ => {
                return Err(fail!(
                    "'{word}' is no byte; type two hexadecimal digits for each, such as 90 cc, or a \
                     text in quotation marks"
                ));
            }
        }
    }
    if bytes.is_empty() {
        return Err(fail!(
            "the bytes are missing; type them in hexadecimal, such as 90 cc"
        ));
    }
    Ok(bytes)
}

/// A register that was named.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedRegister {
    pub(super) id: RegisterId,
    pub(super) register: &'static Register,
    /// Only its low 32 bits were named, as by `eax`.
    pub(super) is_narrow: bool,
}

/// Finds a register by any name it has in any layout, with or without `$`.
pub(super) fn register(name: &str, context: &Context<'_>) -> Option<NamedRegister> {
    let name = name.strip_prefix('$').unwrap_or(name);
    let table = context.core.config.architecture.registers();
    let ids = (0..).map(RegisterId);
    for (id, register) in ids.zip(table) {
        let is_narrow = register.alternative.is_some_and(|view| view.name == name)
            && register.view.name != name
            && register.name != name;
        let is_it = register.name == name
            || register.view.name == name
            || register.alt_name == Some(name)
            || is_narrow;
        if is_it {
            return Some(NamedRegister {
                id,
                register,
                is_narrow,
            });
        }
    }
    None
}

impl NamedRegister {
    /// Returns the register's value as a number.
    pub(super) fn value(&self, file: &RegisterFile) -> u64 {
        let value = file.u64(self.id);
        if self.is_narrow {
            value & u64::from(u32::MAX)
        } else {
            value
        }
    }
}

/// Evaluates an address expression on a vCPU.
pub(super) fn expression(
    text: &str,
    vcpu: VcpuId,
    context: &mut Context<'_>,
) -> Result<u64, Failure> {
    let mut value: u64 = 0;
    let mut rest = text;
    let mut is_minus = false;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at_checked(end).unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(fail!(
                "'{text}' is no address; type one such as 0xffffffff81000000, rsp+8 or \
                 do_sys_openat2+0x10"
            ));
        }
        let term = term(name, vcpu, context)?;
        value = if is_minus {
            value.wrapping_sub(term)
        } else {
            value.wrapping_add(term)
        };
        let mut characters = tail.chars();
        match characters.next() {
            None => return Ok(value),
            Some(sign) => is_minus = sign == '-',
        }
        rest = characters.as_str();
    }
}

fn term(name: &str, vcpu: VcpuId, context: &mut Context<'_>) -> Result<u64, Failure> {
    if let Some(number) = number(name) {
        return Ok(number);
    }
    // The pc and the stack pointer are addresses here, with the base of their segment.
    match name.strip_prefix('$').unwrap_or(name) {
        "pc" => return Ok(context.pc(vcpu)?.0),
        "sp" => {
            let architecture = context.core.config.architecture;
            return Ok(architecture.sp(context.registers(vcpu, CONTROL)?).0);
        }
        _ => {}
    }
    if let Some(named) = register(name, context) {
        if named.register.bits > 64 {
            let bits = named.register.bits;
            return Err(fail!("{name} is {bits} bits wide, too wide for an address"));
        }
        let file = context.registers(vcpu, named.register.group.into())?;
        return Ok(named.value(file));
    }
    if let Some(unknown) = name.strip_prefix('$') {
        return Err(fail!(
            "there is no register '{unknown}'; 'regs all' lists them"
        ));
    }
    let os = context.core.os.as_ref();
    match os.and_then(|os| os.address_of(name)) {
        Some(Gva(address)) => Ok(address),
        None => Err(unknown_name(name, context)),
    }
}

/// Says of a name what it is not, and what may have been meant.
pub(super) fn unknown_name(name: &str, context: &Context<'_>) -> Failure {
    if name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return fail!("'{name}' is no decimal number; a hexadecimal one begins with 0x: 0x{name}");
    }
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        return fail!("'{name}' is no number; type one such as 4096, 0x1000 or 4K");
    }
    let Some(os) = &context.core.os else {
        return fail!("'{name}' is no number and no register");
    };
    if os.description().is_none() {
        return fail!(
            "'{name}' is no number and no register, and the guest's symbols are not known; see \
             'symbols'"
        );
    }
    let near = near_names(name, |prefix| os.complete(prefix, SUGGESTIONS));
    if near.is_empty() {
        fail!("'{name}' is no number, register or symbol")
    } else {
        fail!(
            "'{name}' is no number, register or symbol; there is {}",
            near.join(", ")
        )
    }
}

/// Returns symbols that begin as `name` does, for as much of it as any symbol does.
fn near_names(name: &str, complete: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    if name.len() > LONGEST_SUGGESTED_FOR {
        return Vec::new();
    }
    // Fewer letters in common than half of the name are chance.
    let shortest = name.len().div_ceil(2).max(3);
    for len in (shortest..=name.len()).rev() {
        let found = name.get(..len).map(&complete).unwrap_or_default();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}
