//! The guest that is appended to a hypervisor's image.
//!
//! ```text
//!  offset  size
//!  0       8     "TRAPBNDL"
//!  8       4     version, 1
//!  12      4     CRC-32 (IEEE) of everything from byte 16 on
//!  16      8     length of the bundle in bytes
//!  24      24×n  a row for each part: kind (4), reserved (4), offset (8), length (8);
//!                kind 0 ends the rows
//!  …             the parts, each at a multiple of 4096
//! ```
//!
//! All numbers are little-endian, offsets from the bundle's first byte.

use alloc::vec::Vec;

use thiserror::Error;

const MAGIC: [u8; 8] = *b"TRAPBNDL";
const VERSION: u32 = 1;
const ROWS: usize = 24;
const ROW_BYTES: usize = 24;
const CRC_FROM: usize = 16;
const PART_ALIGNMENT: usize = 4096;

/// A part of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Part {
    /// The guest's kernel: an arm64 Linux Image, or what follows the same protocol.
    Kernel = 1,
    /// The initial file system.
    Initrd = 2,
    /// The guest's command line, UTF-8.
    CommandLine = 3,
    /// The hypervisor's own options, UTF-8, words with spaces between.
    Options = 4,
}

/// All kinds of parts.
const PARTS: [Part; 4] = [Part::Kernel, Part::Initrd, Part::CommandLine, Part::Options];

/// Why a bundle cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// There is none behind the image.
    #[error("there is no bundle behind the hypervisor; make one with 'trapline bundle'")]
    Missing,
    /// It is of a later version.
    #[error("the bundle has version {version}, and this hypervisor knows version 1")]
    Version {
        /// The version.
        version: u32,
    },
    /// Its end is missing.
    #[error("the bundle is cut short: {present} of {len_bytes} bytes are there")]
    Cut {
        /// How long it should be.
        len_bytes: u64,
        /// How much there is.
        present: u64,
    },
    /// Its checksum is wrong.
    #[error("the bundle is damaged: its checksum is {found:#010x}, not {expected:#010x}")]
    Damaged {
        /// The checksum in it.
        expected: u32,
        /// The checksum of what is there.
        found: u32,
    },
    /// A row names bytes that are not in it.
    #[error("a part of the bundle lies outside of it")]
    Outside,
}

/// A checked bundle.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
}

impl<'a> Bundle<'a> {
    /// Returns how long the bundle is that begins with `head`, of which 24 bytes are enough.
    ///
    /// # Errors
    /// [`BundleError::Missing`] or [`BundleError::Version`].
    pub fn len_bytes(head: &[u8]) -> Result<u64, BundleError> {
        if head.get(..8) != Some(&MAGIC[..]) {
            return Err(BundleError::Missing);
        }
        match u32_at(head, 8) {
            Some(VERSION) => u64_at(head, 16).ok_or(BundleError::Missing),
            Some(version) => Err(BundleError::Version { version }),
            None => Err(BundleError::Missing),
        }
    }

    /// Checks the bundle that `bytes` begins with.
    ///
    /// # Errors
    /// As [`BundleError`] says.
    pub fn read(bytes: &'a [u8]) -> Result<Self, BundleError> {
        let len_bytes = Self::len_bytes(bytes)?;
        let whole = usize::try_from(len_bytes).ok();
        let Some(bytes) = whole.and_then(|len| bytes.get(..len)) else {
            return Err(BundleError::Cut {
                len_bytes,
                present: bytes.len() as u64,
            });
        };
        let expected = u32_at(bytes, 12).ok_or(BundleError::Outside)?;
        let found = crc32fast::hash(bytes.get(CRC_FROM..).unwrap_or_default());
        if expected != found {
            return Err(BundleError::Damaged { expected, found });
        }
        let bundle = Self { bytes };
        for part in PARTS {
            bundle.find(part)?;
        }
        Ok(bundle)
    }

    /// Returns a part.
    #[must_use]
    pub fn part(&self, part: Part) -> Option<&'a [u8]> {
        self.find(part).ok().flatten()
    }

    /// Returns a part that is text, without white space around it; empty if there is none.
    #[must_use]
    pub fn text(&self, part: Part) -> &'a str {
        let bytes = self.part(part).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default().trim()
    }

    fn find(&self, part: Part) -> Result<Option<&'a [u8]>, BundleError> {
        let rows = self.bytes.get(ROWS..).unwrap_or_default();
        for row in rows.chunks_exact(ROW_BYTES) {
            let kind = u32_at(row, 0).ok_or(BundleError::Outside)?;
            if kind == 0 {
                break;
            }
            if kind != part as u32 {
                continue;
            }
            let place = |at| u64_at(row, at).and_then(|value| usize::try_from(value).ok());
            let (offset, len) = (place(8), place(16));
            let end = offset
                .zip(len)
                .and_then(|(offset, len)| offset.checked_add(len));
            let part = offset
                .zip(end)
                .and_then(|(offset, end)| self.bytes.get(offset..end));
            return part.map(Some).ok_or(BundleError::Outside);
        }
        Ok(None)
    }
}

/// Makes a bundle.
#[must_use]
pub fn write(parts: &[(Part, &[u8])]) -> Vec<u8> {
    let rows_end = ROWS.saturating_add(ROW_BYTES.saturating_mul(parts.len().saturating_add(1)));
    let mut bytes = alloc::vec![0; rows_end];
    let mut rows = Vec::new();
    for (part, content) in parts {
        bytes.resize(bytes.len().next_multiple_of(PART_ALIGNMENT), 0);
        rows.extend_from_slice(&u64::from(*part as u32).to_le_bytes());
        rows.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        rows.extend_from_slice(&(content.len() as u64).to_le_bytes());
        bytes.extend_from_slice(content);
    }
    bytes.resize(bytes.len().next_multiple_of(PART_ALIGNMENT), 0);
    let len_bytes = bytes.len() as u64;
    put(&mut bytes, 0, &MAGIC);
    put(&mut bytes, 8, &VERSION.to_le_bytes());
    put(&mut bytes, 16, &len_bytes.to_le_bytes());
    put(&mut bytes, ROWS, &rows);
    let crc = crc32fast::hash(bytes.get(CRC_FROM..).unwrap_or_default());
    put(&mut bytes, 12, &crc.to_le_bytes());
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let end = at.saturating_add(value.len());
    if let Some(place) = bytes.get_mut(at..end) {
        place.copy_from_slice(value);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        write(&[
            (Part::Kernel, &[7; 5000]),
            (Part::CommandLine, b" console=ttyAMA0 \n"),
        ])
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = sample();
        let bundle = Bundle::read(&bytes).unwrap();
        assert_eq!(bundle.part(Part::Kernel), Some(&[7; 5000][..]));
        assert_eq!(bundle.text(Part::CommandLine), "console=ttyAMA0");
        assert_eq!(bundle.part(Part::Initrd), None);
        assert_eq!(bundle.text(Part::Options), "");
        // What the loader has put behind it does not matter.
        let longer = [bytes.as_slice(), &[1; 100]].concat();
        assert!(Bundle::read(&longer).is_ok());
    }

    #[test]
    fn a_bundle_cut_anywhere_is_refused() {
        let bytes = sample();
        for len in 0..bytes.len() {
            let error = Bundle::read(&bytes[..len]).unwrap_err();
            assert!(
                matches!(error, BundleError::Missing | BundleError::Cut { .. }),
                "{len}: {error}"
            );
        }
    }

    #[test]
    fn a_changed_byte_is_noticed_anywhere() {
        let bytes = sample();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert!(Bundle::read(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn rows_that_lead_outside_are_refused() {
        for (at, value) in [
            (ROWS + 8, u64::MAX),
            (ROWS + 16, u64::MAX),
            (ROWS + 8, 1 << 20),
        ] {
            let mut bytes = sample();
            put(&mut bytes, at, &value.to_le_bytes());
            let crc = crc32fast::hash(&bytes[CRC_FROM..]);
            put(&mut bytes, 12, &crc.to_le_bytes());
            assert_eq!(Bundle::read(&bytes).unwrap_err(), BundleError::Outside);
        }
    }
}
