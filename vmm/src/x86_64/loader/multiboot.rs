//! Multiboot 1 images ("Multiboot Specification version 0.6.96").

use std::io::SeekFrom;

use vm_memory::GuestMemoryMmap;

use super::{
    ElfImage, Entry, LoadError, Request, Source, copy, require_before_initrd, require_free, write,
    write_command_line,
};
use crate::{
    memory::low_end,
    x86_64::layout::{BOOT_INFO, COMMAND_LINE, HIGH_RAM, LOW_RAM_END},
    x86_64::memory_map::map,
};

/// The header lies in the first 8 KiB.
pub(super) const SEARCH_BYTES: u64 = 8192;

const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at the entry point.
const BOOT_MAGIC: u32 = 0x2bad_b002;
/// The image gives its load addresses in the header (the "a.out kludge").
const HAS_ADDRESSES: u32 = 1 << 16;
/// Requirements that this loader knows: page-aligned modules, memory information.
const KNOWN_REQUIREMENTS: u32 = 0b11;
/// Bits of the flags that an image may not be started without.
const REQUIREMENTS: u32 = 0xffff;

/// Offsets in the memory that the information takes up.
const MMAP: u64 = 0x100;
const MODULES: u64 = 0x300;
const LOADER_NAME: u64 = 0x340;
const NAME: &[u8] = b"Trapline\0";

/// A Multiboot header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Offset of the header in the file.
    at: u64,
    flags: u32,
    header_addr: u32,
    load_addr: u32,
    load_end_addr: u32,
    bss_end_addr: u32,
    entry_addr: u32,
}

/// Finds a header in the first bytes of an image.
pub(super) fn find_header(head: &[u8]) -> Option<Header> {
    let word = |at: usize| {
        let bytes = head.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    (0..head.len()).step_by(4).find_map(|at| {
        let (magic, flags, checksum) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        if magic != HEADER_MAGIC || sum != 0 {
            return None;
        }
        let field = |index: usize| word(at + 12 + index * 4).unwrap_or(0);
        Some(Header {
            at: at as u64,
            flags,
            header_addr: field(0),
            load_addr: field(1),
            load_end_addr: field(2),
            bss_end_addr: field(3),
            entry_addr: field(4),
        })
    })
}

/// Loads an image that is an ELF file.
pub(super) fn load_elf<S: Source>(
    image: &mut S,
    header: &Header,
    file: &ElfImage,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    if header.flags & HAS_ADDRESSES != 0 {
        return load_raw(image, header, memory, request);
    }
    let entry = file.physical_entry()?;
    let eip = u32::try_from(entry).map_err(|_| LoadError::Entry(entry))?;
    file.load_segments(image, memory)?;
    enter(header, eip, file.end(), memory, request)
}

/// Loads an image by the addresses in its header.
pub(super) fn load_raw<S: Source>(
    image: &mut S,
    header: &Header,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    if header.flags & HAS_ADDRESSES == 0 {
        return Err(LoadError::BadHeader(
            "neither ELF nor load addresses in the Multiboot header",
        ));
    }
    let before_header = header
        .header_addr
        .checked_sub(header.load_addr)
        .ok_or(LoadError::BadHeader("load_addr is above header_addr"))?;
    let offset = header
        .at
        .checked_sub(before_header.into())
        .ok_or(LoadError::BadHeader(
            "the image would begin before the file",
        ))?;
    let start = u64::from(header.load_addr);
    let file_bytes = image.seek(SeekFrom::End(0))?.saturating_sub(offset);
    let len_bytes = match header.load_end_addr {
        0 => file_bytes,
        end => u64::from(end)
            .checked_sub(start)
            .ok_or(LoadError::BadHeader("load_end_addr is below load_addr"))?,
    };
    let end = u64::from(header.bss_end_addr).max(start + len_bytes);
    require_free(memory, "the image", start, end - start)?;
    if !(start..end).contains(&header.entry_addr.into()) {
        return Err(LoadError::Entry(header.entry_addr.into()));
    }
    copy(image, offset, memory, start, len_bytes)?;
    enter(header, header.entry_addr, end, memory, request)
}

/// Checks what the image requires, writes the information and says how to enter.
fn enter(
    header: &Header,
    eip: u32,
    image_end: u64,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    if header.flags & REQUIREMENTS & !KNOWN_REQUIREMENTS != 0 {
        return Err(LoadError::Unsupported(
            "a Multiboot feature such as a video mode",
        ));
    }
    require_before_initrd(request.initrd, image_end)?;
    write_command_line(memory, request.cmdline, u64::MAX)?;
    write_information(memory, request)?;
    let ebx = narrow(BOOT_INFO);
    Ok(Entry::Protected {
        eip,
        eax: BOOT_MAGIC,
        ebx,
        esi: 0,
    })
}

/// Writes the information structure ("Boot information format") with memory, command line, modules,
/// memory map and the loader's name.
fn write_information(memory: &GuestMemoryMmap, request: &Request<'_>) -> Result<(), LoadError> {
    const WHAT: &str = "the Multiboot information";
    /// Memory, command line, modules, memory map, loader name.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    let mut entries = Vec::new();
    for entry in map(memory) {
        entries.extend_from_slice(&20_u32.to_le_bytes());
        entries.extend_from_slice(&entry.start.to_le_bytes());
        entries.extend_from_slice(&entry.len_bytes.to_le_bytes());
        entries.extend_from_slice(&if entry.usable { 1_u32 } else { 2 }.to_le_bytes());
    }
    let mut modules = Vec::new();
    if let Some(initrd) = request.initrd {
        for word in [
            initrd.start,
            initrd.start + initrd.len_bytes,
            COMMAND_LINE,
            0,
        ] {
            modules.extend_from_slice(&narrow(word).to_le_bytes());
        }
    }
    let mut words = [0_u32; 29];
    words[0] = FLAGS;
    words[1] = narrow(LOW_RAM_END >> 10);
    words[2] = narrow(low_end(memory).saturating_sub(HIGH_RAM) >> 10);
    words[4] = narrow(COMMAND_LINE);
    words[5] = u32::from(request.initrd.is_some());
    words[6] = narrow(BOOT_INFO + MODULES);
    words[11] = narrow(entries.len() as u64);
    words[12] = narrow(BOOT_INFO + MMAP);
    words[16] = narrow(BOOT_INFO + LOADER_NAME);
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    write(memory, BOOT_INFO, &words, WHAT)?;
    write(memory, BOOT_INFO + MMAP, &entries, WHAT)?;
    write(memory, BOOT_INFO + MODULES, &modules, WHAT)?;
    write(memory, BOOT_INFO + LOADER_NAME, NAME, WHAT)
}

/// Returns an address below 4 GiB as the protocol wants it.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
