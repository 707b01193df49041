//! What the hypervisor has to say: on the guest's console while it boots and when it fails, and always in
//! its log.

use alloc::string::String;
use core::fmt::{self, Write};

use trapline_hypervisor::log::Log;
use trapline_hypervisor::uart::Uart;

use super::lock::Lock;
use super::mmio::UartRegisters;

/// The longest that a byte waits for room.
const PATIENCE: u32 = 1_000_000;

static CONSOLE: Lock<Console> = Lock::new(Console {
    uart: None,
    log: Log::new(),
});

struct Console {
    uart: Option<Uart<UartRegisters>>,
    log: Log,
}

/// Takes the port that messages go to.
pub(super) fn set(uart: Uart<UartRegisters>) {
    CONSOLE.lock().uart = Some(uart);
}

/// Writes no messages any more: the port is for something else.
pub(super) fn give_up() {
    CONSOLE.lock().uart = None;
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
    let mut console = CONSOLE.lock();
    // Neither of the two fails.
    let _ = writeln!(console.log, "{text}");
    if let Some(uart) = &mut console.uart {
        let _ = writeln!(Writer(uart), "trapline: {text}");
    }
}

/// Returns the last lines.
pub(super) fn log() -> String {
    CONSOLE.lock().log.text()
}

/// Writes a line like `println!`.
macro_rules! say {
    ($($text:tt)+) => { $crate::machine::console::line(format_args!($($text)+)) };
}
pub(super) use say;
