//! The VMCOREINFO text: `KEY=value` lines with which a kernel describes itself to crash dump tools.
//!
//! Source: Linux, `Documentation/admin-guide/kdump/vmcoreinfo.rst`. The kernel fills the text in
//! late in its start (`subsys_initcall`); until then only the templates of its lines, with `%lx` in
//! place of values, are in memory.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use core::fmt;

use trapline_arch::{Gva, PhysicalMemory};

use crate::memory::{ImageMapping, ImageMemory, VirtualMemory, read_exact};

/// The most text that is read, in bytes: the kernel's own buffer is one page.
pub(crate) const MAX_TEXT_BYTES: usize = 4096;

/// Where the x86-64 kernel image is linked to, less its physical base (Linux
/// `Documentation/arch/x86/x86_64/mm.rst`).
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// The longest the x86-64 kernel image's mapping can be: modules begin behind it.
const MAX_KERNEL_IMAGE_BYTES: u64 = 1 << 30;
/// How far before and behind `_stext` an AArch64 image may reach.
const AARCH64_IMAGE_REACH_BYTES: u64 = 256 << 20;
/// `struct new_utsname`: `sysname`, `nodename`, `release`…, each of 65 bytes.
const UTS_FIELD_BYTES: u64 = 65;

/// What a Linux kernel says of itself in VMCOREINFO.
///
/// The text is kept as it was, at most 4 KiB, and its lines are looked up when asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct VmcoreInfo {
    text: Box<str>,
}

impl VmcoreInfo {
    /// Reads the text, which ends at its first NUL byte, or else at its last full line.
    ///
    /// # Errors
    ///
    /// `NotText` if there are other than printable ASCII characters, `Template` if it is the
    /// unfilled template, `Missing` if a key that every kernel writes is absent, `Bad` if such a
    /// key's value cannot be.
    pub fn parse(bytes: &[u8]) -> Result<Self, VmcoreInfoError> {
        let bytes = bytes.get(..MAX_TEXT_BYTES).unwrap_or(bytes);
        let end = match bytes.iter().position(|byte| *byte == 0) {
            Some(nul) => nul,
            None => bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0),
        };
        let bytes = bytes.get(..end).unwrap_or_default();
        if !bytes.iter().all(|byte| matches!(byte, b'\n' | b' '..=b'~')) {
            return Err(VmcoreInfoError::NotText);
        }
        let text = str::from_utf8(bytes).map_err(|_| VmcoreInfoError::NotText)?;
        let info = Self { text: text.into() };
        info.check()?;
        Ok(info)
    }

    fn check(&self) -> Result<(), VmcoreInfoError> {
        let release = self
            .value("OSRELEASE")
            .ok_or(VmcoreInfoError::Missing("OSRELEASE"))?;
        if release.starts_with('%') {
            return Err(VmcoreInfoError::Template);
        }
        if release.is_empty() || release.contains('%') {
            return Err(VmcoreInfoError::Bad("OSRELEASE"));
        }
        let page_size = self
            .value("PAGESIZE")
            .ok_or(VmcoreInfoError::Missing("PAGESIZE"))?;
        if !page_size
            .parse()
            .is_ok_and(|size: u64| matches!(size, 0x1000 | 0x4000 | 0x1_0000))
        {
            return Err(VmcoreInfoError::Bad("PAGESIZE"));
        }
        for name in ["_stext", "init_uts_ns"] {
            let address = self.symbol(name).ok_or(VmcoreInfoError::Missing(name))?;
            if !is_kernel_address(address) {
                return Err(VmcoreInfoError::Bad(name));
            }
        }
        Ok(())
    }

    /// Returns the whole text, of lines `KEY=value`.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the value of the first line whose key is `key`, such as `SYMBOL(_stext)`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    /// Returns the kernel's release, as `uname -r` shows it: never empty.
    #[must_use]
    pub fn os_release(&self) -> &str {
        self.value("OSRELEASE").unwrap_or_default()
    }

    /// Returns the GNU build identifier of `vmlinux` in hexadecimal digits, since Linux 5.9.
    #[must_use]
    pub fn build_id(&self) -> Option<&str> {
        self.value("BUILD-ID")
    }

    /// Returns the size of a page in bytes: 4, 16 or 64 KiB.
    #[must_use]
    pub fn page_size(&self) -> u64 {
        self.value("PAGESIZE")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0x1000)
    }

    /// Returns the KASLR slide: how far the image's virtual addresses are above those it was
    /// linked to.
    ///
    /// It is zero for a kernel that does not say, which then was not moved.
    #[must_use]
    pub fn kernel_offset(&self) -> u64 {
        self.value("KERNELOFFSET").and_then(parse_hex).unwrap_or(0)
    }

    /// Returns `phys_base` of an x86-64 kernel: the image's physical place less the one it was
    /// linked to. It may be negative.
    #[must_use]
    pub fn phys_base(&self) -> Option<i64> {
        self.number("phys_base")
    }

    /// Returns whether an x86-64 kernel runs with 5-level paging, if it says.
    #[must_use]
    pub fn pgtable_l5_enabled(&self) -> Option<bool> {
        self.number("pgtable_l5_enabled").map(|value| value != 0)
    }

    /// Returns the run-time address of a symbol that the text names.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<Gva> {
        self.in_brackets("SYMBOL", name)
            .and_then(parse_hex)
            .map(Gva)
    }

    /// Returns a `NUMBER`, decimal or, after `0x`, hexadecimal modulo 2^64.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<i64> {
        let value = self.in_brackets("NUMBER", name)?;
        match value.strip_prefix("0x") {
            Some(digits) => parse_hex(digits).map(u64::cast_signed),
            None => value.parse().ok(),
        }
    }

    /// Returns the number of elements of an array, a `LENGTH`.
    #[must_use]
    pub fn length(&self, name: &str) -> Option<u64> {
        self.in_brackets("LENGTH", name)?.parse().ok()
    }

    /// Returns the size of a type in bytes, a `SIZE`.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.in_brackets("SIZE", name)?.parse().ok()
    }

    /// Returns the offset of a member in bytes, an `OFFSET`, named as in `page.flags`.
    #[must_use]
    pub fn offset(&self, member: &str) -> Option<u64> {
        self.in_brackets("OFFSET", member)?.parse().ok()
    }

    fn in_brackets(&self, kind: &str, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let name_and_value = line.strip_prefix(kind)?.strip_prefix('(')?;
            name_and_value.strip_prefix(name)?.strip_prefix(")=")
        })
    }

    /// Returns where the kernel image is in physical memory, or `None` if the text does not tell.
    #[must_use]
    pub fn image_mapping(&self) -> Option<ImageMapping> {
        if let Some(phys_base) = self.phys_base() {
            let said = self
                .number("KERNEL_IMAGE_SIZE")
                .map_or(0, i64::cast_unsigned);
            let len_bytes = if (1..=MAX_KERNEL_IMAGE_BYTES).contains(&said) {
                said
            } else {
                MAX_KERNEL_IMAGE_BYTES
            };
            let distance = START_KERNEL_MAP.wrapping_sub(phys_base.cast_unsigned());
            return Some(ImageMapping::new(
                Gva(START_KERNEL_MAP),
                len_bytes,
                distance,
            ));
        }
        let distance = self.number("kimage_voffset")?.cast_unsigned();
        let first = self
            .symbol("_stext")?
            .0
            .saturating_sub(AARCH64_IMAGE_REACH_BYTES);
        let len_bytes = AARCH64_IMAGE_REACH_BYTES.saturating_mul(2);
        Some(ImageMapping::new(Gva(first), len_bytes, distance))
    }

    /// Checks that the kernel described is in memory: that the release string in its
    /// `init_uts_ns`, read through [`image_mapping`](Self::image_mapping), is the text's.
    ///
    /// A guest that was reset leaves the text of its former life behind, with another slide.
    /// Returns `true` where the text does not tell enough to check it.
    #[must_use]
    pub fn agrees_with(&self, memory: &dyn PhysicalMemory) -> bool {
        match self.image_mapping() {
            Some(mapping) => self.is_in_force(&ImageMemory::new(memory, mapping)),
            None => true,
        }
    }

    /// Checks the same through a vCPU's page tables, which tells that this kernel is the one that
    /// runs there.
    ///
    /// Early in a guest's second life the whole image of the first may still be in memory, so that
    /// [`agrees_with`](Self::agrees_with) cannot tell them apart. The vCPU must not be in user mode
    /// with page-table isolation, where the kernel's data is not mapped.
    #[must_use]
    pub fn is_in_force(&self, memory: &dyn VirtualMemory) -> bool {
        let Some(name_offset) = self.offset("uts_namespace.name") else {
            return true;
        };
        let address = name_offset
            .checked_add(UTS_FIELD_BYTES.saturating_mul(2))
            .and_then(|offset| self.symbol("init_uts_ns")?.checked_add(offset));
        let Some(address) = address else { return false };
        // The field may end at a page that is not mapped; only its text must be readable.
        let mut field = [0_u8; 65];
        let wanted = self.os_release().len().saturating_add(1);
        let Some(field) = field.get_mut(..wanted) else {
            return false;
        };
        let found = read_exact(memory, address, field);
        found && field.strip_suffix(b"\0") == Some(self.os_release().as_bytes())
    }
}

impl fmt::Debug for VmcoreInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmcoreInfo")
            .field("os_release", &self.os_release())
            .field(
                "kernel_offset",
                &format_args!("{:#x}", self.kernel_offset()),
            )
            .field("text_bytes", &self.text.len())
            .finish()
    }
}

/// Why a text is not VMCOREINFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmcoreInfoError {
    /// There are characters in it that the kernel does not write.
    #[error("not printable text")]
    NotText,
    /// It is a template, with `%s` in place of a value.
    #[error("the unfilled template of the text")]
    Template,
    /// A key that every kernel writes is absent.
    #[error("no {0} in the text")]
    Missing(&'static str),
    /// The value of the key cannot be.
    #[error("impossible value of {0}")]
    Bad(&'static str),
}

/// Whether the address is canonical (for 48 or 57 bits) and in the kernel's half.
pub(crate) const fn is_kernel_address(address: Gva) -> bool {
    address.0 >> 56 == 0xff
}

fn parse_hex(digits: &str) -> Option<u64> {
    // `from_str_radix` takes a sign, which the kernel never writes here.
    let plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    plain
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}
