//! ELF images, 32 and 64 bits, and the PVH note in them (System V ABI, "Program Header", "Note
//! Section").

use std::io::{Read, Seek};

use object::{
    Endianness,
    elf::{ET_EXEC, FileHeader32, FileHeader64, Machine, PT_LOAD},
    read::{
        ReadCache, ReadRef,
        elf::{FileHeader, ProgramHeader},
    },
};
use vm_memory::GuestMemoryMmap;

use super::{LoadError, Source, copy};
use crate::host;

/// ELF note that holds the PVH entry point (Xen, "x86/HVM direct boot ABI").
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// The most program headers of an image: more are a sign of garbage.
const MAX_SEGMENTS: usize = 256;

/// A segment that is to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    offset: u64,
    file_bytes: u64,
    physical: u64,
    virtual_address: u64,
    memory_bytes: u64,
}

/// What an ELF image says.
#[cfg_attr(
    target_arch = "aarch64",
    expect(dead_code, reason = "on Arm images have 64 bits and no PVH note")
)]
#[derive(Clone, Debug)]
pub(crate) struct ElfImage {
    /// Entry point as the header has it.
    pub(crate) entry: u64,
    /// Entry point of the PVH protocol.
    pub(crate) pvh_entry: Option<u32>,
    /// Whether it has 64-bit headers and code.
    pub(crate) is_64: bool,
    segments: Vec<Segment>,
}

impl ElfImage {
    /// Reads the headers of an image that begins with the ELF magic number.
    pub(crate) fn parse<S: Read + Seek>(image: &mut S) -> Result<Self, LoadError> {
        let cache = ReadCache::new(image);
        let class = (&cache)
            .read_bytes_at(4, 1)
            .ok()
            .and_then(|bytes| bytes.first().copied());
        match class {
            Some(1) => parse::<FileHeader32<Endianness>, _>(&cache, host::ELF_MACHINE_32, false),
            Some(2) => parse::<FileHeader64<Endianness>, _>(&cache, host::ELF_MACHINE_64, true),
            Some(_) => Err(LoadError::BadHeader(
                "an ELF class that is neither 32 nor 64 bits",
            )),
            None => Err(LoadError::Truncated("the ELF header")),
        }
    }

    /// Copies the segments to their physical addresses.
    pub(crate) fn load_segments<S: Source>(
        &self,
        image: &mut S,
        memory: &GuestMemoryMmap,
    ) -> Result<(), LoadError> {
        for segment in &self.segments {
            host::require_free(memory, "a segment", segment.physical, segment.memory_bytes)?;
            copy(
                image,
                segment.offset,
                memory,
                segment.physical,
                segment.file_bytes,
            )?;
        }
        Ok(())
    }

    /// Returns the first address past the segments.
    pub(crate) fn end(&self) -> u64 {
        let ends = self
            .segments
            .iter()
            .map(|s| s.physical.saturating_add(s.memory_bytes));
        ends.max().unwrap_or(0)
    }

    /// Returns the physical address of the entry point, which may be given as a virtual one.
    pub(crate) fn physical_entry(&self) -> Result<u64, LoadError> {
        let at = |base: u64, segment: &Segment| {
            self.entry
                .checked_sub(base)
                .filter(|offset| *offset < segment.memory_bytes)
        };
        if self
            .segments
            .iter()
            .any(|segment| at(segment.physical, segment).is_some())
        {
            return Ok(self.entry);
        }
        let translated = self.segments.iter().find_map(|segment| {
            at(segment.virtual_address, segment)?.checked_add(segment.physical)
        });
        translated.ok_or(LoadError::Entry(self.entry))
    }
}

/// Reads headers of one class.
fn parse<'data, H, R>(data: R, machine: Option<Machine>, is_64: bool) -> Result<ElfImage, LoadError>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'data>,
{
    let header = H::parse(data).map_err(|_| LoadError::Truncated("the ELF header"))?;
    let endian = header
        .endian()
        .map_err(|_| LoadError::BadHeader("an unknown byte order"))?;
    if endian != Endianness::Little || Some(header.e_machine(endian)) != machine {
        return Err(LoadError::Unsupported("another processor than this one"));
    }
    if header.e_type(endian) != ET_EXEC {
        return Err(LoadError::Unsupported(
            "relocation (it is no static executable)",
        ));
    }
    let headers = header
        .program_headers(endian, data)
        .map_err(|_| LoadError::Truncated("a part of the program headers"))?;
    if headers.len() > MAX_SEGMENTS {
        return Err(LoadError::BadHeader("more than 256 program headers"));
    }
    let mut file = ElfImage {
        entry: header.e_entry(endian).into(),
        pvh_entry: None,
        is_64,
        segments: Vec::new(),
    };
    for header in headers {
        file.pvh_entry = file
            .pvh_entry
            .or_else(|| pvh_note::<H, R>(header, endian, data));
        if header.p_type(endian) == PT_LOAD && header.p_memsz(endian).into() != 0 {
            file.segments.push(segment::<H>(header, endian)?);
        }
    }
    if file.segments.is_empty() {
        return Err(LoadError::BadHeader("no segment to load"));
    }
    Ok(file)
}

/// Returns what one program header asks to load.
fn segment<H: FileHeader>(
    header: &H::ProgramHeader,
    endian: H::Endian,
) -> Result<Segment, LoadError> {
    let segment = Segment {
        offset: header.p_offset(endian).into(),
        file_bytes: header.p_filesz(endian).into(),
        physical: header.p_paddr(endian).into(),
        virtual_address: header.p_vaddr(endian).into(),
        memory_bytes: header.p_memsz(endian).into(),
    };
    if segment.file_bytes > segment.memory_bytes {
        return Err(LoadError::BadHeader(
            "a segment that is larger in the file than in memory",
        ));
    }
    Ok(segment)
}

/// Returns the PVH entry point, if the program header leads to a note that has it.
fn pvh_note<'data, H, R>(header: &H::ProgramHeader, endian: H::Endian, data: R) -> Option<u32>
where
    H: FileHeader,
    R: ReadRef<'data>,
{
    let mut notes = header.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == b"Xen" && note.n_type(endian).0 == XEN_ELFNOTE_PHYS32_ENTRY {
            let word = note.desc().first_chunk::<4>()?;
            return Some(u32::from_le_bytes(*word));
        }
    }
    None
}
