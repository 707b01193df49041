//! The serial port: vm-superio's 16550 between the guest's ports and the console's threads.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vm_superio::{Serial, Trigger, serial::SerialEvents};
use vmm_sys_util::eventfd::EventFd;

use crate::{console::Output, event::Event};

/// An interrupt line of the guest.
#[derive(Debug)]
pub(crate) struct InterruptLine(pub(crate) EventFd);

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the console that the guest has read all input, so that more fits.
#[derive(Debug)]
pub(crate) struct InputTaken(pub(crate) Event);

impl SerialEvents for InputTaken {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.0.set();
    }
}

type Uart = Serial<InterruptLine, InputTaken, Output>;

/// The first serial port, shared by vCPUs and the console.
#[derive(Clone, Debug)]
pub(crate) struct SerialPort {
    uart: Arc<Mutex<Uart>>,
}

impl SerialPort {
    pub(crate) fn new(interrupt: EventFd, input_taken: Event, output: Output) -> Self {
        let uart = Serial::with_events(InterruptLine(interrupt), InputTaken(input_taken), output);
        Self {
            uart: Arc::new(Mutex::new(uart)),
        }
    }

    pub(crate) fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    pub(crate) fn write(&self, offset: u8, value: u8) {
        // A byte that the console has no room for is lost, as on a line without flow control.
        let _ = self.lock().write(offset, value);
    }

    /// Gives input to the guest and returns how many bytes it has room for.
    pub(crate) fn receive(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let room = uart.fifo_capacity().min(bytes.len());
        match bytes.get(..room) {
            // An error means that the interrupt was not raised; the bytes are there for a guest that polls.
            Some(some) if room > 0 => uart.enqueue_raw_bytes(some).unwrap_or(room),
            _ => 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
