//! The initial RAM disk.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
};

use vm_memory::GuestMemoryMmap;

use super::{LoadError, copy};
use crate::{host::layout::initrd_room, memory::low_end};

/// Where the initial RAM disk is in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initrd {
    /// First address, a multiple of 4096 below 4 GiB.
    pub(crate) start: u64,
    /// Length in bytes.
    pub(crate) len_bytes: u64,
}

/// Copies the initial RAM disk to the end of the first region of RAM, or as high as kernels want it.
pub(crate) fn load(file: &mut File, memory: &GuestMemoryMmap) -> Result<Initrd, LoadError> {
    let len_bytes = file.seek(SeekFrom::End(0))?;
    let (lowest, end) = initrd_room(low_end(memory));
    let start = end.saturating_sub(len_bytes) & !0xfff;
    if start < lowest || len_bytes == 0 {
        return Err(LoadError::OutsideMemory {
            what: "the initial RAM disk",
            start,
            len_bytes,
        });
    }
    copy(file, 0, memory, start, len_bytes)?;
    Ok(Initrd { start, len_bytes })
}
