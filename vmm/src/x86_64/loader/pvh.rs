//! The PVH boot protocol (Xen, "x86/HVM direct boot ABI").

use linux_loader::loader::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    ElfImage, Entry, LoadError, Request, Source, linux_command_line, require_before_initrd,
    write_command_line,
};
use crate::{
    x86_64::layout::{BOOT_INFO, COMMAND_LINE, PVH_TABLES},
    x86_64::memory_map::map,
};

const START_INFO_MAGIC: u32 = 0x336e_c578;
/// Version 1 has the memory map.
const START_INFO_VERSION: u32 = 1;
const MEMMAP_RAM: u32 = 1;
const MEMMAP_RESERVED: u32 = 2;

/// Loads an ELF image with a PVH entry point.
pub(super) fn load<S: Source>(
    image: &mut S,
    file: &ElfImage,
    entry: u32,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    file.load_segments(image, memory)?;
    require_before_initrd(request.initrd, file.end())?;
    write_command_line(memory, &linux_command_line(request.cmdline), u64::MAX)?;
    let mut info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: START_INFO_VERSION,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: request.rsdp,
        ..Default::default()
    };
    let mut at = PVH_TABLES;
    if let Some(initrd) = request.initrd {
        info.nr_modules = 1;
        info.modlist_paddr = at;
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.len_bytes,
            ..Default::default()
        };
        put(memory, &mut at, module)?;
    }
    info.memmap_paddr = at;
    for entry in map(memory) {
        let type_ = if entry.usable {
            MEMMAP_RAM
        } else {
            MEMMAP_RESERVED
        };
        let entry = hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.len_bytes,
            type_,
            reserved: 0,
        };
        put(memory, &mut at, entry)?;
        info.memmap_entries += 1;
    }
    put(memory, &mut { BOOT_INFO }, info)?;
    let ebx = u32::try_from(BOOT_INFO).map_err(|_| LoadError::BadHeader("no room"))?;
    Ok(Entry::Protected {
        eip: entry,
        eax: 0,
        ebx,
        esi: 0,
    })
}

/// Writes one structure and moves on past it.
fn put<T: ByteValued>(memory: &GuestMemoryMmap, at: &mut u64, value: T) -> Result<(), LoadError> {
    let len_bytes = size_of::<T>() as u64;
    memory
        .write_obj(value, GuestAddress(*at))
        .map_err(|_| LoadError::OutsideMemory {
            what: "the PVH start information",
            start: *at,
            len_bytes,
        })?;
    *at += len_bytes;
    Ok(())
}
