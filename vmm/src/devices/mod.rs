//! The machine's devices and the bus that leads to them.

mod bus;
mod end;
mod power;
mod serial;
mod virtio;

pub use bus::Devices;
pub use end::{End, EndEvents, EndedBy};
pub(crate) use power::PowerRegisters;
pub(crate) use serial::SerialPort;
pub use virtio::DiskError;
pub(crate) use virtio::{Disk, VirtioMmio};
