//! The symbols of a kernel's file, for a server at the end of a serial line, which takes minutes for them.
//!
//! An arm64 Linux Image holds the kernel's symbol tables, and the relocations that the kernel applies to itself when
//! it starts at another address. These are applied here for the address at which it runs, which its vector table
//! tells: `VBAR_EL1` is the symbol `vectors`.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use trapline_arch::{Gpa, Gva, PhysicalMemory};
use trapline_linux::{
    Kallsyms, Machine, PhysicalView, SymbolFile, TableProgress, TableScanner, VirtualMemory,
};

use crate::client::Client;

/// `R_AARCH64_RELATIVE`, the only kind there is in an Image (ELF for the Arm 64-bit Architecture, "Relocation").
const RELATIVE: u64 = 0x403;
/// The kernel is linked at a multiple of this.
const LINK_ALIGNMENT: u64 = 2 << 20;
/// How much is searched for the tables.
const BUDGET_BYTES: u64 = 4 << 30;

/// A kernel's file as physical memory from address 0 on, and as virtual memory where the kernel runs.
struct Image {
    content: Vec<u8>,
    /// Where its first byte is when it runs.
    start: u64,
}

impl VirtualMemory for Image {
    fn read_virtual(&self, address: Gva, buffer: &mut [u8]) -> usize {
        let offset = address.0.checked_sub(self.start);
        offset.map_or(0, |offset| self.read_physical(Gpa(offset), buffer))
    }
}

impl PhysicalMemory for Image {
    fn read_physical(&self, address: Gpa, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(address.0).unwrap_or(usize::MAX);
        let rest = self.content.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        count
    }
}

/// Makes the ELF file of a kernel's symbols where they are in the guest of `client`.
///
/// # Errors
/// A text for the user: the file is no arm64 Linux Image with symbols, or another kernel runs.
pub(super) fn read(client: &mut Client, image: &[u8]) -> anyhow::Result<Vec<u8>> {
    let linked = symbols(&relocated(image, 0)?)?;
    let vectors = linked
        .first_by_name("vectors")
        .context("the kernel has no symbol 'vectors'")?;
    let running = vector_table(client)?;
    let slide = running.wrapping_sub(vectors.address.0);
    // A page at the least, and vector tables are aligned to 2 KiB anyway.
    if slide & 0xfff != 0 {
        bail!(
            "the guest's vectors are at {running:#x}, where those of this kernel cannot be: it runs another one, or \
             has not got far enough"
        );
    }
    let image = relocated(image, slide)?;
    let symbols = Arc::new(symbols(&image)?);
    let file = SymbolFile::new(symbols, Machine::AARCH64, None, &[]);
    let mut content = vec![0; usize::try_from(file.len())?];
    let count = file.read_at(&image, 0, &mut content);
    content.truncate(count);
    Ok(content)
}

/// `VBAR_EL1` of the first vCPU, by the server's own command.
fn vector_table(client: &mut Client) -> anyhow::Result<u64> {
    const COMMAND: &str = "regs vbar_el1";
    let outcome = client.command(COMMAND)?;
    if let Some((_, why)) = outcome.failure() {
        bail!("'{COMMAND}': {why}");
    }
    let value = outcome.text.split_whitespace().nth(1).unwrap_or_default();
    u64::from_str_radix(value, 16)
        .with_context(|| format!("'{COMMAND}' says no address: {}", outcome.text))
}

/// Reads the symbols of a relocated Image.
fn symbols(image: &Image) -> anyhow::Result<Kallsyms> {
    let end = Gpa(u64::try_from(image.content.len())?);
    let mut scanner = TableScanner::new([Gpa(0)..end]);
    loop {
        match scanner.step(image, BUDGET_BYTES) {
            TableProgress::Found(tables) => {
                if let Ok(symbols) = Kallsyms::load_tables(&PhysicalView(image), &tables, None) {
                    return Ok(symbols);
                }
            }
            TableProgress::More => {}
            TableProgress::NotFound => bail!("the kernel has no symbol tables"),
        }
    }
}

/// Applies an Image's own relocations for running `slide` bytes above where it was linked: rows of an address, a kind, and what belongs there.
fn relocated(image: &[u8], slide: u64) -> anyhow::Result<Image> {
    let rows: Vec<_> = image.chunks_exact(8).map(word).collect();
    let rows: Vec<_> = rows
        .windows(3)
        .filter_map(|row| match row {
            [place, RELATIVE, value] if is_kernels(*place) && is_kernels(*value) => {
                Some((*place, *value))
            }
            _ => None,
        })
        .collect();
    let lowest = rows.iter().map(|(_, value)| *value).min();
    let lowest = lowest.context("the kernel's file has no relocations")?;
    let start = lowest & !(LINK_ALIGNMENT - 1);
    let mut content = image.to_vec();
    for (place, value) in rows {
        let offset = usize::try_from(place.wrapping_sub(start)).unwrap_or(usize::MAX);
        let end = offset.saturating_add(8);
        if let Some(place) = content.get_mut(offset..end) {
            place.copy_from_slice(&value.wrapping_add(slide).to_le_bytes());
        }
    }
    Ok(Image {
        content,
        start: start.wrapping_add(slide),
    })
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether an address is in the kernel's half.
fn is_kernels(address: u64) -> bool {
    address >> 52 == 0xfff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relocations_are_applied_with_the_slide() {
        let base = 0xffff_8000_0800_0000_u64;
        let mut image = vec![0; 8];
        for word in [
            base,
            RELATIVE,
            base + 0x1230,
            base + 0x7fff_0000,
            RELATIVE,
            base,
        ] {
            image.extend(word.to_le_bytes());
        }
        let moved = relocated(&image, 0x20_0000).unwrap();
        assert_eq!(moved.start, base + 0x20_0000);
        let moved = moved.content;
        assert_eq!(moved[..8], (base + 0x20_1230).to_le_bytes());
        assert_eq!(
            moved[8..],
            image[8..],
            "a place outside of the file is passed over"
        );
    }

    #[test]
    fn a_file_without_relocations_is_refused() {
        assert!(relocated(&[0; 64], 0).is_err());
        let empty = Image {
            content: vec![0; 64],
            start: 0,
        };
        assert!(symbols(&empty).is_err());
    }
}
