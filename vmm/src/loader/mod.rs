//! Loading of kernel images: what the loaders of every architecture have in common.

pub(crate) mod elf;
mod initrd;

use std::io::{self, Read, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

pub(crate) use initrd::{Initrd, load as load_initrd};

use crate::host;

/// What an image was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// A Linux kernel for x86 in the format bzImage.
    LinuxBzImage,
    /// A Linux kernel for AArch64 in the format Image, or what takes its place.
    LinuxImage,
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
        "it is no kernel: it begins with {}; supported are {}, and any code with an address for a \
         flat image", Hex(.0), host::IMAGE_KINDS
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

/// An image to read from.
pub(crate) trait Source: Read + ReadVolatile + Seek {}

impl<T: Read + ReadVolatile + Seek> Source for T {}

/// Returns the first `len_bytes` of an image, or all of a shorter one.
pub(crate) fn read_head<S: Source>(image: &mut S, len_bytes: u64) -> Result<Vec<u8>, LoadError> {
    image.seek(SeekFrom::Start(0))?;
    let mut head = Vec::new();
    image.by_ref().take(len_bytes).read_to_end(&mut head)?;
    Ok(head)
}

/// Requires that an image, bss included, ends before the initial RAM disk begins.
pub(crate) fn require_before_initrd(
    initrd: Option<Initrd>,
    image_end: u64,
) -> Result<(), LoadError> {
    match initrd {
        Some(initrd) if initrd.start < image_end => Err(LoadError::OutsideMemory {
            what: "the initial RAM disk, below the end of the kernel,",
            start: initrd.start,
            len_bytes: initrd.len_bytes,
        }),
        _ => Ok(()),
    }
}

/// Copies `len_bytes` from `offset` of the image into guest memory.
pub(crate) fn copy<S: Source>(
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

/// Returns the command line for a Linux kernel: with a console on the serial line, if the user
/// named none.
pub(crate) fn linux_command_line(cmdline: &str) -> String {
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
