//! The file behind a disk.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, FileTypeExt},
    path::Path,
};

use std::io::{Seek, SeekFrom};

/// Bytes of a sector, in which virtio counts.
pub(super) const SECTOR_BYTES: u64 = 512;

/// Why a disk could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The file could not be opened or examined.
    #[error("cannot open it")]
    Io(#[from] io::Error),
    /// It is neither a file nor a block device.
    #[error("it is neither a regular file nor a block device")]
    NotADisk,
    /// The file is too small to hold a sector.
    #[error("it has {0} bytes, less than one sector of 512")]
    TooSmall(u64),
    /// Another machine uses the file.
    #[error("another virtual machine uses it")]
    InUse,
    /// The host refused an event or a thread.
    #[error("the host refused {0}")]
    Host(&'static str, #[source] io::Error),
    /// KVM refused an event.
    #[error("KVM refused {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
}

/// A file used as a disk.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    id: [u8; 20],
}

impl Disk {
    /// Opens the file at `path`: for reading only if it may not be written. A writable file is locked
    /// against other machines, and a read-only one against writers.
    ///
    /// A last part of less than a sector is not visible to the guest.
    pub(crate) fn open(path: &Path) -> Result<Self, DiskError> {
        let (mut file, read_only) = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => (file, false),
            Err(error) if may_only_read(&error) => (File::open(path)?, true),
            Err(error) => return Err(error.into()),
        };
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::NotADisk);
        }
        let locked = if read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse),
            // File systems without locks are used without them.
            Err(TryLockError::Error(_)) => {}
        }
        let len_bytes = file.seek(SeekFrom::End(0))?;
        if len_bytes < SECTOR_BYTES {
            return Err(DiskError::TooSmall(len_bytes));
        }
        let mut id = [0; 20];
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        for (to, from) in id.iter_mut().zip(name) {
            *to = *from;
        }
        Ok(Self {
            file,
            sectors: len_bytes / SECTOR_BYTES,
            read_only,
            id,
        })
    }

    pub(super) const fn sectors(&self) -> u64 {
        self.sectors
    }

    pub(super) const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns the identification, which is the start of the file's name.
    pub(super) const fn id(&self) -> [u8; 20] {
        self.id
    }

    /// Returns the byte offset of `len_bytes` from `sector` on, if all of them are on the disk.
    pub(super) fn offset(&self, sector: u64, len_bytes: u64) -> Option<u64> {
        let start = sector.checked_mul(SECTOR_BYTES)?;
        let end = start.checked_add(len_bytes)?;
        (end <= self.sectors * SECTOR_BYTES).then_some(start)
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    pub(super) fn write(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffer, offset)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn may_only_read(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}
