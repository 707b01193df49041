//! The images that run without an operating system.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use object::{
    Endianness,
    elf::PT_LOAD,
    read::elf::{ElfFile64, ProgramHeader as _},
};
use trapline_test_machine::Environment;

use crate::{
    command::succeed,
    toolchain::{self, Target, Toolchain},
};

/// The largest that the flat image of the hypervisor for EL2 may be, in bytes. Its heap, its stacks and its tables are
/// inside: it takes no other memory.
pub(crate) const EL2_LIMIT_BYTES: usize = 4 << 20;
/// No image is larger, whatever its addresses say.
const FLAT_LIMIT_BYTES: u64 = 64 << 20;

/// A built image.
pub(crate) struct Image {
    /// The flat file.
    pub(crate) path: PathBuf,
    /// Its length.
    pub(crate) size_bytes: usize,
    /// What built it.
    pub(crate) toolchain: Toolchain,
}

/// Builds the hypervisor for EL2, an arm64 Linux Image without a guest.
///
/// # Errors
/// When no toolchain here builds for it, and when the build fails.
pub(crate) fn el2() -> Result<Image> {
    const PACKAGE: &str = "trapline-el2";
    let target = Target::BareArm;
    let toolchain = toolchain::required(target)?;
    let mut build = toolchain.cargo(target, "build");
    succeed(build.args(["--profile", "image", "--package", PACKAGE, "--bin", PACKAGE]))?;
    let directory = Environment::cross_directory();
    let program = directory.join(target.triple()).join("image").join(PACKAGE);
    let elf = fs::read(&program).with_context(|| program.display().to_string())?;
    let flat = flat(&elf).with_context(|| program.display().to_string())?;
    let path = directory.join("trapline-el2.img");
    fs::write(&path, &flat).with_context(|| path.display().to_string())?;
    Ok(Image {
        path,
        size_bytes: flat.len(),
        toolchain,
    })
}

/// What an ELF file's loadable segments look like in memory, from the lowest address on.
fn flat(elf: &[u8]) -> Result<Vec<u8>> {
    let file: ElfFile64<'_> = ElfFile64::parse(elf)?;
    let endian: Endianness = file.endian();
    let segments = || {
        let headers = file.elf_program_headers().iter();
        headers.filter(move |header| header.p_type(endian) == PT_LOAD)
    };
    let start = segments().map(|header| header.p_vaddr(endian)).min();
    let start = start.context("there is nothing to load")?;
    let mut image = Vec::new();
    for header in segments() {
        let offset = header.p_vaddr(endian) - start;
        let end = offset.checked_add(header.p_memsz(endian));
        let end = end.filter(|end| *end <= FLAT_LIMIT_BYTES);
        let end = usize::try_from(end.context("a segment is too far from the first")?)?;
        let offset = usize::try_from(offset)?;
        let data = header
            .data(endian, elf)
            .ok()
            .context("a segment is cut short")?;
        image.resize(image.len().max(end), 0);
        let place = image
            .get_mut(offset..)
            .and_then(|rest| rest.get_mut(..data.len()));
        place
            .context("a segment is larger in the file")?
            .copy_from_slice(data);
    }
    ensure!(!image.is_empty(), "there is nothing to load");
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header and two segments of four bytes, the second with four more of zero after them.
    fn elf() -> Vec<u8> {
        let mut elf = Vec::new();
        elf.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        elf.extend(2_u16.to_le_bytes());
        elf.extend(183_u16.to_le_bytes());
        elf.extend(1_u32.to_le_bytes());
        for word in [0x1000_u64, 64, 0] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 64, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        for (address, file_offset, memory) in [(0x1000_u64, 176_u64, 4_u64), (0x1008, 180, 8)] {
            elf.extend(1_u32.to_le_bytes());
            elf.extend(5_u32.to_le_bytes());
            for word in [file_offset, address, address, 4, memory, 1] {
                elf.extend(word.to_le_bytes());
            }
        }
        elf.extend(b"abcdefgh");
        elf
    }

    #[test]
    fn segments_lie_where_their_addresses_say() {
        assert_eq!(flat(&elf()).unwrap(), b"abcd\0\0\0\0efgh\0\0\0\0");
    }

    #[test]
    fn a_file_cut_short_at_any_length_is_an_error() {
        let elf = elf();
        for length in 0..elf.len() {
            assert!(flat(&elf[..length]).is_err(), "{length}");
        }
    }
}
