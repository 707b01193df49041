//! Which address leads to which device.

use std::sync::{Mutex, MutexGuard, PoisonError};

use trapline_engine::GuestEnd;
use vm_superio::{I8042Device, Trigger};

use super::layout::{
    DEBUG_EXIT_PORT, KEYBOARD_PORT, PM_TIMER_PORT, PM1_CONTROL_PORT, PM1_EVENT_PORT, RESET_PORT,
    SERIAL_PORT, VIRTIO_MMIO, VIRTIO_MMIO_BYTES,
};
use super::power::{PowerRegisters, reset_control};
use crate::devices::{EndEvents, EndedBy, SerialPort, VirtioMmio};

/// Distance of the keyboard controller's command port from its data port.
const KEYBOARD_COMMAND: u16 = 4;
/// Ports of a 16550.
const SERIAL_PORTS: u16 = 8;

/// The devices of a machine, as its vCPUs reach them.
///
/// Addresses without a device read as ones and swallow what is written.
#[derive(Debug)]
pub struct Devices {
    serial: SerialPort,
    power: Mutex<PowerRegisters>,
    keyboard: Mutex<I8042Device<ResetLine>>,
    disks: Vec<VirtioMmio>,
    end: EndEvents,
}

/// The keyboard controller's wire to the processor's reset.
#[derive(Debug)]
struct ResetLine(EndEvents);

impl Trigger for ResetLine {
    type E = core::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.set(GuestEnd::Reset, None, EndedBy::Guest);
        Ok(())
    }
}

impl Devices {
    pub(crate) fn new(serial: SerialPort, disks: Vec<VirtioMmio>, end: EndEvents) -> Self {
        Self {
            serial,
            power: Mutex::new(PowerRegisters::new()),
            keyboard: Mutex::new(I8042Device::new(ResetLine(end.clone()))),
            disks,
            end,
        }
    }

    /// Answers a read of 1, 2 or 4 bytes from a port.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            SERIAL_PORT..0x400 => {
                // A wider access reads one port after the other.
                for (offset, byte) in (port - SERIAL_PORT..SERIAL_PORTS).zip(data) {
                    *byte = self.serial.read(low_byte(offset.into()));
                }
            }
            PM1_EVENT_PORT..PM1_CONTROL_PORT => {
                copy_from(
                    data,
                    &self.power().events().to_le_bytes(),
                    port - PM1_EVENT_PORT,
                );
            }
            PM1_CONTROL_PORT | 0x605 => {
                copy_from(
                    data,
                    &self.power().control().to_le_bytes(),
                    port - PM1_CONTROL_PORT,
                );
            }
            PM_TIMER_PORT => copy_from(data, &self.power().timer().to_le_bytes(), 0),
            KEYBOARD_PORT | 0x64 => {
                let offset = low_byte((port - KEYBOARD_PORT).into());
                copy_from(data, &[lock(&self.keyboard).read(offset)], 0);
            }
            _ => {}
        }
    }

    /// Takes a write of 1, 2 or 4 bytes to a port, and says whether that ends the guest.
    pub fn pio_write(&self, port: u16, data: &[u8]) -> Option<GuestEnd> {
        let first = data.first().copied().unwrap_or(0);
        match port {
            SERIAL_PORT..0x400 => {
                for (offset, byte) in (port - SERIAL_PORT..SERIAL_PORTS).zip(data) {
                    self.serial.write(low_byte(offset.into()), *byte);
                }
                None
            }
            PM1_CONTROL_PORT => {
                let end = self.power().set_control(word(data));
                self.ended(end, None)
            }
            0x602 => {
                self.power().set_enable(word(data));
                None
            }
            RESET_PORT => self.ended(reset_control(first), None),
            DEBUG_EXIT_PORT => self.ended(Some(GuestEnd::PowerOff), Some(first)),
            0x64 => {
                let Ok(()) = lock(&self.keyboard).write(low_byte(KEYBOARD_COMMAND.into()), first);
                self.end.end().map(|end| end.end)
            }
            _ => None,
        }
    }

    /// Answers a read of 1 to 8 bytes from an address without memory.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.disk(address) {
            Some((disk, offset)) => disk.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Takes a write of 1 to 8 bytes to an address without memory.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((disk, offset)) = self.disk(address) {
            disk.write(offset, data);
        }
    }

    /// Returns the disk in whose window an address is, and the offset in it.
    fn disk(&self, address: u64) -> Option<(&VirtioMmio, u64)> {
        let from_first = address.checked_sub(VIRTIO_MMIO)?;
        let index = usize::try_from(from_first / VIRTIO_MMIO_BYTES).ok()?;
        Some((self.disks.get(index)?, from_first % VIRTIO_MMIO_BYTES))
    }

    /// Notes the end of the guest, if it is one.
    fn ended(&self, end: Option<GuestEnd>, status: Option<u8>) -> Option<GuestEnd> {
        if let Some(end) = end {
            self.end.set(end, status, EndedBy::Guest);
        }
        end
    }

    fn power(&self) -> MutexGuard<'_, PowerRegisters> {
        lock(&self.power)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies the bytes of a register from `offset` on; what is past its end stays.
fn copy_from(data: &mut [u8], register: &[u8], offset: u16) {
    for (to, from) in data.iter_mut().zip(register.iter().skip(offset.into())) {
        *to = *from;
    }
}

/// Returns the value of a write of up to 16 bits.
fn word(data: &[u8]) -> u16 {
    let byte = |at: usize| data.get(at).copied().unwrap_or(0);
    u16::from_le_bytes([byte(0), byte(1)])
}

/// Returns a port's distance, which is below 8.
fn low_byte(offset: u32) -> u8 {
    u8::try_from(offset).unwrap_or(0)
}
