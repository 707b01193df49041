//! The devices that machines of every architecture have.

mod end;
mod serial;
mod virtio;

pub use end::{End, EndEvents, EndedBy};
pub(crate) use serial::SerialPort;
pub use virtio::DiskError;
pub(crate) use virtio::{Disk, VirtioMmio};
