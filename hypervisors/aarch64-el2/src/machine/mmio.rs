//! Memory-mapped registers.

#![expect(unsafe_code, reason = "devices are reached by volatile accesses")]

use trapline_hypervisor::uart::Registers;

/// The registers of one device, which the hypervisor's tables map as device memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mmio {
    base: usize,
    len_bytes: usize,
}

macro_rules! accessors {
    ($read:ident $write:ident $type:ty) => {
        /// Reads the register at `offset`, or 0 if there is none.
        pub(super) fn $read(self, offset: usize) -> $type {
            if !self.has(offset, size_of::<$type>()) {
                return 0;
            }
            // SAFETY: `Mmio::new` is only given devices that are mapped; the offset is in its range
            // and aligned.
            unsafe { ((self.base + offset) as *const $type).read_volatile() }
        }

        /// Writes the register at `offset`, if there is one.
        pub(super) fn $write(self, offset: usize, value: $type) {
            if self.has(offset, size_of::<$type>()) {
                // SAFETY: as above. What devices do with it does not reach the hypervisor's memory.
                unsafe { ((self.base + offset) as *mut $type).write_volatile(value) }
            }
        }
    };
}

impl Mmio {
    /// # Safety
    /// The range is of a device, and mapped as such for as long as the program runs.
    pub(super) const unsafe fn new(base: usize, len_bytes: usize) -> Self {
        Self { base, len_bytes }
    }

    accessors!(read_8 write_8 u8);
    accessors!(read_16 write_16 u16);
    accessors!(read_32 write_32 u32);
    accessors!(read_64 write_64 u64);

    /// Reads `len_bytes` bytes.
    pub(super) fn read_sized(self, offset: usize, len_bytes: u64) -> u64 {
        match len_bytes {
            1 => self.read_8(offset).into(),
            2 => self.read_16(offset).into(),
            4 => self.read_32(offset).into(),
            _ => self.read_64(offset),
        }
    }

    /// Writes the low `len_bytes` bytes.
    #[expect(clippy::cast_possible_truncation, reason = "the low bytes are wanted")]
    pub(super) fn write_sized(self, offset: usize, len_bytes: u64, value: u64) {
        match len_bytes {
            1 => self.write_8(offset, value as u8),
            2 => self.write_16(offset, value as u16),
            4 => self.write_32(offset, value as u32),
            _ => self.write_64(offset, value),
        }
    }

    const fn has(self, offset: usize, len_bytes: usize) -> bool {
        offset.is_multiple_of(len_bytes) && offset + len_bytes <= self.len_bytes
    }
}

/// A serial port's registers, 32 bits wide.
#[derive(Debug)]
pub(super) struct UartRegisters(pub(super) Mmio, pub(super) RegisterWidth);

/// How wide the registers of a serial port are.
#[derive(Clone, Copy, Debug)]
pub(super) enum RegisterWidth {
    Byte,
    Word,
}

impl Registers for UartRegisters {
    fn read(&self, offset: usize) -> u32 {
        match self.1 {
            RegisterWidth::Byte => self.0.read_8(offset).into(),
            RegisterWidth::Word => self.0.read_32(offset),
        }
    }

    fn write(&mut self, offset: usize, value: u32) {
        match self.1 {
            #[expect(clippy::cast_possible_truncation, reason = "the register has 8 bits")]
            RegisterWidth::Byte => self.0.write_8(offset, value as u8),
            RegisterWidth::Word => self.0.write_32(offset, value),
        }
    }
}
