//! Which address leads to which device.

use trapline_engine::GuestEnd;

use super::layout::{DEBUG_EXIT, DEBUG_EXIT_BYTES, SERIAL, VIRTIO_MMIO, VIRTIO_MMIO_BYTES};
use crate::devices::{EndEvents, EndedBy, SerialPort, VirtioMmio};

/// Registers of a 16550.
const SERIAL_REGISTERS: u64 = 8;

/// The devices of a machine, as its vCPUs reach them.
///
/// Addresses without a device read as ones and swallow what is written.
#[derive(Debug)]
pub struct Devices {
    serial: SerialPort,
    disks: Vec<VirtioMmio>,
    end: EndEvents,
}

impl Devices {
    pub(crate) fn new(serial: SerialPort, disks: Vec<VirtioMmio>, end: EndEvents) -> Self {
        Self { serial, disks, end }
    }

    /// Answers a read of 1 to 8 bytes from an address without memory.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        if let Some((disk, offset)) = self.disk(address) {
            disk.read(offset, data);
            return;
        }
        data.fill(0xff);
        if let Some(offset) = serial_register(address) {
            // A register is a byte; what is read beside it are the reserved bits of a wider one.
            data.fill(0);
            if let Some(first) = data.first_mut() {
                *first = self.serial.read(offset);
            }
        }
    }

    /// Takes a write of 1 to 8 bytes to an address without memory.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        let first = data.first().copied().unwrap_or(0);
        if let Some((disk, offset)) = self.disk(address) {
            disk.write(offset, data);
        } else if let Some(offset) = serial_register(address) {
            self.serial.write(offset, first);
        } else if (DEBUG_EXIT..DEBUG_EXIT + DEBUG_EXIT_BYTES).contains(&address) {
            self.end
                .set(GuestEnd::PowerOff, Some(first), EndedBy::Guest);
        }
    }

    /// Answers a read from a port: this architecture has none.
    pub fn pio_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }

    /// Takes a write to a port: this architecture has none, so that it ends nothing.
    pub fn pio_write(&self, _: u16, _: &[u8]) -> Option<GuestEnd> {
        None
    }

    /// Returns the disk in whose window an address is, and the offset in it.
    fn disk(&self, address: u64) -> Option<(&VirtioMmio, u64)> {
        let from_first = address.checked_sub(VIRTIO_MMIO)?;
        let index = usize::try_from(from_first / VIRTIO_MMIO_BYTES).ok()?;
        Some((self.disks.get(index)?, from_first % VIRTIO_MMIO_BYTES))
    }
}

/// Returns the serial port's register at an address.
fn serial_register(address: u64) -> Option<u8> {
    let offset = address.checked_sub(SERIAL)?;
    u8::try_from(offset)
        .ok()
        .filter(|offset| u64::from(*offset) < SERIAL_REGISTERS)
}
