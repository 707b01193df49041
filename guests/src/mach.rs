//! A guest whose kernel is in Mach-O format, as Darwin's is, in memory as its boot loader leaves it.
//!
//! ```text
//!  an arm64 Image: boot.S │ zeroes to a multiple of 16 KiB │ the kernel's image, from its header on
//! ```
//!
//! The kernel is assembled as everything else here and turned into an object file in Mach-O format; LLVM's
//! `ld64.lld` links that when a test asks for it. This linker makes programs for macOS, at low addresses, so
//! [`Kernel::link`] changes the file afterwards to what Apple's own makes of a kernel: its flags and addresses.

mod convert;

use core::mem::offset_of;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use object::{
    LittleEndian, Object as _, ObjectSymbol as _,
    macho::{MH_DYLDLINK, MH_PIE, MH_TWOLEVEL, MachHeader64, Nlist64, Section64, SegmentCommand64},
    read::macho::{LoadCommandVariant, MachHeader as _},
};

/// The boot loader.
const BOOT: crate::Guest = crate::Guest {
    name: "mach_boot",
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/aarch64/mach/boot.elf")),
    ending: crate::Ending::Passed,
    needs: crate::Needs::Hardware,
};
/// The kernel, an ELF object file.
const KERNEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/aarch64/mach/kernel.elf"));

/// Where the kernel is to be by its file, as those for iOS are.
const LINKED_AT: u64 = 0xffff_fff0_0700_4000;
/// How much further up the boot loader puts it.
const MOVED_BY: u64 = 0x1a60_0000;
/// What an image is aligned to.
const ALIGNMENT: usize = 16 << 10;
/// How much memory an arm64 Image takes (Linux, "Booting `AArch64` Linux").
const IMAGE_SIZE: usize = 16;

/// A kernel in Mach-O format that was linked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its file, with its symbols at the addresses it was linked for.
    pub file: PathBuf,
    /// It and its boot loader, an arm64 Image.
    pub image: PathBuf,
    /// Where its header is in memory.
    pub address: u64,
    /// Which build it is, as Darwin's tools show it.
    pub uuid: String,
    contents: Vec<u8>,
}

/// Returns whether there is something to be linked: there was a C compiler for `AArch64`.
#[must_use]
pub const fn is_assembled() -> bool {
    !KERNEL.is_empty()
}

impl Kernel {
    /// Links the kernel by `linker`, LLVM's `ld64.lld`, and joins it with its boot loader, in `directory`.
    ///
    /// # Errors
    /// When a file cannot be written, or the linker cannot be started or fails, with what it said.
    pub fn link(linker: &Path, directory: &Path) -> io::Result<Self> {
        let object = directory.join("mach_kernel.o");
        let converted = convert::mach_object(KERNEL).map_err(io::Error::other)?;
        fs::write(&object, converted)?;
        let file = directory.join("mach_kernel");
        let output = Command::new(linker)
            .args("-arch arm64 -platform_version macos 11.0 11.0 -e _start".split(' '))
            .args(["-no_adhoc_codesign", "-pagezero_size", "0", "-o"])
            .args([&file, &object])
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(io::Error::other(format!("{}: {said}", linker.display())));
        }
        let mut contents = fs::read(&file)?;
        let commands = Commands::read(&contents)
            .ok_or_else(|| io::Error::other("the linker's file is not as expected"))?;
        commands
            .finish(&mut contents)
            .ok_or_else(|| io::Error::other("the linker's file is cut short"))?;
        fs::write(&file, &contents)?;
        let image = directory.join("mach_kernel.img");
        let whole = commands
            .join(&contents)
            .ok_or_else(|| io::Error::other("the boot loader lacks a label"))?;
        fs::write(&image, whole)?;
        Ok(Self {
            file,
            image,
            address: LINKED_AT + MOVED_BY,
            uuid: commands.uuid,
            contents,
        })
    }

    /// Returns where a label of the kernel is in memory.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let file = object::File::parse(&*self.contents).ok()?;
        let mut symbols = file.symbols();
        let symbol = symbols.find(|symbol| symbol.name() == Ok(name))?;
        Some(symbol.address() + MOVED_BY)
    }
}

/// What the load commands of the linked file say.
struct Commands {
    uuid: String,
    /// Where the first instruction is, from the header on.
    entry: u64,
    /// Where in the file there are addresses of segments and sections.
    addresses: Vec<usize>,
    /// Where in the file there are addresses of symbols.
    symbols: Vec<usize>,
}

impl Commands {
    fn read(file: &[u8]) -> Option<Self> {
        let header = MachHeader64::<LittleEndian>::parse(file, 0).ok()?;
        let mut commands = header.load_commands(LittleEndian, file, 0).ok()?;
        let (mut uuid, mut entry) = (None, None);
        let (mut addresses, mut symbols) = (Vec::new(), Vec::new());
        while let Some(command) = commands.next().ok()? {
            let offset = usize::try_from(command.offset()).ok()?;
            match command.variant().ok()? {
                LoadCommandVariant::Uuid(found) => uuid = Some(uuid_text(&found.uuid)),
                LoadCommandVariant::EntryPoint(found) => {
                    entry = Some(found.entryoff.get(LittleEndian));
                }
                LoadCommandVariant::Segment64(segment, _) => {
                    // In memory as in the file, so that the file is the image.
                    if segment.vmaddr.get(LittleEndian) != segment.fileoff.get(LittleEndian) {
                        return None;
                    }
                    addresses.push(offset + offset_of!(SegmentCommand64<LittleEndian>, vmaddr));
                    let sections = offset + size_of::<SegmentCommand64<LittleEndian>>();
                    let count = usize::try_from(segment.nsects.get(LittleEndian)).ok()?;
                    let section = |index| sections + index * size_of::<Section64<LittleEndian>>();
                    let address = offset_of!(Section64<LittleEndian>, addr);
                    addresses.extend((0..count).map(|index| section(index) + address));
                }
                LoadCommandVariant::Symtab(table) => {
                    let start = usize::try_from(table.symoff.get(LittleEndian)).ok()?;
                    let count = usize::try_from(table.nsyms.get(LittleEndian)).ok()?;
                    let symbol = |index| start + index * size_of::<Nlist64<LittleEndian>>();
                    let value = offset_of!(Nlist64<LittleEndian>, n_value);
                    symbols.extend((0..count).map(|index| symbol(index) + value));
                }
                _ => {}
            }
        }
        Some(Self {
            uuid: uuid?,
            entry: entry?,
            addresses,
            symbols,
        })
    }

    /// Makes a kernel of a program: without a dynamic linker, and at a kernel's addresses.
    fn finish(&self, file: &mut [u8]) -> Option<()> {
        let flags = offset_of!(MachHeader64<LittleEndian>, flags);
        let flags: &mut [u8; 4] = file.get_mut(flags..)?.first_chunk_mut()?;
        let program = MH_DYLDLINK.0 | MH_TWOLEVEL.0 | MH_PIE.0;
        *flags = (u32::from_le_bytes(*flags) & !program).to_le_bytes();
        let mut places = self.addresses.iter().chain(&self.symbols);
        places.try_for_each(|place| add(file, *place, LINKED_AT))
    }

    /// Puts the boot loader and the image together, with the image's addresses as the loader moves them.
    fn join(&self, file: &[u8]) -> Option<Vec<u8>> {
        let mut kernel = file.to_vec();
        for place in &self.addresses {
            add(&mut kernel, *place, MOVED_BY)?;
        }
        let mut image = BOOT.flat()?.to_vec();
        let start = BOOT.symbol("image_start")?;
        let offset = |name| usize::try_from(BOOT.symbol(name)? - start).ok();
        let address = LINKED_AT + MOVED_BY;
        add(&mut image, offset("kernel_address")?, address)?;
        add(&mut image, offset("kernel_entry")?, address + self.entry)?;
        // Behind all memory that the loader uses.
        let loader_end = offset("image_end")?;
        image.resize(loader_end.next_multiple_of(ALIGNMENT), 0);
        image.extend(kernel);
        image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
        let more = image.len() - loader_end;
        add(&mut image, IMAGE_SIZE, more as u64)?;
        Some(image)
    }
}

/// Adds to the 64-bit number at `place`.
fn add(bytes: &mut [u8], place: usize, value: u64) -> Option<()> {
    let number: &mut [u8; 8] = bytes.get_mut(place..)?.first_chunk_mut()?;
    *number = (u64::from_le_bytes(*number) + value).to_le_bytes();
    Some(())
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits = |range: core::ops::Range<usize>| -> String {
        let bytes = uuid[range].iter();
        bytes.map(|byte| format!("{byte:02X}")).collect()
    };
    [0..4, 4..6, 6..8, 8..10, 10..16].map(digits).join("-")
}
