//! The "newc" cpio archive that Linux unpacks as its first root file system.
//!
//! Written by hand because it is forty lines, needs no program on the host, and can hold device nodes
//! without root. The format is in the kernel's documentation, "initramfs buffer format".

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::MachineError;

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const TYPE_REGULAR: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;

/// An initramfs being put together in memory.
///
/// Paths are absolute. Parent directories appear by themselves, and a path that was added already is
/// left as it is.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<String>,
}

struct Entry<'a> {
    path: &'a str,
    mode: u32,
    device: (u32, u32),
    content: &'a [u8],
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file with the permission bits `permissions`.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, TYPE_REGULAR | permissions, (0, 0), content);
    }

    /// Adds a file of this computer with its content and permission bits.
    ///
    /// # Errors
    /// [`MachineError::File`] when it cannot be read.
    pub fn host_file(&mut self, path: &str, source: &Path) -> Result<(), MachineError> {
        let content = fs::read(source).map_err(MachineError::file(source))?;
        let metadata = fs::metadata(source).map_err(MachineError::file(source))?;
        self.file(path, metadata.permissions().mode() & 0o777, &content);
        Ok(())
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, TYPE_DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, TYPE_SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, TYPE_CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// Ends the archive and yields its bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let trailer = Entry {
            path: "TRAILER!!!",
            mode: 0,
            device: (0, 0),
            content: &[],
        };
        write_entry(&mut self.bytes, 0, &trailer);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let path = path.trim_matches('/');
        if path.is_empty() || !self.paths.insert(path.to_owned()) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        let inode = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        write_entry(
            &mut self.bytes,
            inode,
            &Entry {
                path,
                mode,
                device,
                content,
            },
        );
    }
}

/// Appends one member: thirteen numbers of eight hexadecimal digits after the magic, the name with its
/// NUL, padding to four bytes, the content, padding to four bytes.
fn write_entry(out: &mut Vec<u8>, inode: u32, entry: &Entry<'_>) {
    let links = if entry.mode & TYPE_DIRECTORY == TYPE_DIRECTORY {
        2
    } else {
        1
    };
    // Linux refuses a member of 4 GiB, and so does this format: its length has 32 bits.
    let length = u32::try_from(entry.content.len()).unwrap_or(u32::MAX);
    let name_length = u32::try_from(entry.path.len() + 1).unwrap_or(u32::MAX);
    let fields = [
        inode,
        entry.mode,
        0,
        0,
        links,
        0,
        length,
        0,
        0,
        entry.device.0,
        entry.device.1,
        name_length,
        0,
    ];
    // Writing to a vector does not fail.
    let _: io::Result<()> = (|| {
        out.write_all(b"070701")?;
        for field in fields {
            write!(out, "{field:08x}")?;
        }
        out.write_all(entry.path.as_bytes())?;
        out.write_all(&[0])
    })();
    pad(out);
    out.extend_from_slice(entry.content);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<String> {
        let number = |at: usize| -> usize {
            let digits = core::str::from_utf8(&bytes[at..at + 8]).unwrap();
            usize::from_str_radix(digits, 16).unwrap()
        };
        let mut at = 0;
        let mut names = Vec::new();
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (length, name_length) = (number(at + 54), number(at + 94));
            let name = &bytes[at + 110..at + 110 + name_length - 1];
            names.push(String::from_utf8(name.to_vec()).unwrap());
            at = (at + 110 + name_length).next_multiple_of(4);
            at = (at + length).next_multiple_of(4);
        }
        names
    }

    #[test]
    fn parents_come_first_and_only_once() {
        let mut archive = Archive::new();
        archive.file("/a/b/c", 0o644, b"hello");
        archive.file("/a/b/d", 0o644, b"");
        archive.symlink("/a/e", "b/c");
        let names = names(&archive.finish());
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/b/d", "a/e", "TRAILER!!!"]);
    }

    #[test]
    fn a_path_is_added_once() {
        let mut archive = Archive::new();
        archive.file("/x", 0o644, b"first");
        archive.file("/x", 0o644, b"second");
        let bytes = archive.finish();
        assert_eq!(names(&bytes), ["x", "TRAILER!!!"]);
        assert!(!bytes.windows(6).any(|window| window == b"second"));
    }

    #[test]
    fn a_device_has_its_numbers() {
        let mut archive = Archive::new();
        archive.character_device("/console", 5, 1);
        let bytes = archive.finish();
        assert_eq!(&bytes[78..94], b"0000000500000001");
        assert_eq!(&bytes[14..22], b"00002180");
    }
}
