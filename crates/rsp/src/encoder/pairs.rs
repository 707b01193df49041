//! The `key:value;` pairs of stop replies, `qHostInfo`, `qProcessInfo`, `qRegisterInfo` and
//! `qMemoryRegionInfo`.
//!
//! ```text
//! T 0 5 t h r e a d : 2 ; w a t c h : f f f f 8 0 ; 1 0 : 0 0 1 0 … ;
//! │ └─┘ └─ key_text ────┘ └─ key_hex ─────────────┘ └─ register ────┘
//! └ stop
//! ```

use super::Encoder;
use crate::thread_id::ThreadSpec;

impl Encoder<'_> {
    /// Writes `T` and the signal's number, the start of a stop reply with pairs.
    pub fn stop(&mut self, signal: u8) -> &mut Self {
        self.text("T").hex_bytes(&[signal])
    }

    /// Writes `key:value;`.
    pub fn key_text(&mut self, key: &str, value: &str) -> &mut Self {
        self.text(key).text(":").text(value).text(";")
    }

    /// Writes `key:value;` with the value's `Display` form.
    pub fn key_display(&mut self, key: &str, value: impl core::fmt::Display) -> &mut Self {
        self.text(key).text(":").display(value).text(";")
    }

    /// Writes `key:value;` with the value as a hex number.
    pub fn key_hex(&mut self, key: &str, value: u64) -> &mut Self {
        self.text(key).text(":").hex_u64(value).text(";")
    }

    /// Writes `key:value;` with the text's bytes as hex digits, as LLDB wants names and triples.
    pub fn key_hex_text(&mut self, key: &str, value: &str) -> &mut Self {
        self.text(key).text(":").hex_text(value).text(";")
    }

    /// Writes `key:value;` with a thread id.
    pub fn key_thread(&mut self, key: &str, thread: ThreadSpec) -> &mut Self {
        self.text(key).text(":").thread(thread).text(";")
    }

    /// Writes an expedited register: its number, and its bytes in target order.
    pub fn register(&mut self, number: u32, bytes: &[u8]) -> &mut Self {
        // Two digits at least, as both clients' own servers write them.
        if number <= 0xff {
            let [low, ..] = number.to_le_bytes();
            self.hex_bytes(&[low]);
        } else {
            self.hex_u64(u64::from(number));
        }
        self.text(":").hex_bytes(bytes).text(";")
    }
}
