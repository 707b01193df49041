//! The header of a kernel's image.
//!
//! ```text
//!  an image in memory        a collection of images
//!  mach_header_64            mach_header_64, MH_FILESET
//!  load commands:            load commands:
//!    LC_SEGMENT_64 __TEXT      LC_SEGMENT_64 __TEXT
//!    LC_SEGMENT_64 __KLD       LC_FILESET_ENTRY com.apple.kernel ──▶ an image
//!    LC_UUID                   …
//!    LC_BUILD_VERSION …
//! ```
//!
//! Source: Apple, `mach-o/loader.h` and `mach-o/fileset.h` of xnu.

use alloc::vec;
use alloc::vec::Vec;

use object::LittleEndian;
use object::macho::{self, MachHeader64};
use object::read::macho::{LoadCommandVariant, MachHeader as _};
use trapline_arch::Gva;
use trapline_engine::VirtualView;

/// How long load commands may be, in bytes. Those of a kernel with all its extensions take a tenth of that.
const MAX_COMMANDS_BYTES: usize = 256 << 10;
/// The rest of a subtype says what the image needs of the processor.
const SUBTYPE: u32 = 0x00ff_ffff;
/// The length of a header, without its load commands.
const HEADER_BYTES: usize = size_of::<MachHeader64<LittleEndian>>();
/// The entry of a collection that is the kernel.
const KERNEL_ENTRY: &[u8] = b"com.apple.kernel";
/// A segment that a kernel has and other images without a dynamic linker do not; LLDB goes by it, too.
const KERNEL_SEGMENT: &[u8] = b"__KLD";

/// A Darwin kernel's image for 64-bit Arm, as it is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Where its header is.
    pub address: Gva,
    /// Which build it is.
    pub uuid: [u8; 16],
    /// What it is for.
    pub platform: Platform,
    /// What Mach-O files call the processor besides `CPU_TYPE_ARM64`: 2 for arm64e.
    pub cpu_subtype: u32,
}

/// The operating system that a kernel is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Platform {
    /// macOS, or not known: older kernels do not tell.
    #[default]
    MacOs,
    /// iOS and iPadOS.
    Ios,
    /// tvOS.
    TvOs,
    /// watchOS.
    WatchOs,
    /// bridgeOS.
    BridgeOs,
    /// visionOS.
    VisionOs,
}

/// What a header and its commands say.
struct Image {
    kind: macho::FileType,
    flags: macho::FileFlags,
    cpu_subtype: u32,
    uuid: Option<[u8; 16]>,
    platform: Platform,
    /// Where `__TEXT` is to be mapped, which begins with the header.
    text: Option<u64>,
    has_kernel_segment: bool,
    /// Where the kernel of a collection is to be mapped.
    kernel: Option<u64>,
}

impl Kernel {
    /// Reads the kernel whose header, or whose collection's, is at `address`. [`None`] where there is none.
    #[must_use]
    pub fn read(view: &dyn VirtualView, address: Gva) -> Option<Self> {
        let image = Image::read(view, address)?;
        if image.kind != macho::MH_FILESET {
            return image.into_kernel(address);
        }
        // What loads a kernel moves addresses in the commands of all its parts, or of none.
        let moved_by = address.0.wrapping_sub(image.text?);
        let inner = Gva(image.kernel?.wrapping_add(moved_by));
        Image::read(view, inner)?.into_kernel(inner)
    }
}

impl Image {
    fn read(view: &dyn VirtualView, address: Gva) -> Option<Self> {
        let mut bytes = vec![0; HEADER_BYTES];
        if !read_exact(view, address, &mut bytes) {
            return None;
        }
        let header = header(&bytes)?;
        let commands = usize::try_from(header.sizeofcmds(LittleEndian)).ok()?;
        if header.cputype(LittleEndian) != macho::CPU_TYPE_ARM64 || commands > MAX_COMMANDS_BYTES {
            return None;
        }
        bytes.resize(HEADER_BYTES.saturating_add(commands), 0);
        read_exact(view, address, &mut bytes)
            .then(|| Self::parse(&bytes))
            .flatten()
    }

    /// Reads a header with its commands. A command that cannot be read ends them.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let header = header(bytes)?;
        let mut image = Self {
            kind: header.filetype(LittleEndian),
            flags: header.flags(LittleEndian),
            cpu_subtype: header.cpusubtype(LittleEndian).0 & SUBTYPE,
            uuid: None,
            platform: Platform::default(),
            text: None,
            has_kernel_segment: false,
            kernel: None,
        };
        let mut commands = header.load_commands(LittleEndian, bytes, 0).ok()?;
        while let Ok(Some(command)) = commands.next() {
            match command.variant() {
                Ok(LoadCommandVariant::Segment64(segment, _)) => {
                    let name = segment.segname.split(|byte| *byte == 0).next();
                    match name {
                        Some(b"__TEXT") => image.text = Some(segment.vmaddr.get(LittleEndian)),
                        Some(KERNEL_SEGMENT) => image.has_kernel_segment = true,
                        _ => {}
                    }
                }
                Ok(LoadCommandVariant::Uuid(uuid)) => image.uuid = Some(uuid.uuid),
                Ok(LoadCommandVariant::BuildVersion(version, _)) => {
                    image.platform = Platform::of(version.platform.get(LittleEndian));
                }
                Ok(LoadCommandVariant::FilesetEntry(entry)) => {
                    let name = command.string(LittleEndian, entry.entry_id);
                    if name.is_ok_and(|name| name == KERNEL_ENTRY) {
                        image.kernel = Some(entry.vmaddr.get(LittleEndian));
                    }
                }
                _ => {}
            }
        }
        Some(image)
    }

    /// Takes it for a kernel, if it is one: a program of its own, with no need of a dynamic linker.
    fn into_kernel(self, address: Gva) -> Option<Kernel> {
        let is_kernel = self.kind == macho::MH_EXECUTE
            && self.flags.0 & macho::MH_DYLDLINK.0 == 0
            && self.has_kernel_segment
            && self.text.is_some();
        is_kernel.then_some(Kernel {
            address,
            uuid: self.uuid?,
            platform: self.platform,
            cpu_subtype: self.cpu_subtype,
        })
    }
}

impl Platform {
    /// The meaning of a number in `LC_BUILD_VERSION`.
    fn of(number: macho::Platform) -> Self {
        match number {
            macho::PLATFORM_IOS => Self::Ios,
            macho::PLATFORM_TVOS => Self::TvOs,
            macho::PLATFORM_WATCHOS => Self::WatchOs,
            macho::PLATFORM_BRIDGEOS => Self::BridgeOs,
            macho::PLATFORM_XROS => Self::VisionOs,
            _ => Self::MacOs,
        }
    }

    /// The operating system as LLVM's triples name it.
    #[must_use]
    pub const fn triple(self) -> &'static str {
        match self {
            Self::MacOs => "arm64-apple-macosx",
            Self::Ios => "arm64-apple-ios",
            Self::TvOs => "arm64-apple-tvos",
            Self::WatchOs => "arm64-apple-watchos",
            Self::BridgeOs => "arm64-apple-bridgeos",
            Self::VisionOs => "arm64-apple-xros",
        }
    }
}

fn header(bytes: &[u8]) -> Option<&MachHeader64<LittleEndian>> {
    let header = MachHeader64::<LittleEndian>::parse(bytes, 0).ok()?;
    header.is_little_endian().then_some(header)
}

fn read_exact(view: &dyn VirtualView, address: Gva, buffer: &mut [u8]) -> bool {
    view.read_virtual(address, buffer) == buffer.len()
}

/// Returns the digits of a UUID in groups, as every tool of Darwin shows it.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> alloc::string::String {
    let mut text = alloc::string::String::new();
    let digits: Vec<_> = uuid
        .iter()
        .map(|byte| alloc::format!("{byte:02X}"))
        .collect();
    for (index, pair) in digits.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(pair);
    }
    text
}

#[cfg(test)]
mod tests;
