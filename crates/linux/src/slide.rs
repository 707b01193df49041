//! What a user's own `vmlinux` needs to be told: how far the kernel was moved.

use alloc::string::String;

use trapline_arch::Gva;

use crate::kallsyms::Kallsyms;
use crate::memory::VirtualMemory;
use crate::vmcoreinfo::VmcoreInfo;

/// The longest banner that is read, in bytes.
const MAX_BANNER_BYTES: usize = 512;

/// Where KASLR put the kernel image.
///
/// With a file that was linked to fixed addresses, GDB takes it as
/// `symbol-file vmlinux -o KERNEL_OFFSET`, LLDB as `target modules load --file vmlinux --slide
/// KERNEL_OFFSET`, and the reply to `qOffsets` as `TextSeg=TEXT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide {
    /// How far every address of the image is above the one it was linked to, in bytes.
    pub kernel_offset: u64,
    /// The run-time address of `_text`, the image's first byte, or of `_stext` where the symbols
    /// are not known. They differ on AArch64 and on kernels with a separate head.
    pub text: Gva,
}

impl Slide {
    /// Takes the slide from VMCOREINFO, and `_text` from the symbols if there are some.
    #[must_use]
    pub fn new(info: &VmcoreInfo, symbols: Option<&Kallsyms>) -> Option<Self> {
        let named = symbols.and_then(|symbols| symbols.first_by_name("_text"));
        let text = named
            .map(|symbol| symbol.address)
            .or_else(|| info.symbol("_stext"))?;
        Some(Self {
            kernel_offset: info.kernel_offset(),
            text,
        })
    }

    /// Returns the address that `text` was linked to.
    #[must_use]
    pub const fn linked_text(&self) -> Gva {
        Gva(self.text.0.wrapping_sub(self.kernel_offset))
    }
}

/// Reads the kernel's banner, `Linux version …`, of which at most 511 bytes are taken.
///
/// Returns `None` where `linux_banner` is no known symbol (a kernel without
/// `CONFIG_KALLSYMS_ALL`), cannot be read or is no such text.
#[must_use]
pub fn read_banner(memory: &dyn VirtualMemory, symbols: &Kallsyms) -> Option<String> {
    let address = symbols.first_by_name("linux_banner")?.address;
    let mut buffer = [0; MAX_BANNER_BYTES];
    let count = memory.read_virtual(address, &mut buffer).min(buffer.len());
    let text = buffer
        .get(..count)?
        .split(|byte| matches!(byte, 0 | b'\n'))
        .next()?;
    let banner = str::from_utf8(text).ok()?;
    let plain = banner.chars().all(|character| !character.is_control());
    (plain && banner.starts_with("Linux version ")).then(|| banner.into())
}
