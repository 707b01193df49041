//! Loading of kernel images: which kind an image is, and how it is put into guest memory and entered.
//!
//! | kind | recognised by | entered |
//! |---|---|---|
//! | Linux bzImage | `HdrS` at 0x202, boot protocol 2.06 or newer | 64-bit or 32-bit boot protocol |
//! | ELF with a PVH note | ELF note 18 of `Xen` | 32-bit protected mode, EBX = start info |
//! | Multiboot 1 | header in the first 8 KiB; ELF or its own addresses | 32-bit protected mode, EBX = information |
//! | ELF, 64 bits | ELF header | the boot contract below |
//! | flat | asked for | real mode below 1 MiB, else the boot contract |
//!
//! # The boot contract of a plain 64-bit image
//!
//! The vCPU is in 64-bit mode at the entry point, with interrupts off, and
//! - the first 4 GiB identity mapped by 2 MiB pages, writable, for the supervisor only;
//! - CS = 0x10 (64-bit code), DS = ES = SS = 0x18 (data), no task register to speak of, an empty IDT;
//! - CR0 with PE, MP, ET, NE, WP and PG; CR4 with PAE, OSFXSR and OSXMMEXCPT; EFER with LME, LMA and NXE;
//! - RSI = address of Linux's `boot_params` with memory map, command line and RSDP; RDI = number of vCPUs;
//! - RSP = top of a stack of 4 KiB.
//!
//! All other vCPUs wait for a start-up interrupt (SIPI).

mod flat;
mod linux;
mod multiboot;
mod pvh;
#[cfg(test)]
mod tests;

use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use super::layout::{COMMAND_LINE, COMMAND_LINE_BYTES, HIGH_RAM, IMAGE_LOW, LOW_RAM_END};
use crate::{
    KernelFormat,
    loader::{
        ImageKind, Initrd, LoadError, Source, copy, elf::ElfImage, linux_command_line, read_head,
        require_before_initrd,
    },
};

/// The kinds of images that are recognised, for messages.
pub(crate) const IMAGE_KINDS: &str =
    "Linux bzImage, ELF with a PVH note, Multiboot 1 and plain 64-bit x86 ELF";

/// The state in which the boot processor is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// 64-bit mode by the boot contract.
    Long {
        /// Entry point.
        rip: u64,
    },
    /// Flat 32-bit protected mode without paging.
    Protected {
        /// Entry point.
        eip: u32,
        /// Magic number of the protocol.
        eax: u32,
        /// Address of the protocol's information.
        ebx: u32,
        /// Address of Linux's `boot_params`.
        esi: u32,
    },
    /// Real mode.
    Real {
        /// Code segment.
        cs: u16,
        /// Entry point in it.
        ip: u16,
    },
}

/// What a loader has to know besides the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Command line as the user gave it.
    pub(crate) cmdline: &'a str,
    /// Initial RAM disk.
    pub(crate) initrd: Option<Initrd>,
    /// Guest-physical address of the RSDP.
    pub(crate) rsdp: u64,
}

/// Loads an image.
///
/// # Errors
/// As [`LoadError`] says; guest memory is then in no particular state.
pub(crate) fn load<S: Source>(
    image: &mut S,
    format: KernelFormat,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<(ImageKind, Entry), LoadError> {
    if let KernelFormat::Flat(address) = format {
        return Ok((
            ImageKind::Flat,
            flat::load(image, address, memory, request)?,
        ));
    }
    let head = read_head(image, multiboot::SEARCH_BYTES)?;
    if linux::is_bzimage(&head) {
        return Ok((
            ImageKind::LinuxBzImage,
            linux::load(image, &head, memory, request)?,
        ));
    }
    let multiboot = multiboot::find_header(&head);
    if head.starts_with(b"\x7fELF") {
        let file = ElfImage::parse(image)?;
        return if let Some(entry) = file.pvh_entry {
            Ok((
                ImageKind::Pvh,
                pvh::load(image, &file, entry, memory, request)?,
            ))
        } else if let Some(header) = multiboot {
            Ok((
                ImageKind::Multiboot,
                multiboot::load_elf(image, &header, &file, memory, request)?,
            ))
        } else {
            Ok((ImageKind::Elf64, load_plain(image, &file, memory, request)?))
        };
    }
    match multiboot {
        Some(header) => Ok((
            ImageKind::Multiboot,
            multiboot::load_raw(image, &header, memory, request)?,
        )),
        None => Err(LoadError::NotAKernel(head.into_iter().take(16).collect())),
    }
}

/// Requires that a part of an image lies where the start-up state leaves memory free.
pub(crate) fn require_free(
    memory: &GuestMemoryMmap,
    what: &'static str,
    start: u64,
    len_bytes: u64,
) -> Result<(), LoadError> {
    let end = start.checked_add(len_bytes);
    let inside = |low: u64, high: u64| start >= low && end.is_some_and(|end| end <= high);
    let free = inside(IMAGE_LOW, COMMAND_LINE)
        || inside(COMMAND_LINE + COMMAND_LINE_BYTES, LOW_RAM_END)
        || memory.iter().any(|region| {
            let first = region.start_addr().raw_value();
            inside(first.max(HIGH_RAM), first + region.len())
        });
    if free {
        Ok(())
    } else {
        Err(LoadError::OutsideMemory {
            what,
            start,
            len_bytes,
        })
    }
}

/// Puts the zero-terminated command line where every protocol has it, unless it is longer than
/// `most` bytes without the zero.
fn write_command_line(memory: &GuestMemoryMmap, cmdline: &str, most: u64) -> Result<(), LoadError> {
    let most = most.min(COMMAND_LINE_BYTES - 1);
    let len_bytes = cmdline.len() as u64;
    if len_bytes > most {
        return Err(LoadError::CommandLine { len_bytes, most });
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    write(memory, COMMAND_LINE, &bytes, "the command line")
}

/// Loads a plain 64-bit image by the boot contract of this crate.
fn load_plain<S: Source>(
    image: &mut S,
    file: &ElfImage,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    if !file.is_64 {
        return Err(LoadError::Unsupported(
            "a 32-bit start without a PVH note or Multiboot header",
        ));
    }
    let rip = file.physical_entry()?;
    file.load_segments(image, memory)?;
    require_before_initrd(request.initrd, file.end())?;
    write_command_line(memory, request.cmdline, u64::MAX)?;
    linux::write_boot_params(memory, request, None)?;
    Ok(Entry::Long { rip })
}

/// Copies bytes to guest memory.
fn write(
    memory: &GuestMemoryMmap,
    start: u64,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), LoadError> {
    let len_bytes = bytes.len() as u64;
    memory
        .write_slice(bytes, GuestAddress(start))
        .map_err(|_| LoadError::OutsideMemory {
            what,
            start,
            len_bytes,
        })
}
