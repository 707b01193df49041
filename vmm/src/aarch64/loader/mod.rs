//! Loading of kernel images: which kind an image is, and how it is put into guest memory and entered.
//!
//! | kind | recognised by | loaded | entered |
//! |---|---|---|---|
//! | Linux Image | `ARM\x64` at 56 | `text_offset` past the start of RAM | its first byte |
//! | ELF, 64 bits | ELF header | its physical addresses | its entry point |
//! | flat | asked for | the address given | its first byte |
//!
//! # The boot contract
//!
//! It is that of Linux (Linux documentation, "Booting AArch64 Linux"), so that an image need not know
//! which kind it is taken for. The vCPU is
//! - at EL1 with its own stack pointer, MMU and caches off, all exceptions masked;
//! - X0 = address of the device tree, with memory, command line and devices; X1 to X3 are 0;
//! - SP, which Linux leaves open, = top of a stack of 64 KiB.
//!
//! All other vCPUs are off until PSCI `CPU_ON`, by HVC.

mod image;
#[cfg(test)]
mod tests;

use std::io::SeekFrom;

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::layout::{RAM, initrd_room};
use crate::{
    KernelFormat,
    loader::{
        ImageKind, Initrd, LoadError, Source, copy, elf::ElfImage, read_head, require_before_initrd,
    },
    memory::low_end,
};

/// The kinds of images that are recognised, for messages.
pub(crate) const IMAGE_KINDS: &str = "Linux Image and plain 64-bit Arm ELF";

/// How many bytes at the start of an image are looked at.
const HEAD_BYTES: u64 = 64;

/// Where the boot processor is to begin, and with what command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Entry point.
    pub(crate) pc: u64,
    /// The command line for the device tree.
    pub(crate) cmdline: String,
}

/// What a loader has to know besides the image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// Command line as the user gave it.
    pub(crate) cmdline: &'a str,
    /// Initial RAM disk.
    pub(crate) initrd: Option<Initrd>,
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
    let plain = |pc| Entry {
        pc,
        cmdline: request.cmdline.to_owned(),
    };
    if let KernelFormat::Flat(address) = format {
        load_flat(image, address, memory, request)?;
        return Ok((ImageKind::Flat, plain(address)));
    }
    let head = read_head(image, HEAD_BYTES)?;
    if image::is_image(&head) {
        return Ok((
            ImageKind::LinuxImage,
            image::load(image, &head, memory, request)?,
        ));
    }
    if head.starts_with(b"\x7fELF") {
        let file = ElfImage::parse(image)?;
        let entry = file.physical_entry()?;
        file.load_segments(image, memory)?;
        require_before_initrd(request.initrd, file.end())?;
        return Ok((ImageKind::Elf64, plain(entry)));
    }
    Err(LoadError::NotAKernel(head.into_iter().take(16).collect()))
}

/// Copies a flat binary to `address`.
fn load_flat<S: Source>(
    image: &mut S,
    address: u64,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<(), LoadError> {
    let len_bytes = image.seek(SeekFrom::End(0))?;
    if len_bytes == 0 {
        return Err(LoadError::Truncated("all of it"));
    }
    if !address.is_multiple_of(4) {
        return Err(LoadError::Entry(address));
    }
    require_free(memory, "the flat image", address, len_bytes)?;
    require_before_initrd(request.initrd, address + len_bytes)?;
    copy(image, 0, memory, address, len_bytes)
}

/// Requires that a part of an image lies where the start-up state leaves memory free.
pub(crate) fn require_free(
    memory: &GuestMemoryMmap,
    what: &'static str,
    start: u64,
    len_bytes: u64,
) -> Result<(), LoadError> {
    let end = start.checked_add(len_bytes);
    let (lowest, low_limit) = initrd_room(low_end(memory));
    // What lies above the device tree is free as well, which is so only past 4 GiB.
    let in_high_ram = memory.iter().any(|region| {
        let region_end = region.start_addr().raw_value() + region.len();
        start >= RAM.max(1 << 32) && end.is_some_and(|end| end <= region_end)
    });
    let in_low_ram = start >= lowest && end.is_some_and(|end| end <= low_limit);
    if in_low_ram || in_high_ram {
        Ok(())
    } else {
        Err(LoadError::OutsideMemory {
            what,
            start,
            len_bytes,
        })
    }
}
