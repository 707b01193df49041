//! What the hypervisor has to say: on the guest's console while it boots and when it fails.

use core::fmt::{self, Write};

use spin::Mutex;
use trapline_hypervisor::uart::Uart;

use super::mmio::UartRegisters;

/// The longest that a byte waits for room.
const PATIENCE: u32 = 1_000_000;

static CONSOLE: Mutex<Option<Uart<UartRegisters>>> = Mutex::new(None);

/// Takes the port that messages go to.
pub(super) fn set(uart: Uart<UartRegisters>) {
    *CONSOLE.lock() = Some(uart);
}

/// Writes no messages any more: the port is for something else.
pub(super) fn give_up() {
    *CONSOLE.lock() = None;
}

struct Writer<'a>(&'a mut Uart<UartRegisters>);

impl Writer<'_> {
    fn put(&mut self, byte: u8) {
        let mut patience = PATIENCE;
        while self.0.send(&[byte]) == 0 && patience > 0 {
            patience -= 1;
        }
    }
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
        Ok(())
    }
}

/// Writes a line.
pub(super) fn line(text: fmt::Arguments<'_>) {
    if let Some(uart) = CONSOLE.lock().as_mut() {
        // A line that cannot be written has nowhere else to go.
        let _ = writeln!(Writer(uart), "trapline: {text}");
    }
}

/// Writes a line like `println!`.
macro_rules! say {
    ($($text:tt)+) => { $crate::machine::console::line(format_args!($($text)+)) };
}
pub(super) use say;
