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

mod elf;
mod flat;
mod initrd;
mod linux;
mod multiboot;
mod pvh;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::{
    Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    ReadVolatile,
};

pub(crate) use initrd::{Initrd, load as load_initrd};

use crate::{
    KernelFormat,
    layout::{COMMAND_LINE, COMMAND_LINE_BYTES, HIGH_RAM, IMAGE_LOW, LOW_RAM_END},
};

/// What an image was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A Linux kernel in the format bzImage.
    LinuxBzImage,
    /// An ELF image with a PVH entry point.
    Pvh,
    /// A Multiboot 1 image.
    Multiboot,
    /// A plain 64-bit ELF image.
    Elf64,
    /// Plain code and data.
    Flat,
}

/// Why an image could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file could not be opened or read.
    #[error("cannot read it")]
    Io(#[from] io::Error),
    /// The image is none of the kinds that are supported.
    #[error(
        "it is no kernel: it begins with {}; supported are Linux bzImage, ELF with a PVH note, \
         Multiboot 1 and plain 64-bit x86 ELF, and any code with an address for a flat image", Hex(.0)
    )]
    NotAKernel(Vec<u8>),
    /// The image ends before something that its header promises.
    #[error("it is cut short: {0} is missing")]
    Truncated(&'static str),
    /// A header contradicts itself.
    #[error("its header is wrong: {0}")]
    BadHeader(&'static str),
    /// The image needs something that is not supported.
    #[error("it needs {0}, which is not supported")]
    Unsupported(&'static str),
    /// A part of the image belongs where no memory is that it may have.
    #[error(
        "{what} belongs at {start:#x}, {len_bytes:#x} bytes, where the guest has no free memory; \
         give the guest more memory if the address is near its end"
    )]
    OutsideMemory {
        /// The part.
        what: &'static str,
        /// First address.
        start: u64,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// The entry point is outside what was loaded.
    #[error("its entry point {0:#x} is in no loaded part of it")]
    Entry(u64),
    /// The command line is too long.
    #[error("the command line has {len_bytes} bytes; this kernel takes {most}")]
    CommandLine {
        /// What was asked for.
        len_bytes: u64,
        /// The most for this kernel.
        most: u64,
    },
}

/// The first bytes of a file for a message, in hexadecimal.
struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing (the file is empty)");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

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

/// An image to read from.
pub(crate) trait Source: Read + ReadVolatile + Seek {}

impl<T: Read + ReadVolatile + Seek> Source for T {}

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
    let head = read_head(image)?;
    if linux::is_bzimage(&head) {
        return Ok((
            ImageKind::LinuxBzImage,
            linux::load(image, &head, memory, request)?,
        ));
    }
    let multiboot = multiboot::find_header(&head);
    if head.starts_with(b"\x7fELF") {
        let file = elf::ElfImage::parse(image)?;
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
            Ok((
                ImageKind::Elf64,
                elf::load_plain(image, &file, memory, request)?,
            ))
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

/// Returns the first 8 KiB of an image, or all of a shorter one.
fn read_head<S: Source>(image: &mut S) -> Result<Vec<u8>, LoadError> {
    image.seek(SeekFrom::Start(0))?;
    let mut head = Vec::new();
    image
        .by_ref()
        .take(multiboot::SEARCH_BYTES)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// Requires that a part of an image lies where the start-up state leaves memory free.
fn require_free(
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

/// Requires that an image, bss included, ends before the initial RAM disk begins.
fn require_before_initrd(request: &Request<'_>, image_end: u64) -> Result<(), LoadError> {
    match request.initrd {
        Some(initrd) if initrd.start < image_end => Err(LoadError::OutsideMemory {
            what: "the initial RAM disk, below the end of the kernel,",
            start: initrd.start,
            len_bytes: initrd.len_bytes,
        }),
        _ => Ok(()),
    }
}

/// Copies `len_bytes` from `offset` of the image into guest memory.
fn copy<S: Source>(
    image: &mut S,
    offset: u64,
    memory: &GuestMemoryMmap,
    start: u64,
    len_bytes: u64,
) -> Result<(), LoadError> {
    const WHAT: &str = "a part of the image";
    let size = image.seek(SeekFrom::End(0))?;
    if offset.checked_add(len_bytes).is_none_or(|end| end > size) {
        return Err(LoadError::Truncated(WHAT));
    }
    image.seek(SeekFrom::Start(offset))?;
    let outside = LoadError::OutsideMemory {
        what: WHAT,
        start,
        len_bytes,
    };
    let Ok(count) = usize::try_from(len_bytes) else {
        return Err(outside);
    };
    memory
        .read_exact_volatile_from(GuestAddress(start), image, count)
        .map_err(|_| outside)
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

/// Returns the command line for a Linux kernel: with a console on the serial line, if the user
/// named none.
fn linux_command_line(cmdline: &str) -> String {
    if cmdline
        .split_ascii_whitespace()
        .any(|word| word.starts_with("console="))
    {
        return cmdline.to_owned();
    }
    let mut line = String::from("console=ttyS0");
    if !cmdline.is_empty() {
        line.push(' ');
        line.push_str(cmdline);
    }
    line
}
