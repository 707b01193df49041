//! Linux bzImage by the 64-bit and 32-bit boot protocols (Linux documentation, "The Linux/x86 Boot
//! Protocol").

use std::io::SeekFrom;

use linux_loader::loader::{
    KernelLoader,
    bootparam::{boot_e820_entry, boot_params, setup_header},
    bzimage::BzImage,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    Entry, LoadError, Request, Source, linux_command_line, require_before_initrd, require_free,
    write_command_line,
};
use crate::{
    x86_64::layout::{BOOT_INFO, COMMAND_LINE, HIGH_RAM},
    x86_64::memory_map::map,
};

/// Offset of the setup header in the image.
const HEADER: usize = 0x1f1;
/// `xloadflags`: the kernel has a 64-bit entry point, 0x200 bytes past its start.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Distance of the 64-bit entry point from the start of the kernel.
const ENTRY_64: u64 = 0x200;
/// Boot protocol 2.06, the first that names the command line's limit.
const OLDEST_PROTOCOL: u16 = 0x0206;
/// Boot protocol 2.10, the first that says how much memory the kernel needs to start.
const HAS_INIT_SIZE: u16 = 0x020a;
/// Boot protocol 2.12, the first with `xloadflags`.
const HAS_XLOADFLAGS: u16 = 0x020c;
/// Type of loader: one without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Returns whether an image that begins with `head` is a bzImage.
pub(super) fn is_bzimage(head: &[u8]) -> bool {
    head.get(0x1fe..0x200) == Some(&[0x55, 0xaa]) && head.get(0x202..0x206) == Some(b"HdrS")
}

/// Loads a bzImage and its boot parameters.
pub(super) fn load<S: Source>(
    image: &mut S,
    head: &[u8],
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    let header_bytes = head.len().saturating_sub(HEADER);
    if header_bytes < size_of::<setup_header>() {
        return Err(LoadError::Truncated("a part of the setup header"));
    }
    let word = |at: usize| {
        let byte = |at| head.get(at).copied().unwrap_or(0);
        u16::from_le_bytes([byte(at), byte(at + 1)])
    };
    if word(0x206) < OLDEST_PROTOCOL {
        return Err(LoadError::Unsupported("a boot protocol older than 2.06"));
    }
    if word(0x211) & 1 == 0 {
        return Err(LoadError::Unsupported("loading below 1 MiB (a zImage)"));
    }
    require_whole(image, head)?;
    let loaded = BzImage::load(memory, None, image, Some(GuestAddress(HIGH_RAM)))
        .map_err(|error| explain(&error))?;
    let header = loaded
        .setup_header
        .ok_or(LoadError::BadHeader("no setup header"))?;
    let start = loaded.kernel_load.0;
    let len_bytes = room(&header, loaded.kernel_end - start);
    require_free(memory, "the kernel", start, len_bytes)?;
    require_before_initrd(request.initrd, start + len_bytes)?;

    write_command_line(
        memory,
        &linux_command_line(request.cmdline),
        header.cmdline_size.into(),
    )?;
    write_boot_params(memory, request, Some(header))?;
    enter(&header, start)
}

/// Requires that the file holds as much as its header says (`syssize`, in units of 16 bytes, of
/// which the last may be incomplete).
fn require_whole<S: Source>(image: &mut S, head: &[u8]) -> Result<(), LoadError> {
    const UNIT: u64 = 16;
    const SECTOR: u64 = 512;
    let setup_sectors = match head.get(HEADER) {
        None | Some(0) => 4,
        Some(count) => u64::from(*count),
    };
    let units = head.get(0x1f4..).and_then(|bytes| bytes.first_chunk::<4>());
    let units = u64::from(u32::from_le_bytes(units.copied().unwrap_or_default()));
    let promised = (setup_sectors + 1) * SECTOR + units * UNIT;
    if image.seek(SeekFrom::End(0))? + UNIT <= promised {
        return Err(LoadError::Truncated("a part of the kernel"));
    }
    Ok(())
}

/// Returns how many bytes the kernel needs from its start on.
fn room(header: &setup_header, image_bytes: u64) -> u64 {
    if header.version < HAS_INIT_SIZE {
        return image_bytes;
    }
    image_bytes.max(header.init_size.into())
}

/// Says how to enter a kernel that was loaded at `start`.
fn enter(header: &setup_header, start: u64) -> Result<Entry, LoadError> {
    if header.version >= HAS_XLOADFLAGS && header.xloadflags & XLF_KERNEL_64 != 0 {
        return Ok(Entry::Long {
            rip: start + ENTRY_64,
        });
    }
    let narrow = |value: u64| {
        u32::try_from(value).map_err(|_| LoadError::BadHeader("a load address above 4 GiB"))
    };
    Ok(Entry::Protected {
        eip: narrow(start)?,
        eax: 0,
        ebx: 0,
        esi: narrow(BOOT_INFO)?,
    })
}

/// Writes `boot_params` with memory map, command line and initial RAM disk.
pub(super) fn write_boot_params(
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
    header: Option<setup_header>,
) -> Result<(), LoadError> {
    let mut params = boot_params {
        hdr: header.unwrap_or_default(),
        acpi_rsdp_addr: request.rsdp,
        ..Default::default()
    };
    let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low(COMMAND_LINE);
    if let Some(initrd) = request.initrd {
        params.hdr.ramdisk_image = low(initrd.start);
        params.hdr.ramdisk_size = low(initrd.len_bytes);
        params.ext_ramdisk_size = low(initrd.len_bytes >> 32);
    }
    let entries = map(memory);
    params.e820_entries = u8::try_from(entries.len()).unwrap_or(0);
    for (to, from) in params.e820_table.iter_mut().zip(&entries) {
        let kind = if from.usable { E820_RAM } else { E820_RESERVED };
        *to = boot_e820_entry {
            addr: from.start,
            size: from.len_bytes,
            r#type: kind,
        };
    }
    memory
        .write_obj(params, GuestAddress(BOOT_INFO))
        .map_err(|_| LoadError::OutsideMemory {
            what: "the boot parameters",
            start: BOOT_INFO,
            len_bytes: size_of::<boot_params>() as u64,
        })
}

/// Turns what linux-loader says into something that names the cause.
fn explain(error: &linux_loader::loader::Error) -> LoadError {
    use linux_loader::loader::{Error, bzimage};
    match error {
        Error::InvalidKernelStartAddress => LoadError::BadHeader("code32_start is below 1 MiB"),
        Error::MemoryOverflow => LoadError::BadHeader("the kernel ends past the address space"),
        Error::Bzimage(bzimage::Error::Underflow | bzimage::Error::ReadBzImageHeader) => {
            LoadError::Truncated("a part of the setup code")
        }
        Error::Bzimage(bzimage::Error::ReadBzImageCompressedKernel) => LoadError::OutsideMemory {
            what: "the kernel",
            start: HIGH_RAM,
            len_bytes: 0,
        },
        _ => LoadError::BadHeader("no bzImage setup header"),
    }
}
