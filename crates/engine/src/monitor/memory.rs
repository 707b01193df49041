//! `read`, `x`, `write`, `pread`, `pwrite`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Write as _;

use trapline_arch::{Gpa, Gva};

use super::commands::{CHANGES, Command, Completes, Family, LOOKS};
use super::output::Table;
use super::{Call, Failure, disassembly, fail, parse};

/// How much `read` shows if no length is given, in bytes.
const DEFAULT_LEN_BYTES: u64 = 128;

/// The most that one `read` shows, in bytes: as text it is six times as long.
const MAX_LEN_BYTES: u64 = 8 * 1024;

/// The most elements that one `x` shows.
const MAX_ELEMENTS: usize = 2048;

/// The longest string that `x/s` shows, in bytes.
const MAX_STRING_BYTES: usize = 512;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "read",
        arguments: "[ADDR [LEN]]",
        completes: &[Completes::Address, Completes::Nothing],
        summary: "show memory in hexadecimal and as text",
        details: "Without ADDR it goes on where the last 'read' or 'x' ended. LEN is 128 if not given.\n\
            Breakpoint instructions are not shown, but what they replaced.",
        family: Family::Memory,
        run: read,
        ..LOOKS
    },
    Command {
        name: "x",
        arguments: "[ADDR]",
        completes: &[Completes::Address],
        summary: "show memory as numbers, strings or code, as GDB's x does",
        details: "FORMAT is a count, a letter (x hexadecimal, d decimal, u unsigned, c characters,\n\
            a addresses with symbols, s strings, i instructions) and a size (b 1, h 2, w 4, g 8 bytes):\n\
            x/4gx rsp, x/8i pc, x/s linux_banner. What is not given stays as in the last 'x'.",
        family: Family::Memory,
        takes_format: true,
        run: examine,
        ..LOOKS
    },
    Command {
        name: "write",
        arguments: "ADDR BYTES",
        completes: &[Completes::Address, Completes::Nothing],
        summary: "write memory: bytes in hexadecimal, or a text in quotation marks",
        details: "write 0xffffffff81000000 0f 0b, or 0f0b, or \"text\". Breakpoints stay planted.",
        family: Family::Memory,
        run: write,
        ..CHANGES
    },
    Command {
        name: "pread",
        arguments: "ADDR [LEN]",
        completes: &[Completes::Address, Completes::Nothing],
        summary: "show guest-physical memory",
        details: "As 'read', for guest-physical addresses.",
        family: Family::Memory,
        run: read_physical,
        ..LOOKS
    },
    Command {
        name: "pwrite",
        arguments: "ADDR BYTES",
        completes: &[Completes::Address, Completes::Nothing],
        summary: "write guest-physical memory",
        details: "As 'write', for guest-physical addresses.",
        family: Family::Memory,
        run: write_physical,
        ..CHANGES
    },
];

/// Which addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Virtual,
    Physical,
}

/// How `x` shows memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    count: usize,
    letter: char,
    size_bytes: usize,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            count: 1,
            letter: 'x',
            size_bytes: 8,
        }
    }
}

impl Call<'_, '_> {
    /// Returns which addresses `read` and its like are about: physical ones after `phys on`.
    pub(super) fn space(&self) -> Space {
        if self.session.uses_physical_addresses {
            Space::Physical
        } else {
            Space::Virtual
        }
    }

    /// Reads up to `len` bytes; fewer where nothing is mapped.
    pub(super) fn fetch(
        &mut self,
        space: Space,
        address: u64,
        len: usize,
    ) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; len];
        let vcpu = self.vcpu();
        let read = match space {
            Space::Virtual => self.context.read_virtual(vcpu, Gva(address), &mut bytes)?,
            Space::Physical => self.context.read_physical(Gpa(address), &mut bytes),
        };
        bytes.truncate(read);
        Ok(bytes)
    }
}

/// Says that an address cannot be accessed.
pub(super) fn nothing_at(space: Space, address: u64) -> Failure {
    match space {
        Space::Virtual => fail!("nothing is mapped at {address:#x}; 'pt {address:#x}' shows why"),
        Space::Physical => {
            fail!("there is no memory at physical {address:#x}; 'memory' shows where there is")
        }
    }
}

fn read(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = match call.optional_address()? {
        Some(address) => address,
        None => last_address(call)?,
    };
    dump(call.space(), address, call)
}

fn read_physical(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = call.need_address()?;
    dump(Space::Physical, address, call)
}

fn last_address(call: &Call<'_, '_>) -> Result<u64, Failure> {
    let next = call.session.monitor.next_address;
    next.ok_or_else(|| fail!("the address is missing"))
}

fn dump(space: Space, address: u64, call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let wanted = call.optional_count("length")?.unwrap_or(DEFAULT_LEN_BYTES);
    call.arguments.end()?;
    let shown = wanted.min(MAX_LEN_BYTES);
    let bytes = call.fetch(space, address, usize::try_from(shown).unwrap_or(0))?;
    if bytes.is_empty() && wanted > 0 {
        return Err(nothing_at(space, address));
    }
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let at = address.wrapping_add((line as u64).wrapping_mul(16));
        call.out.line(dump_line(at, chunk));
    }
    let end = address.wrapping_add(bytes.len() as u64);
    if space == call.space() {
        call.session.monitor.next_address = Some(end);
    }
    if (bytes.len() as u64) < shown {
        let Failure(reason) = nothing_at(space, end);
        call.out.rest(reason);
    } else if shown < wanted {
        let left = wanted.saturating_sub(shown);
        let verb = if space == Space::Physical {
            "pread"
        } else {
            "read"
        };
        call.out.rest(format_args!(
            "{shown} of {wanted} bytes; '{verb} {end:#x} {left}' shows the rest"
        ));
    }
    Ok(())
}

fn dump_line(address: u64, bytes: &[u8]) -> String {
    let mut line = format!("{address:016x}");
    for index in 0..16 {
        let gap = if index % 8 == 0 { "  " } else { " " };
        let _ = match bytes.get(index) {
            Some(byte) => write!(line, "{gap}{byte:02x}"),
            None => write!(line, "{gap}  "),
        };
    }
    line.push_str("  |");
    line.extend(bytes.iter().map(|byte| printable(*byte)));
    line.push('|');
    line
}

fn printable(byte: u8) -> char {
    if (b' '..=b'~').contains(&byte) {
        char::from(byte)
    } else {
        '.'
    }
}

fn examine(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let format = parse_format(call.format, call.session.monitor.format)?;
    let address = match call.optional_address()? {
        Some(address) => address,
        None => last_address(call)?,
    };
    call.arguments.end()?;
    call.session.monitor.format = Format { count: 1, ..format };
    let next = match format.letter {
        'i' => disassembly::list(address, format.count, call)?,
        's' => strings(address, format.count, call)?,
        _ => numbers(address, format, call)?,
    };
    call.session.monitor.next_address = Some(next);
    Ok(())
}

/// Reads `4gx` in any order of letters, the count first.
fn parse_format(text: &str, last: Format) -> Result<Format, Failure> {
    let mut format = last;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, letters) = text.split_at_checked(digits).unwrap_or(("", text));
    if !count.is_empty() {
        let count = count
            .parse()
            .ok()
            .filter(|count| (1..=MAX_ELEMENTS).contains(count));
        format.count =
            count.ok_or_else(|| fail!("the count in '{text}' is not 1 to {MAX_ELEMENTS}"))?;
    }
    for letter in letters.chars() {
        match letter {
            'b' => format.size_bytes = 1,
            'h' => format.size_bytes = 2,
            'w' => format.size_bytes = 4,
            'g' => format.size_bytes = 8,
            'x' | 'd' | 'u' | 'c' | 'a' | 's' | 'i' => format.letter = letter,
            _ => {
                return Err(fail!(
                    "'{letter}' is no format; the letters are x d u c a s i, the sizes b h w g"
                ));
            }
        }
    }
    match format.letter {
        'a' => format.size_bytes = 8,
        'c' => format.size_bytes = 1,
        _ => {}
    }
    Ok(format)
}

/// Shows numbers, several in a line, and returns the address behind them.
fn numbers(address: u64, format: Format, call: &mut Call<'_, '_>) -> Result<u64, Failure> {
    let Format {
        count,
        letter,
        size_bytes,
    } = format;
    let space = call.space();
    let wanted = count.saturating_mul(size_bytes);
    let bytes = call.fetch(space, address, wanted)?;
    if bytes.len() < size_bytes {
        return Err(nothing_at(space, address.wrapping_add(bytes.len() as u64)));
    }
    let per_line = match (letter, size_bytes) {
        ('a', _) => 1,
        (_, 8) => 2,
        (_, 4) => 4,
        _ => 8,
    };
    let whole: Vec<&[u8]> = bytes.chunks_exact(size_bytes).collect();
    let mut at = address;
    let mut table = Table::new(&["", ""]);
    for line in whole.chunks(per_line) {
        let shown: Vec<String> = line
            .iter()
            .map(|element| show_number(element, letter, call))
            .collect();
        table.row([format!("{at:016x}{}:", call.suffix(at)), shown.join("  ")]);
        at = at.wrapping_add((line.len().saturating_mul(size_bytes)) as u64);
    }
    table.write(&mut call.out);
    if bytes.len() < wanted {
        let Failure(reason) = nothing_at(space, at);
        call.out.rest(reason);
    }
    Ok(at)
}

fn show_number(element: &[u8], letter: char, call: &Call<'_, '_>) -> String {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(element) {
        *to = *from;
    }
    let value = u64::from_le_bytes(bytes);
    let width = element.len().saturating_mul(2);
    match letter {
        'd' => {
            let shift = 64_u32.saturating_sub(u32::try_from(width.saturating_mul(4)).unwrap_or(64));
            let signed = (value.unbounded_shl(shift)).cast_signed();
            signed.unbounded_shr(shift).to_string()
        }
        'u' => value.to_string(),
        'c' => {
            let byte = element.first().copied().unwrap_or(0);
            format!("{byte:3} '{}'", printable(byte))
        }
        'a' => {
            let symbol = call.symbol(Gva(value));
            format!("{value:#018x}  {symbol}").trim_end().into()
        }
        _ => format!("0x{value:0width$x}"),
    }
}

fn strings(address: u64, count: usize, call: &mut Call<'_, '_>) -> Result<u64, Failure> {
    let space = call.space();
    let mut at = address;
    for _ in 0..count {
        let bytes = call.fetch(space, at, MAX_STRING_BYTES)?;
        if bytes.is_empty() {
            return Err(nothing_at(space, at));
        }
        let len = bytes.iter().position(|byte| *byte == 0);
        let shown = bytes.get(..len.unwrap_or(bytes.len())).unwrap_or_default();
        let mut text = format!("{at:016x}{}:  \"", call.suffix(at));
        for byte in shown {
            let _ = write!(text, "{}", byte.escape_ascii());
        }
        text.push('"');
        if len.is_none() {
            text.push_str("...");
        }
        call.out.line(text);
        let end = shown.len().saturating_add(usize::from(len.is_some()));
        at = at.wrapping_add(end as u64);
    }
    Ok(at)
}

impl Call<'_, '_> {
    /// Returns ` <symbol+0x10>` for a virtual address in a symbol, or nothing.
    pub(super) fn suffix(&self, address: u64) -> String {
        if self.space() == Space::Physical {
            return String::new();
        }
        match self.symbol(Gva(address)) {
            name if name.is_empty() => name,
            name => format!(" <{name}>"),
        }
    }
}

fn write(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let space = call.space();
    store(space, call)
}

fn write_physical(call: &mut Call<'_, '_>) -> Result<(), Failure> {
    store(Space::Physical, call)
}

fn store(space: Space, call: &mut Call<'_, '_>) -> Result<(), Failure> {
    let address = call.need_address()?;
    let bytes = parse::bytes(call.arguments.take_rest())?;
    let vcpu = call.vcpu();
    let written = match space {
        Space::Virtual => call.context.write_virtual(vcpu, Gva(address), &bytes)?,
        Space::Physical => call.context.write_physical(Gpa(address), &bytes),
    };
    let noun = if written == 1 { "byte" } else { "bytes" };
    if written > 0 {
        call.out
            .line(format_args!("{written} {noun} written at {address:#x}"));
    }
    if written < bytes.len() {
        return Err(nothing_at(space, address.wrapping_add(written as u64)));
    }
    Ok(())
}
