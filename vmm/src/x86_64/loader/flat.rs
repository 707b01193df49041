//! Flat binaries: code and data without any header.

use std::io::SeekFrom;

use vm_memory::GuestMemoryMmap;

use super::{Entry, LoadError, Request, Source, copy, linux, require_free, write_command_line};
use crate::x86_64::layout::{HIGH_RAM, LOW_RAM_END};

/// Lowest address: below are the real mode's interrupt vectors and the BIOS data area.
const LOWEST: u64 = 0x500;

/// Loads a flat binary at `address` and says how to enter it there.
///
/// Below 64 KiB the code segment is 0, so that a boot sector at 0x7c00 finds what it expects; above,
/// the segment is `address / 16` and the instruction pointer `address % 16`.
pub(super) fn load<S: Source>(
    image: &mut S,
    address: u64,
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    let len_bytes = image.seek(SeekFrom::End(0))?;
    if len_bytes == 0 {
        return Err(LoadError::Truncated("all of it"));
    }
    if address >= HIGH_RAM {
        require_free(memory, "the flat image", address, len_bytes)?;
        copy(image, 0, memory, address, len_bytes)?;
        write_command_line(memory, request.cmdline, u64::MAX)?;
        linux::write_boot_params(memory, request, None)?;
        return Ok(Entry::Long { rip: address });
    }
    let fits = address >= LOWEST && address.saturating_add(len_bytes) <= LOW_RAM_END;
    if !fits {
        return Err(LoadError::OutsideMemory {
            what: "the flat image",
            start: address,
            len_bytes,
        });
    }
    copy(image, 0, memory, address, len_bytes)?;
    Ok(real_mode_entry(address))
}

/// Returns segment and offset of an address below 1 MiB.
fn real_mode_entry(address: u64) -> Entry {
    let low = |value: u64| u16::try_from(value).unwrap_or(0);
    if address <= u64::from(u16::MAX) {
        return Entry::Real {
            cs: 0,
            ip: low(address),
        };
    }
    Entry::Real {
        cs: low(address >> 4),
        ip: low(address & 0xf),
    }
}
