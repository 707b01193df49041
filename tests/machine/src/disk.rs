//! A guest's root file system on a disk.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use crate::{Environment, MachineError};

/// Room for busybox, the data and the file system's own.
const SIZE: &str = "16M";
/// What the first process on the disk uses of busybox.
const APPLETS: [&str; 6] = ["dd", "grep", "mount", "sha256sum", "sh", "sync"];

/// Makes a disk of 16 MiB at `path`: an ext4 file system with a root for the guest of
/// [`crate::guest_initramfs`] with `trapline.guest=root`, and `data` (at most 8 MiB) as its file `/data`.
///
/// On its console the guest then says `trapline-disk: up from …`, and `trapline-disk: turn N, HASH  /data` for
/// ever, where HASH is the SHA-256 of the data as read from the disk anew. In each turn it also writes
/// `written in turn N` to sector 1 of its second disk, if it has one, and says
/// `trapline-disk: / cannot be written` or `vdb cannot be written` if so.
///
/// # Errors
/// Those of [`Environment::mke2fs`] and [`Environment::busybox`], [`MachineError::File`] when a file cannot be
/// written, and [`MachineError::Program`] when mke2fs fails.
pub fn guest_disk(environment: &Environment, data: &[u8], path: &Path) -> Result<(), MachineError> {
    let root = tempfile::tempdir()?;
    fill(root.path(), environment.busybox()?, data).map_err(MachineError::file(root.path()))?;
    let output = Command::new(environment.mke2fs()?)
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .arg(root.path())
        .arg(path)
        .arg(SIZE)
        .output()?;
    if !output.status.success() {
        return Err(MachineError::Program {
            program: "mke2fs".to_owned(),
            reason: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(())
}

fn fill(root: &Path, busybox: &Path, data: &[u8]) -> std::io::Result<()> {
    for directory in ["bin", "dev", "proc"] {
        fs::create_dir(root.join(directory))?;
    }
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("data"), data)?;
    fs::write(root.join("init"), include_bytes!("disk-init.sh"))?;
    fs::set_permissions(root.join("init"), Permissions::from_mode(0o755))
}
