//! The format Image of AArch64 Linux (Linux documentation, "Booting AArch64 Linux").

use linux_loader::loader::{self, KernelLoader, pe::PE};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::{Entry, Request, require_free};
use crate::{
    aarch64::layout::RAM,
    loader::{LoadError, Source, linux_command_line, require_before_initrd},
};

/// Where the magic number is, and what.
const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");
/// Where the length in memory is, 8 bytes.
const IMAGE_SIZE: usize = 16;
/// Where the flags are, 8 bytes; bit 0 says that the kernel is big-endian.
const FLAGS: usize = 24;

/// Returns whether an image that begins with `head` is one.
pub(super) fn is_image(head: &[u8]) -> bool {
    let (at, magic) = MAGIC;
    head.get(at..at + magic.len()) == Some(magic)
}

/// Loads an image `text_offset` bytes past the start of RAM.
pub(super) fn load<S: Source>(
    image: &mut S,
    head: &[u8],
    memory: &GuestMemoryMmap,
    request: &Request<'_>,
) -> Result<Entry, LoadError> {
    let field = |at: usize| {
        let bytes = head.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    if field(FLAGS) & 1 != 0 {
        return Err(LoadError::Unsupported("a big-endian kernel"));
    }
    let loaded =
        PE::load(memory, Some(GuestAddress(RAM)), image, None).map_err(|error| explain(&error))?;
    let start = loaded.kernel_load.0;
    let len_bytes = field(IMAGE_SIZE).max(loaded.kernel_end.saturating_sub(start));
    require_free(memory, "the kernel", start, len_bytes)?;
    require_before_initrd(request.initrd, start + len_bytes)?;
    Ok(Entry {
        pc: start,
        cmdline: linux_command_line(request.cmdline),
    })
}

/// Turns what linux-loader says into something that names the cause.
fn explain(error: &loader::Error) -> LoadError {
    use loader::{Error, pe};
    match error {
        Error::Pe(pe::Error::ReadImageHeader) => LoadError::Truncated("a part of the header"),
        Error::Pe(pe::Error::ReadKernelImage) => LoadError::OutsideMemory {
            what: "the kernel",
            start: RAM,
            len_bytes: 0,
        },
        _ => LoadError::BadHeader("it cannot be loaded as it says"),
    }
}
