//! Serial lines.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::termios::{self, ControlModes, OptionalActions};

/// Opens a serial device in raw mode. A character device that is no terminal, such as a virtio
/// port, is used as it is.
pub(crate) fn open(path: &Path, baud: u32) -> io::Result<File> {
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    if termios::isatty(&file) {
        let mut settings = termios::tcgetattr(&file)?;
        settings.make_raw();
        settings.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        settings.control_modes -= ControlModes::CRTSCTS;
        settings.set_speed(baud)?;
        termios::tcsetattr(&file, OptionalActions::Flush, &settings)?;
    }
    Ok(file)
}
