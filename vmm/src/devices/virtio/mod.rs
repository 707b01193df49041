//! A virtio block device behind the MMIO transport.

mod block;
mod disk;
mod mmio;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use disk::Disk;
pub use disk::DiskError;
pub(crate) use mmio::VirtioMmio;
